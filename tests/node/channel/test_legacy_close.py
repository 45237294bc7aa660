"""The fee of a close that the opener pays alone (BOLT 2, "Legacy Closing Negotiation: `closing_signed`")."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from node.channel.content import commitment_params
from node.channel.events import CloseWanted, FromPeer
from node.channel.state import Normal, Offline, ShuttingDown
from protocol import curve
from protocol.amounts import FEERATE_FLOOR, FeeratePerKw, Sat, floor_sat
from protocol.bitcoin.transaction import Transaction
from protocol.bolt3 import closing
from protocol.bolt3.commitment import Side
from protocol.wire.bolt1 import Warning
from protocol.wire.bolt2_close import ClosingSigned, ClosingSignedTlvs, FeeRange, Shutdown
from protocol.wire.message import Message, decode
from tests.node.channel.pair import End, Pair, open_channel
from tests.node.channel.test_peer_ends import closes, until_proposed


def opened(folder: Path, *, push: int = 3_000_000_000) -> Pair:
    pair = Pair(folder)
    open_channel(pair, push=push)
    return pair


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return opened(tmp_path)


def said_by(end: End) -> list[Message]:
    return [message for frame in end.out.waiting if isinstance(message := decode(frame), Message)]


def signed(
    end: End, fee: int, fee_range: tuple[int, int] | None, *, omit: Side | None = None
) -> ClosingSigned:
    """This end's closing_signed for this fee, with the key that it has."""
    committed = end.state.committed
    phase = committed.phase
    assert isinstance(phase, ShuttingDown)
    assert phase.theirs is not None
    (channel,) = end.signer._channels.values()
    close = closing.build(
        commitment_params(committed.params),
        floor_sat(committed.settled_local),
        floor_sat(committed.settled_remote),
        committed.params.holder_script,
        phase.theirs,
        Sat(fee),
        omit=omit,
    )
    signature = curve.sign_ecdsa(channel.secrets.funding.reveal(), close.digest)
    known = None if fee_range is None else FeeRange(Sat(fee_range[0]), Sat(fee_range[1]))
    return ClosingSigned(committed.params.channel_id, Sat(fee), signature, ClosingSignedTlvs(fee_range=known))


def says(end: End, message: ClosingSigned) -> ClosingSigned | None:
    """What this end answers."""
    end.out.waiting.clear()
    end.do(FromPeer(message))
    while end.answer():
        pass
    found = [answer for answer in said_by(end) if isinstance(answer, ClosingSigned)]
    return found[-1] if found else None


def range_of(message: ClosingSigned) -> FeeRange:
    assert message.tlvs.fee_range is not None
    return message.tlvs.fee_range


def test_the_opener_speaks_first_and_the_other_waits_for_it(pair: Pair) -> None:
    """checklist 54"""
    until_proposed(pair)  # and it is lost
    pair.quiet()
    assert said_by(pair.bob) == []
    assert isinstance(pair.bob.state.committed.phase, ShuttingDown)
    assert not pair.bob.published
    closes(pair)


def test_a_proposal_before_both_said_shutdown_costs_the_connection(pair: Pair) -> None:
    """checklist 54"""
    pair.bob.do(CloseWanted())
    (shutdown,) = said_by(pair.bob)
    assert isinstance(shutdown, Shutdown)
    early = ClosingSigned(shutdown.channel_id, Sat(500), curve.sign_ecdsa(b"\x07" * 32, b"\x08" * 32))
    assert says(pair.bob, early) is None
    assert "before the channel is clear" in pair.bob.drops[0].reason
    pair.bob.drops.clear()
    closes(pair)


def test_a_fee_in_our_range_is_taken_and_said_back(pair: Pair) -> None:
    """checklist 54: with the fee of the other, if that is not what we said ourselves."""
    proposed = until_proposed(pair)
    ours = range_of(proposed)
    pair.quiet()
    fee = ours.max_fee_satoshis
    assert fee != proposed.fee_satoshis
    answer = says(pair.alice, signed(pair.bob, fee, (1, 100_000)))
    assert answer is not None
    assert answer.fee_satoshis == fee
    (raw,) = pair.alice.published
    tx = Transaction.parse(raw)
    assert sum(output.value for output in tx.outputs) == 10_000_000 - fee
    assert (tx.inputs[0].sequence, tx.locktime) == (0xFFFFFFFF, 0)
    pair.quiet()
    assert pair.bob.published == [raw]


def test_the_opener_pays_three_times_its_own_fee_at_most(pair: Pair) -> None:
    """The peer pays nothing of it, so it may ask for anything. checklist 54"""
    proposed = until_proposed(pair)
    pair.quiet()
    most = 3 * proposed.fee_satoshis
    assert range_of(proposed).max_fee_satoshis == most
    answer = says(pair.alice, signed(pair.bob, most + 1, (1, 100_000)))
    assert answer is not None
    assert answer.fee_satoshis == most
    assert not pair.alice.published


def test_who_does_not_pay_picks_a_fee_where_both_ranges_overlap(pair: Pair) -> None:
    """checklist 54"""
    until_proposed(pair)
    pair.quiet()
    tiny = signed(pair.alice, 20, (20, 400))
    answer = says(pair.bob, tiny)
    assert answer is not None
    low = closing.closing_fee(FEERATE_FLOOR, *(end.state.committed.params.holder_script for end in pair.ends))
    assert answer.fee_satoshis == range_of(answer).min_fee_satoshis == low
    assert 20 < low <= 400
    agreed = says(pair.alice, answer)  # who had said something else in truth
    assert agreed is not None
    assert agreed.fee_satoshis == low
    assert says(pair.bob, agreed) is None
    assert pair.alice.published == pair.bob.published != []


