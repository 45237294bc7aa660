"""What the node refuses by itself before it asks the signer: fee reserve, and what commitments may cost (DESIGN, "The
fee reserve"; BOLT 3, "Fees")."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from node.channel import terms
from node.channel.limits import Totals
from node.channel.reserve import check_offer
from node.channel.state import Htlc, OfferWant, State
from protocol import reserve as numbers
from protocol.amounts import FeeratePerKw, Msat, Sat
from protocol.bus.messages.reserve import ReserveChanged
from protocol.errors import CommandRefused
from tests.node.channel.pair import Pair, open_channel

SLOT = Msat(numbers.PER_HTLC * 1000)


def room(present: int, mode: str = "enforce") -> ReserveChanged:
    return ReserveChanged(mode, Sat(0), Sat(present), 1, 0, "bcrt1address")


@pytest.fixture
def state(tmp_path: Path) -> State:
    pair = Pair(tmp_path)
    open_channel(pair, anchors=True)
    assert pair.alice.state is not None
    return pair.alice.state


def row(number: int, amount: int) -> Htlc:
    return Htlc(True, number, Msat(amount), bytes(32), 500)


def test_an_htlc_is_covered_while_the_reserve_lasts(state: State) -> None:
    held = replace(state, htlcs={(True, n): row(n, SLOT) for n in range(3)})
    enough = numbers.needed(1, 4)
    check_offer(room(enough), [held], SLOT)
    with pytest.raises(CommandRefused, match=f"{enough - 1} sat, and {enough} sat are needed") as refused:
        check_offer(room(enough - 1), [held], SLOT)
    assert "send 1 sat to bcrt1address" in refused.value.what_to_do


def test_small_htlcs_take_no_slot(state: State) -> None:
    held = replace(state, htlcs={(True, n): row(n, SLOT - 1) for n in range(300)})
    check_offer(room(numbers.needed(1, 1)), [held], SLOT)
    check_offer(room(0), [held], Msat(SLOT - 1))
    with pytest.raises(CommandRefused):
        check_offer(room(numbers.needed(1, 1) - 1), [held], SLOT)


def test_every_channel_with_anchors_counts(state: State) -> None:
    check_offer(room(numbers.needed(2, 1)), [state, state], SLOT)
    with pytest.raises(CommandRefused):
        check_offer(room(numbers.needed(2, 1) - 1), [state, state], SLOT)


def test_a_full_reserve_and_a_signer_in_shadow_refuse_nothing(state: State) -> None:
    held = replace(state, htlcs={(True, n): row(n, SLOT) for n in range(400)})
    check_offer(room(numbers.MAX_RESERVE), [held] * 20, SLOT)
    check_offer(room(0, "shadow"), [held], SLOT)
    check_offer(None, [held], SLOT)
    with pytest.raises(CommandRefused):
        check_offer(room(numbers.MAX_RESERVE - 1), [held] * 20, SLOT)


def test_a_channel_whose_commitment_costs_too_much_is_not_opened() -> None:
    terms.check_burn(Sat(400_000), FeeratePerKw(69_000), anchors=False)
    with pytest.raises(CommandRefused, match="50000 is the most"):
        terms.check_burn(Sat(400_000), FeeratePerKw(70_000), anchors=False)
    terms.check_burn(Sat(1_000_000), FeeratePerKw(70_000), anchors=False)


def test_an_offer_that_makes_our_commitment_too_dear_is_refused(state: State) -> None:
    """As the opener we pay for every output; the signer bounds it, and so do we before we ask."""
    limit = Sat(max(50_000, state.committed.params.capacity // 10))
    rate = state.committed.fees[0].feerate_per_kw
    fits = (limit - 660 - 1124 * rate // 1000) * 1000 // (172 * rate)
    assert fits > 3
    want = OfferWant(Msat(1_000), bytes(32), 500, b"", "origin")

    def totals(count: int, settled: int) -> Totals:
        made = Totals(state.committed, {})
        made.received_count = count
        return made

    totals(fits - 2, 0).check_offer(want)
    with pytest.raises(CommandRefused, match="the most that we pay for one of this channel"):
        totals(fits + 1, 0).check_offer(want)
    assert totals(0, 0).affords_rate(rate)
    assert not totals(fits + 1, 0).affords_rate(rate)
