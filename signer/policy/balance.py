"""What is ours stays ours: the balance rules over version sets (DESIGN, "Version sets").

The *claim* of a version is what the holder is entitled to in it: its balance, every HTLC that it offered (it comes
back unless the peer shows the preimage), and every received HTLC whose preimage we gave out.

A new version X of number n may stand on a side only if it *follows* from at least one version Y of number n-1 of that
side (when n-1 is revoked, of number n itself), which means that HTLCs which stay keep their terms, and

    claim(X) >= claim(Y) - (offered HTLCs of Y that X lacks, whose preimage the peer has shown).

Why that is sound. Every version that the peer can publish is the end of a path of such steps from the opening. Along
the path the claim falls only by offered HTLCs, each bought with its preimage; so no version has less than the opening
balance, plus what was released, less what was bought. A release raises claims of versions that are already granted.
So it needs the HTLC, in equal terms, in *every* unrevoked version of both sides (`policy.payments`), and the claims of
all of them rise together: here the worst case over the set is taken.

Why one Y is enough, and all would be too many. After a crash between signer and node a version can stand in the set
that the node has forgotten and the peer never saw. What is added beside it and fulfilled one number later would be
missing in X and was never in Y, so honest traffic would be refused for as long as that version lives. The peer gains
nothing by the choice: what it gets in X it can get by publishing the Y that X follows from.

Why sides are not compared with each other. Both begin at the same claim, and both keep the inequality with the same
`released` and `learned`. A fulfilled HTLC leaves the two sides at different times, and in between their claims differ
lawfully; the promise that binds the slower side is the HTLC in its own versions, which stays until that side credits
it. A comparison across would therefore refuse honest traffic and add nothing.

Why honest traffic passes. It makes X out of the Y that the peer acknowledged. Adding moves an amount from a balance
into an HTLC of the same side; failing moves it back; neither changes a claim. An offered HTLC that is fulfilled costs
its amount, after its preimage. A received one that is fulfilled adds at least nothing. Fees are not in the balances of
a content. Ids come again only for HTLCs that were not committed (BOLT 2), and those are not in that Y.
"""

from protocol.amounts import Msat, Sat, to_msat
from protocol.bolt3.commitment import CommitmentContent, CommitmentHtlc, Side
from signer.channel_state import ChannelState, HtlcKey, Version, key_of
from signer.refusal import Denied


def claim(side: Side, content: CommitmentContent, released: frozenset[HtlcKey]) -> int:
    """What the holder is entitled to in this commitment of `side`, in millisatoshi."""
    of_holder = side is Side.HOLDER
    total: int = content.to_side(side, Side.HOLDER)
    for htlc in content.htlcs:
        # Seen from the holder; `released` is empty for most channels at most times.
        if htlc.offered == of_holder or (released and key_of(htlc) in released):
            total += htlc.amount_msat
    return total


def predecessors(state: ChannelState, side: Side, number: int) -> tuple[Version, ...]:
    """The versions that a new version of `number` is held against."""
    versions = state.side(side)
    return versions.get(number - 1) or versions.get(number, ())


def _bought(
    side: Side, before: CommitmentContent, after: CommitmentContent, learned: frozenset[bytes]
) -> int:
    """Offered HTLCs of `before` that `after` lacks, and for which the peer showed the preimage."""
    if not learned:
        return 0
    of_holder = side is Side.HOLDER
    kept = {key_of(htlc) for htlc in after.htlcs if htlc.offered == of_holder}
    return sum(
        htlc.amount_msat
        for htlc in before.htlcs
        if htlc.offered == of_holder and htlc.payment_hash in learned and key_of(htlc) not in kept
    )


def htlc_changed(state: ChannelState, side: Side, content: CommitmentContent) -> tuple[Version, ...]:
    """`htlc-changed`: an HTLC that stays keeps its terms. The versions that this content can follow from."""
    before = predecessors(state, side, content.number)
    if not before or before[0].content.number == content.number:
        return before
    terms = {(htlc.offered, htlc.id): htlc for htlc in content.htlcs}
    agreeing = tuple([version for version in before if _agrees(version.content, terms)])
    if not agreeing:
        raise Denied(
            "htlc-changed",
            "an HTLC keeps its amount, payment hash and expiry",
            seen=f"an HTLC of commitment {content.number - 1} with other terms in {content.number}",
            limit="the terms that it was added with",
            next_step="Add a new HTLC under a new id.",
        )
    return agreeing


def _agrees(before: CommitmentContent, terms: dict[tuple[bool, int], CommitmentHtlc]) -> bool:
    for htlc in before.htlcs:
        now = terms.get((htlc.offered, htlc.id))
        if now is not None and now != htlc:
            return False
    return True


def balance_claim(
    state: ChannelState, side: Side, content: CommitmentContent, before: tuple[Version, ...]
) -> None:
    """`balance-claim`: see the module. `before`: the versions that this content can follow from."""
    if not before:
        return
    ours = claim(side, content, state.released)
    due = min(
        claim(side, version.content, state.released) - _bought(side, version.content, content, state.learned)
        for version in before
    )
    if ours < due:
        raise Denied(
            "balance-claim",
            "what is ours leaves a commitment only against a preimage, and a released preimage is credited",
            seen=f"{ours} msat are ours in commitment {content.number} of the {side.value}",
            limit=f"at least {due} msat",
            next_step="Hand over the preimages of fulfilled HTLCs first; credit what was released.",
        )


def opening_balance(
    content: CommitmentContent, side: Side, capacity: Sat, push_msat: Msat, *, holder_is_opener: bool
) -> None:
    """`opening-balance`: the first commitments share the capacity as the open said, without HTLCs."""
    if content.number != 0:
        return
    to_opener = to_msat(capacity) - push_msat
    opener = Side.HOLDER if holder_is_opener else Side.COUNTERPARTY
    if content.htlcs or content.to_side(side, opener) != to_opener:
        raise Denied(
            "opening-balance",
            "commitment 0 gives the opener the capacity less what it pushed, and has no HTLC",
            seen=f"{content.to_side(side, opener)} msat to the opener, {len(content.htlcs)} HTLCs",
            limit=f"{to_opener} msat, 0 HTLCs",
            next_step="Ask for commitment 0 with the balances of the open.",
        )
