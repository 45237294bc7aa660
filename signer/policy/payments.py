"""When a preimage of ours may leave (DESIGN, "The signer contract": "holds their preimages and releases one only...").

The preimage is worth the invoice's amount. So it leaves only against HTLCs that the peer can no longer take back: they
stand, in the same terms, in every unrevoked version of both sides.

Parts of one payment in several channels count together when each of them stands so in its own channel. In one that
goes on, all are credited from then on. In one whose end is in the chain the HTLC has its output in whatever the peer
can still publish, and is claimed there with this preimage. The signer has no view of the chain: a stolen node can name
an HTLC of a closed channel that has timed out, just as it can release against HTLCs and then let them time out.
"""

from collections.abc import Collection, Iterable

from protocol.amounts import Msat
from protocol.bolt3.commitment import CommitmentHtlc, Side
from signer.channel_state import ChannelState, HtlcKey, key_of
from signer.policy.backup import STALE
from signer.refusal import Denied

_NEXT = "Wait until the HTLCs are committed on both sides and older commitments are revoked; else fail them."


def release_unknown() -> Denied:
    """`release-unknown`: only preimages of our own invoices."""
    return Denied(
        "release-unknown",
        "the signer releases the preimages of its own invoices only",
        seen="a payment hash of no invoice of this signer",
        limit="invoices that this signer made",
        next_step="Fail the HTLC, or fulfil it with the preimage that came from the next hop.",
    )


def release_channel(is_other: bool, channel_id: bytes) -> None:
    """`release-channel`: a set names each other channel of ours once."""
    if not is_other:
        raise Denied(
            "release-channel",
            "a release over several channels names each of the other channels once",
            seen=f"channel {channel_id.hex()}, which is unknown, named twice, or the one that asks",
            limit="other channels of this signer",
            next_step="Put all HTLCs of a channel together, those of the channel that asks in its own list.",
        )


def release_fresh(state: ChannelState) -> None:
    """`release-stale`: what an old state says of another channel proves nothing."""
    if state.frozen == STALE:
        raise Denied(
            "release-stale",
            "HTLCs of a channel that may be an old state do not count for a release in another one",
            seen="a part in a channel that came back from a backup",
            limit="channels whose state is the newest",
            next_step="Fail the HTLCs of the other channels.",
        )


def release_htlcs(state: ChannelState, payment_hash: bytes, ids: Iterable[int]) -> frozenset[HtlcKey]:
    """`release-htlcs`: the HTLCs named are received ones, with this hash, in every version of both sides."""
    wanted = frozenset(ids)
    held: frozenset[HtlcKey] | None = None
    for side, version in state.all_versions():
        found = _received(side, version.content.htlcs, payment_hash, wanted)
        held = found if held is None else held & found
    held = held or frozenset()
    if not wanted or {key[0] for key in held} != wanted:
        raise Denied(
            "release-htlcs",
            "a preimage is released for HTLCs that stand in every unrevoked commitment of both sides",
            seen=f"{len(held)} of {len(wanted)} HTLCs stand in all of them",
            limit=f"{max(len(wanted), 1)}",
            next_step=_NEXT,
        )
    return held


def _received(
    side: Side, htlcs: tuple[CommitmentHtlc, ...], payment_hash: bytes, ids: frozenset[int]
) -> frozenset[HtlcKey]:
    offered_by_holder = side is Side.HOLDER
    return frozenset(
        key_of(htlc)
        for htlc in htlcs
        if htlc.offered != offered_by_holder and htlc.id in ids and htlc.payment_hash == payment_hash
    )


def release_amount(held: Collection[frozenset[HtlcKey]], amount_msat: Msat | None) -> None:
    """`release-amount`: together the HTLCs, one set a channel, reach what the invoice asked for."""
    total = sum(key[1] for of_channel in held for key in of_channel)
    if amount_msat is not None and total < amount_msat:
        raise Denied(
            "release-amount",
            "a preimage is released when the HTLCs reach the invoice's amount",
            seen=f"{total} msat",
            limit=f"{amount_msat} msat",
            next_step="Wait for the other parts, or fail the HTLCs.",
        )
