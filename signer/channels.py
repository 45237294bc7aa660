"""Drawing, setting up, loading and saving channels (BOLT 2, "Channel Establishment v1")."""

import secrets
from collections.abc import Iterable

import msgspec
from msgspec.structs import replace

from protocol.bolt3.commitment import CommitmentParams, Side
from protocol.bus.messages.signer import (
    ChannelDrawn,
    ChannelSetUp,
    NewChannel,
    Numbers,
    NumbersOfChannel,
    SetupChannel,
)
from protocol.curve import is_point
from signer import storage as db
from signer.books import Books
from signer.channel import Channel
from signer.channel_state import ChannelState, first_state, from_rows, header_bytes, version_bytes
from signer.keys import COLD, NodeKeys
from signer.policy import setup as rules
from signer.policy.backup import STALE
from signer.refusal import Denied, PeerBroke
from signer.reserve import Reserve
from signer.storage import Storage

_INDEX_BITS = 31
_SIDES = ((0, Side.HOLDER), (1, Side.COUNTERPARTY))
_encode = msgspec.msgpack.Encoder().encode
_decode_setup = msgspec.msgpack.Decoder(SetupChannel).decode


def load(storage: Storage, keys: NodeKeys) -> dict[bytes, Channel]:
    found: dict[bytes, Channel] = {}
    for handle, high, low, peer, cold_index, setup, header in storage.all(
        "SELECT handle, high, low, peer, cold_index, setup, header FROM channel ORDER BY id"
    ):
        channel = Channel(handle, keys.channel(high, low), peer, cold_index)
        if setup is not None:
            rows = storage.all(
                "SELECT side, number, sequence, body FROM version WHERE channel = ? "
                "ORDER BY side, number, sequence",
                (handle,),
            )
            channel.set_up(_decode_setup(setup), from_rows(header, rows))
            channel.durable = channel.state
        channel.restored = setup is None and header is not None
        found[handle] = channel
    return found


def known(channels: dict[bytes, Channel], handle: bytes) -> Channel:
    channel = channels.get(handle)
    if channel is None:
        raise Denied(
            "channel-unknown",
            "a request names a channel whose keys this signer drew",
            seen=f"channel {handle.hex()}",
            limit=f"{len(channels)} known channels",
            next_step="Check that node and signer belong together, or restore the signer's newest backup.",
        )
    return channel


def ready(channel: Channel) -> tuple[CommitmentParams, ChannelState]:
    if channel.params is None or channel.state is None:
        raise Denied(
            "channel-not-set-up",
            "a channel is used after its parameters are fixed",
            seen=f"channel {channel.handle.hex()} without parameters",
            limit="a channel that was set up",
            next_step="Send the set-up of this channel first.",
        )
    return channel.params, channel.state


def draw(
    storage: Storage, books: Books, keys: NodeKeys, channels: dict[bytes, Channel], request: NewChannel
) -> ChannelDrawn:
    row = storage.one("SELECT handle FROM channel WHERE request_id = ?", (request.request_id,))
    if row is not None:
        channel = channels[row[0]]
        if channel.peer != request.peer:
            raise Denied(
                "channel-changed",
                "one request id draws the keys of one channel",
                seen="the same request id with another peer",
                limit="the peer of the first request",
                next_step="Use a new request id for a new channel.",
            )
    else:
        if not is_point(request.peer):
            raise PeerBroke("peer-id", "the peer's node id is no point of the curve", "BOLT 8")
        channel = _draw_new(storage, books, keys, request)
        books.keep()
        channels[channel.handle] = channel
    points = (channel.point(0), channel.point(1))
    script = keys.wallet_script(COLD, channel.cold_index)
    return ChannelDrawn(channel.handle, channel.secrets.public, points, script)


def _draw_new(storage: Storage, books: Books, keys: NodeKeys, request: NewChannel) -> Channel:
    handle = secrets.token_bytes(16)
    while True:
        high, low = secrets.randbits(_INDEX_BITS), secrets.randbits(_INDEX_BITS)
        # Two channels with the same keys: the revocation of one would give the other away.
        if storage.one("SELECT 1 FROM channel WHERE high = ? AND low = ?", (high, low)) is None:
            break
    cold_index, _ = books.draw_cold()
    row = (handle, request.request_id, high, low, request.peer, cold_index)
    books.write(db.INSERT_CHANNEL, row)
    return Channel(handle, keys.channel(high, low), request.peer, cold_index)


def set_up(books: Books, reserve: Reserve, channel: Channel, request: SetupChannel) -> ChannelSetUp:
    rules.setup_changed(channel.setup, request)
    if channel.setup is None:
        rules.funding(request)
        rules.counterparty_keys(
            request.counterparty_keys, channel.secrets.public, request.counterparty_first_point
        )
        rules.holder_terms(request.holder)
        rules.counterparty_terms(request.counterparty)
        state = first_state(request.counterparty_first_point)
        if channel.restored:
            state = replace(state, frozen=STALE)
        elif request.anchors:
            reserve.judge_channel()
        books.write(db.SET_UP_CHANNEL, (_encode(request), header_bytes(state), channel.handle))
        books.keep()
        channel.set_up(request, state)
        channel.durable = state
    return ChannelSetUp()


def numbers(channels: Iterable[Channel]) -> Numbers:
    return Numbers(
        tuple(
            NumbersOfChannel(
                channel.handle,
                state.holder_validated,
                state.holder_revoked,
                state.counterparty_signed,
                state.counterparty_revoked,
                bool(state.frozen),
            )
            for channel in channels
            if (state := channel.state) is not None
        )
    )


def save(storage: Storage, channel: Channel) -> None:
    """Writes what this turn changed: new versions, numbers that fell away, and the header."""
    old, new, handle = channel.durable, channel.state, channel.handle
    if old is None or new is None:
        raise ValueError("a channel that was never set up has no state to save")
    for code, side in _SIDES:
        before, after = old.side(side), new.side(side)
        if before is after:
            continue
        gone = [(handle, code, number) for number in before if number not in after]
        added = [
            (handle, code, number, sequence, version_bytes(version))
            for number, versions in after.items()
            for sequence, version in enumerate(versions)
            if sequence >= len(before.get(number, ()))
        ]
        if gone:
            storage.execute(db.DELETE_VERSIONS, gone)
        if added:
            storage.execute(db.INSERT_VERSION, added)
    storage.execute(db.UPDATE_HEADER, [(header_bytes(new), handle)])
