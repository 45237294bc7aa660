"""Attribution data of an HTLC that we received, made with the keys in its row (BOLT 4, "Initialization of
`attribution_data`"; checklist 39).

It goes with our update_fulfill_htlc or update_fail_htlc whether or not that peer signals the feature: BOLT 2 asks it
of whoever supports it ("Removing an HTLC"), and there are peers that pass it on and signal nothing.
"""

from msgspec.structs import replace

from node.channel.state import Htlc
from protocol.bolt4.attribution import AttributionKeys, update
from protocol.bus.messages import channel as said
from protocol.secret import Secret

NONE_WANTED = b""
"""As the `ammagext` of a row: the HTLC came inside a blinded path, where no hop may tell how long it took."""


def attributed(
    row: Htlc | None, packet: bytes, hold_time: int, downstream: bytes | None, *, is_source: bool
) -> bytes | None:
    """What goes upstream; `packet` as in `attribution.update`. None without keys: the HTLC is inside a blinded path, or
    was peeled by a signer that is older than this."""
    if row is None or row.um is None or not row.ammagext:
        return None
    keys = AttributionKeys(Secret(row.um), Secret(row.ammagext))
    return update(keys, packet, hold_time, downstream, is_source=is_source)


def is_forward(row: Htlc) -> bool:
    """Whether we offered it in place of one that we received."""
    return row.offered and row.origin is not None and said.parse_forward_origin(row.origin) is not None


def after_its_end(row: Htlc) -> Htlc:
    """Without what is owed to nobody any more. What a failed forward was told is kept until the HTLC that it passed on
    is gone too (`store.changes`): a crash between the two must not make us silent. What came with a preimage is passed
    on with it, a round trip before this, and stands in the row of the incoming HTLC by now."""
    keeps = row.preimage is None and is_forward(row)
    if row.next_onion is None and (row.attribution is None or keeps):
        return row
    return replace(row, next_onion=None, attribution=row.attribution if keeps else None)
