"""The TLV payload of one hop (BOLT 4, "`payload` format"; bLIP 3, "Spontaneous payments").

Blinded routes are not offered by this node yet, so their fields (types 10, 12 and 18) are refused like any
other even type that is not known.
"""

from msgspec import Struct

from protocol.amounts import BlockHeight, Msat, ShortChannelId
from protocol.bolt4.sphinx import InvalidOnionPayload
from protocol.errors import CommandRefused, MalformedMessage
from protocol.wire.bigsize import read_bigsize, write_bigsize

AMT_TO_FORWARD = 2
OUTGOING_CLTV_VALUE = 4
SHORT_CHANNEL_ID = 6
PAYMENT_DATA = 8
PAYMENT_METADATA = 16
KEYSEND_PREIMAGE = 5482373484
"""bLIP 3: the preimage of a payment for which there is no invoice."""
_KNOWN = frozenset(
    {
        AMT_TO_FORWARD,
        OUTGOING_CLTV_VALUE,
        SHORT_CHANNEL_ID,
        PAYMENT_DATA,
        PAYMENT_METADATA,
        KEYSEND_PREIMAGE,
    }
)

_Records = dict[int, tuple[bytes, int]]
"""The value and the offset of each known record."""


class ForwardPayload(Struct, frozen=True):
    """What a forwarding node is told."""

    short_channel_id: ShortChannelId
    amt_to_forward: Msat
    outgoing_cltv_value: BlockHeight


class FinalPayload(Struct, frozen=True):
    """What the recipient is told.

    When the sender left `payment_secret` out it is None, and `total_msat` equals `amt_to_forward`; to answer
    `incorrect_or_unknown_payment_details` is for the recipient.
    """

    amt_to_forward: Msat
    outgoing_cltv_value: BlockHeight
    payment_secret: bytes | None
    total_msat: Msat
    payment_metadata: bytes | None = None
    keysend_preimage: bytes | None = None
    others: tuple[tuple[int, bytes], ...] = ()
    """Further records that the sender adds; those that we do not know are not kept when decoding."""


def encode_forward(payload: ForwardPayload) -> bytes:
    return b"".join(
        (
            _record(AMT_TO_FORWARD, _truncated(payload.amt_to_forward)),
            _record(OUTGOING_CLTV_VALUE, _truncated(payload.outgoing_cltv_value)),
            _record(SHORT_CHANNEL_ID, payload.short_channel_id.to_bytes(8, "big")),
        )
    )


def encode_final(payload: FinalPayload) -> bytes:
    records = [
        _record(AMT_TO_FORWARD, _truncated(payload.amt_to_forward)),
        _record(OUTGOING_CLTV_VALUE, _truncated(payload.outgoing_cltv_value)),
    ]
    if payload.payment_secret is not None:
        records.append(_record(PAYMENT_DATA, payload.payment_secret + _truncated(payload.total_msat)))
    if payload.payment_metadata is not None:
        records.append(_record(PAYMENT_METADATA, payload.payment_metadata))
    others = list(payload.others)
    if payload.keysend_preimage is not None:
        others.append((KEYSEND_PREIMAGE, payload.keysend_preimage))
    if others:
        others.sort()
        if others[0][0] <= PAYMENT_METADATA or len({tlv_type for tlv_type, _ in others}) != len(others):
            raise CommandRefused(
                "a further record has a type that is taken already",
                what_to_do=f"Use types above {PAYMENT_METADATA}, each once.",
            )
        records.extend(_record(tlv_type, value) for tlv_type, value in others)
    return b"".join(records)