@pytest.mark.parametrize("theirs", [(1, 20), (2_000_000, 2_500_000)])
def test_ranges_that_do_not_overlap_end_the_connection_and_not_the_channel(
    pair: Pair, theirs: tuple[int, int]
) -> None:
    """checklist 54: a warning; the peer may say a better range on the next connection."""
    until_proposed(pair)
    pair.quiet()
    assert says(pair.bob, signed(pair.alice, theirs[0], theirs)) is None
    assert "no closing fee suits both" in pair.bob.drops[0].reason
    assert isinstance(pair.bob.drops[0].messages[0], Warning)
    assert isinstance(pair.bob.state.volatile.link, Offline)
    assert not pair.bob.published
    pair.bob.drops.clear()
    closes(pair)


def test_without_ranges_the_answer_lies_strictly_between(pair: Pair) -> None:
    """checklist 54"""
    pair.alice.do(CloseWanted(FeeratePerKw(1000)))
    first = until_proposed(pair)
    pair.quiet()
    ours, high = first.fee_satoshis, range_of(first).max_fee_satoshis
    asked = high + 500
    answer = says(pair.alice, signed(pair.bob, asked, None))
    assert answer is not None
    assert ours < answer.fee_satoshis < asked
    assert not pair.alice.published
    assert says(pair.alice, signed(pair.bob, answer.fee_satoshis, None)) is None
    assert len(pair.alice.published) == 1


@pytest.mark.parametrize("again", [0, 1_000], ids=["the same", "further away"])
def test_without_ranges_a_peer_that_does_not_come_nearer_is_left(pair: Pair, again: int) -> None:
    """checklist 54: else the two would go on for ever, and our signer with them."""
    first = until_proposed(pair)
    pair.quiet()
    asked = range_of(first).max_fee_satoshis + 500
    assert says(pair.alice, signed(pair.bob, asked, None)) is not None
    assert says(pair.alice, signed(pair.bob, asked + again, None)) is None
    assert "is not between the last ones" in pair.alice.drops[0].reason
    assert isinstance(pair.alice.drops[0].messages[0], Warning)
    assert not pair.alice.published
    pair.alice.drops.clear()
    closes(pair)


def test_with_ranges_a_fee_outside_of_ours_is_answered_once(pair: Pair) -> None:
    """checklist 54: the ranges overlap, so the second answer has to lie there."""
    first = until_proposed(pair)
    pair.quiet()
    high = range_of(first).max_fee_satoshis
    wish = signed(pair.bob, high + 100, (high - 10, high + 100))
    answer = says(pair.alice, wish)
    assert answer is not None
    assert answer.fee_satoshis == high
    assert says(pair.alice, wish) is None
    assert "again outside of our range" in pair.alice.drops[0].reason
    pair.alice.drops.clear()
    closes(pair)


@pytest.mark.parametrize("push", [353_999, 354_000])
def test_a_balance_below_the_dust_limit_is_left_out(tmp_path: Path, push: int) -> None:
    """checklist 54: 354 sat may be paid to every script that a shutdown may name."""
    pair = opened(tmp_path, push=push)
    pair.alice.do(CloseWanted())
    pair.quiet()
    assert pair.alice.published == pair.bob.published
    tx = Transaction.parse(pair.alice.published[0])
    assert len(tx.outputs) == 1 + (push == 354_000)
    assert not any(isinstance(end.state.committed.phase, Normal) for end in pair.ends)


def test_a_peer_may_leave_its_own_output_out(tmp_path: Path) -> None:
    """checklist 54: its dust limit may be higher than ours; what it gives up goes to the miners."""
    pair = opened(tmp_path, push=400_000)
    first = until_proposed(pair)
    answer = signed(pair.bob, first.fee_satoshis, None, omit=Side.HOLDER)
    said = says(pair.alice, answer)
    assert said is not None
    assert said.signature != first.signature
    (output,) = Transaction.parse(pair.alice.published[0]).outputs
    assert output.script_pubkey == pair.alice.state.committed.params.holder_script


def test_a_peer_may_not_leave_our_output_out(tmp_path: Path) -> None:
    """checklist 54"""
    pair = opened(tmp_path, push=400_000)
    first = until_proposed(pair)
    assert says(pair.alice, signed(pair.bob, first.fee_satoshis, None, omit=Side.COUNTERPARTY)) is None
    assert "signature on the closing transaction is wrong" in pair.alice.drops[0].reason
    assert not pair.alice.published


def test_what_is_dust_to_the_peer_is_left_out_of_our_proposal(tmp_path: Path) -> None:
    """checklist 54: it would take its own output out, and our signature would not fit."""
    pair = opened(tmp_path, push=400_000)
    params = pair.alice.state.committed.params
    limits = replace(params.counterparty, dust_limit=Sat(546))
    pair.alice.state.committed.params = replace(params, counterparty=limits)
    first = until_proposed(pair)
    assert says(pair.alice, signed(pair.bob, first.fee_satoshis, None, omit=Side.HOLDER)) is None, "agreed"
    assert len(Transaction.parse(pair.alice.published[0]).outputs) == 1
