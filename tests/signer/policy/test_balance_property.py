"""However a stolen node and its peer play, no version that can be published takes what is ours."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from protocol.amounts import FeeratePerKw, Msat
from protocol.bolt3.commitment import CommitmentContent, CommitmentHtlc, Side
from signer.channel_state import ChannelState, Version, first_state, key_of, with_version, without_revoked
from signer.policy.balance import balance_claim, claim, htlc_changed, predecessors
from signer.policy.payments import release_htlcs
from signer.refusal import Denied

TOTAL, OURS = 1_000, 500
POOL = tuple((number % 2 == 0, number, 10 * (number + 1), bytes((number // 4,)) * 32) for number in range(8))
"""Offered by the holder?, id, amount, payment hash; four HTLCs share a hash, two of each direction."""
STEP = st.tuples(
    st.sampled_from(("propose", "propose", "propose", "revoke", "learn", "release")),
    st.sampled_from(tuple(Side)),
    st.integers(0, 255),
    st.sampled_from((0, 0, 1)),
    st.sampled_from(range(0, TOTAL + 1, 10)) | st.just(-1),
)


def content(side: Side, number: int, to_holder: int, mask: int) -> CommitmentContent:
    picked = [item for bit, item in enumerate(POOL) if mask >> bit & 1]
    other = TOTAL - to_holder - sum(amount for _, _, amount, _ in picked)
    ours = side is Side.HOLDER
    return CommitmentContent(
        number,
        FeeratePerKw(253),
        Msat(to_holder if ours else other),
        Msat(other if ours else to_holder),
        tuple(CommitmentHtlc(offered == ours, i, Msat(amount), h, 500) for offered, i, amount, h in picked),
    )


def masks(side: Side, versions: tuple[Version, ...]) -> int:
    return sum(1 << number for number in {htlc.id for version in versions for htlc in version.content.htlcs})


@settings(max_examples=300)
@given(st.lists(STEP, max_size=40))
def test_no_living_version_has_less_than_our_due(steps: list[tuple[str, Side, int, int, int]]) -> None:
    state: ChannelState = first_state(bytes(33))
    for side in Side:
        state = with_version(state, side, Version(content(side, 0, OURS, 0)))
    seen = dict.fromkeys(Side, 0)
    released = 0
    learned: set[bytes] = set()
    for kind, side, mask, ahead, to_holder in steps:
        newest = max(state.side(side))
        try:
            if kind == "propose":
                number = newest + ahead if newest - min(state.side(side)) < 1 else newest
                before = predecessors(state, side, number)
                mask &= ~seen[side] | masks(side, before)  # an id that left does not come back
                honest = claim(side, before[0].content, state.released)
                offered = sum(item[2] for bit, item in enumerate(POOL) if mask >> bit & 1 and item[0])
                wanted = content(side, number, honest - offered if to_holder < 0 else to_holder, mask)
                if min(wanted.to_owner_msat, wanted.to_other_msat) < 0:
                    continue
                balance_claim(state, side, wanted, htlc_changed(state, side, wanted))
                state = with_version(state, side, Version(wanted))
                seen[side] |= mask
            elif kind == "revoke":
                if newest == min(state.side(side)):
                    continue
                name = "holder_revoked" if side is Side.HOLDER else "counterparty_revoked"
                state = without_revoked(replace(state, **{name: newest}))  # type: ignore[arg-type]
            elif kind == "learn":
                payment_hash = POOL[mask % 8][3]
                alive = {
                    htlc.payment_hash
                    for owner, version in state.all_versions()
                    for htlc in version.content.htlcs
                    if htlc.offered == (owner is Side.HOLDER)
                }
                if payment_hash in alive:
                    state = replace(state, learned=state.learned | {payment_hash})
                    learned.add(payment_hash)
            else:
                _, number, amount, payment_hash = POOL[mask % 8]
                held = release_htlcs(state, payment_hash, [number])
                if not held <= state.released:
                    released += amount
                    state = replace(state, released=state.released | held)
        except Denied:
            continue
        for owner, version in state.all_versions():
            paid = sum(
                amount
                for bit, (offered, _, amount, payment_hash) in enumerate(POOL)
                if offered and payment_hash in learned and seen[owner] >> bit & 1
            )
            assert claim(owner, version.content, state.released) >= OURS + released - paid


@pytest.mark.parametrize("side", list(Side))
def test_the_claim_counts_what_would_come_back_and_what_was_released(side: Side) -> None:
    both = content(side, 1, 300, 0b11)
    received = next(htlc for htlc in both.htlcs if htlc.id == 1)
    assert claim(side, both, frozenset()) == 300 + 10
    assert claim(side, both, frozenset({key_of(received)})) == 300 + 10 + 20