def decode_forward(payload: bytes) -> ForwardPayload:
    """Raises `InvalidOnionPayload` naming the record that is wrong, missing or out of place."""
    records = _records(payload)
    _refuse(records, PAYMENT_DATA, "payment_data is for the last node only")
    _refuse(records, KEYSEND_PREIMAGE, "a preimage is for the last node only")
    scid, offset = _need(records, SHORT_CHANNEL_ID)
    if len(scid) != 8:
        raise InvalidOnionPayload("a short_channel_id has 8 bytes", SHORT_CHANNEL_ID, offset)
    return ForwardPayload(
        short_channel_id=ShortChannelId(int.from_bytes(scid, "big")),
        amt_to_forward=Msat(_integer(records, AMT_TO_FORWARD, 8)),
        outgoing_cltv_value=BlockHeight(_integer(records, OUTGOING_CLTV_VALUE, 4)),
    )


def decode_final(payload: bytes) -> FinalPayload:
    """Raises `InvalidOnionPayload` naming the record that is wrong, missing or out of place."""
    records = _records(payload)
    _refuse(records, SHORT_CHANNEL_ID, "the last node forwards nothing")
    amount = _integer(records, AMT_TO_FORWARD, 8)
    expiry = _integer(records, OUTGOING_CLTV_VALUE, 4)
    secret, total = None, amount
    if PAYMENT_DATA in records:
        data, offset = records[PAYMENT_DATA]
        if len(data) < 32:
            raise InvalidOnionPayload("payment_data is cut short", PAYMENT_DATA, offset)
        secret, total = data[:32], _read_truncated(data[32:], 8, PAYMENT_DATA, offset)
    metadata = records[PAYMENT_METADATA][0] if PAYMENT_METADATA in records else None
    keysend = None
    if KEYSEND_PREIMAGE in records:
        keysend, offset = records[KEYSEND_PREIMAGE]
        if len(keysend) != 32:
            raise InvalidOnionPayload("a preimage has 32 bytes", KEYSEND_PREIMAGE, offset)
    return FinalPayload(Msat(amount), BlockHeight(expiry), secret, Msat(total), metadata, keysend)


def _records(payload: bytes) -> _Records:
    """The known records; BOLT 1, "Type-Length-Value Format", the receiving node."""
    records: _Records = {}
    at, end, previous = 0, len(payload), -1
    while at < end:
        offset, tlv_type = at, 0
        try:
            tlv_type, at = read_bigsize(payload, at, end)
            length, at = read_bigsize(payload, at, end)
        except MalformedMessage as error:
            raise InvalidOnionPayload(str(error), tlv_type, offset) from error
        if tlv_type <= previous:
            raise InvalidOnionPayload("the records are not in rising order", tlv_type, offset)
        if length > end - at:
            raise InvalidOnionPayload("a record ends after the payload", tlv_type, offset)
        if tlv_type in _KNOWN:
            records[tlv_type] = payload[at : at + length], offset
        elif tlv_type % 2 == 0:
            raise InvalidOnionPayload(f"the even record type {tlv_type} is not known", tlv_type, offset)
        previous = tlv_type
        at += length
    return records


def _need(records: _Records, tlv_type: int) -> tuple[bytes, int]:
    try:
        return records[tlv_type]
    except KeyError:
        raise InvalidOnionPayload(f"record {tlv_type} is missing", tlv_type) from None


def _refuse(records: _Records, tlv_type: int, why: str) -> None:
    if tlv_type in records:
        raise InvalidOnionPayload(why, tlv_type, records[tlv_type][1])


def _integer(records: _Records, tlv_type: int, size: int) -> int:
    value, offset = _need(records, tlv_type)
    return _read_truncated(value, size, tlv_type, offset)


def _read_truncated(value: bytes, size: int, tlv_type: int, offset: int) -> int:
    """tu32 and tu64: without leading zeros."""
    if len(value) > size or value[:1] == b"\x00":
        raise InvalidOnionPayload("an integer is too long or starts with zeros", tlv_type, offset)
    return int.from_bytes(value, "big")


def _truncated(value: int) -> bytes:
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def _record(tlv_type: int, value: bytes) -> bytes:
    return write_bigsize(tlv_type) + write_bigsize(len(value)) + value
