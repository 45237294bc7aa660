"""Each side pays for its own closing transaction (BOLT 2, "Closing Negotiation: `closing_complete` and `closing_sig`";
checklist 55)."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from node.channel.content import commitment_params
from node.channel.events import CloseWanted, FromPeer, FundingSpent, Offer
from node.channel.state import Closed, CloseKind, Closing, OfferWant, Offline, ShuttingDown
from protocol import curve
from protocol.amounts import BlockHeight, FeeratePerKw, Msat, Sat
from protocol.bitcoin.script import p2wpkh
from protocol.bitcoin.transaction import Transaction
from protocol.errors import CommandRefused
from protocol.wire.bolt1 import Warning
from protocol.wire.bolt2_close import ClosingComplete, ClosingSig, ClosingSigned, ClosingTlvs, Shutdown
from protocol.wire.message import Message, decode, encode
from tests.node.channel.pair import End, Pair, open_channel

JUNK = curve.sign_ecdsa(b"\x07" * 32, b"\x08" * 32)
ELSEWHERE = p2wpkh(curve.point_of(b"\x09" * 32))


def opened(folder: Path, *, push: int = 3_000_000_000, funding: int = 10_000_000) -> Pair:
    pair = Pair(folder)
    pair.simple_close = True
    open_channel(pair, push=push, funding=funding)
    return pair


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return opened(tmp_path)


def sent_by(pair: Pair, end: End, kind: type[Message]) -> Message:
    """Moves all else until the oldest message of this end is of this kind."""
    for _ in range(200):
        if end.out.waiting and isinstance(found := decode(end.out.waiting[0]), kind):
            return found
        other = pair.other(end)
        if not (end.answer() or pair.deliver(end) or other.answer() or pair.deliver(other)):
            break
    raise AssertionError(f"{end.name} never sent {kind.__name__}")


def instead(pair: Pair, sender: End, message: Message) -> End:
    """The other end gets this in place of the oldest message of the sender."""
    sender.out.waiting.popleft()
    receiver = pair.other(sender)
    while receiver.answer():
        pass
    received = decode(encode(message))
    assert isinstance(received, Message)
    receiver.do(FromPeer(received))
    return receiver


def accused(end: End, words: str) -> None:
    assert isinstance(end.state.volatile.link, Offline)
    assert words in end.drops[-1].reason
    assert isinstance(end.drops[-1].messages[0], Warning)


def closing_of(end: End) -> Transaction:
    phase = end.state.committed.phase
    assert isinstance(phase, Closing)
    assert phase.kind is CloseKind.MUTUAL
    return Transaction.parse(phase.tx)


def paid(tx: Transaction) -> dict[bytes, int]:
    return {output.script_pubkey: output.value for output in tx.outputs}


def test_both_sides_get_a_transaction_that_they_pay_for(pair: Pair) -> None:
    """checklist 55"""
    pair.alice.do(CloseWanted())
    pair.quiet()
    for end in pair.ends:
        assert not end.drops
        assert len(end.published) == 2  # its own, and the one that the other pays for
    ours, theirs = (end.state.committed.params.holder_script for end in pair.ends)
    one, two = (Transaction.parse(raw) for raw in sorted(set(pair.alice.published)))
    assert set(pair.alice.published) == set(pair.bob.published)
    for tx in (one, two):
        assert (tx.version, tx.locktime, tx.inputs[0].sequence) == (2, 0, 0xFFFFFFFD)
        assert len(tx.inputs[0].witness) == 4
    amounts = sorted((paid(tx)[ours], paid(tx)[theirs]) for tx in (one, two))
    fee = 10_000_000 - sum(amounts[0])
    assert amounts == [(7_000_000 - fee, 3_000_000), (7_000_000, 3_000_000 - fee)]


def test_the_side_with_more_signs_two_forms_and_the_one_with_less_signs_one(pair: Pair) -> None:
    """checklist 55"""
    pair.bob.do(CloseWanted())
    more = sent_by(pair, pair.alice, ClosingComplete)
    assert more.tlvs.closer_output_only is not None
    assert more.tlvs.closee_output_only is None
    assert more.tlvs.closer_and_closee_outputs is not None
    less = sent_by(pair, pair.bob, ClosingComplete)
    assert less.tlvs == ClosingTlvs(closer_and_closee_outputs=less.tlvs.closer_and_closee_outputs)


def test_who_has_nothing_proposes_nothing(tmp_path: Path) -> None:
    """checklist 55"""
    pair = opened(tmp_path, push=0)
    pair.alice.do(CloseWanted())
    pair.quiet()
    assert paid(closing_of(pair.bob)) == paid(closing_of(pair.alice))
    assert len(pair.alice.published) == 1
    assert list(paid(closing_of(pair.alice))) == [pair.alice.state.committed.params.holder_script]


def test_a_dust_output_of_the_closee_is_left_out(tmp_path: Path) -> None:
    """checklist 55"""
    pair = opened(tmp_path, push=293_000)
    pair.alice.do(CloseWanted())
    complete = sent_by(pair, pair.alice, ClosingComplete)
    assert complete.tlvs == ClosingTlvs(closer_output_only=complete.tlvs.closer_output_only)
    pair.quiet()
    assert list(paid(closing_of(pair.bob))) == [pair.alice.state.committed.params.holder_script]


def test_without_the_feature_the_legacy_negotiation_is_used(tmp_path: Path) -> None:
    """Checklist 54: sequence 0xFFFFFFFF, and one transaction."""
    pair = Pair(tmp_path)
    open_channel(pair, push=3_000_000_000)
    pair.alice.do(CloseWanted())
    pair.quiet()
    assert closing_of(pair.alice).inputs[0].sequence == 0xFFFFFFFF
    assert set(pair.alice.published) == set(pair.bob.published)
    assert len(set(pair.alice.published)) == 1


def test_the_close_asked_again_at_a_higher_feerate_replaces_it(pair: Pair) -> None:
    """checklist 55"""
    pair.alice.do(CloseWanted(FeeratePerKw(500)))
    pair.quiet()
    first = sum(paid(closing_of(pair.alice)).values())
    pair.alice.do(CloseWanted(FeeratePerKw(5000)))
    pair.quiet()
    assert not pair.alice.drops + pair.bob.drops
    second = closing_of(pair.alice)
    assert sum(paid(second).values()) < first
    assert second.txid == closing_of(pair.bob).txid
    assert second.serialize() in pair.bob.published


def test_a_replacement_pays_more(pair: Pair) -> None:
    """checklist 55"""
    pair.alice.do(CloseWanted(FeeratePerKw(5000)))
    pair.quiet()
    with pytest.raises(CommandRefused, match="already"):
        pair.alice.do(CloseWanted(FeeratePerKw(500)))
    assert not pair.alice.asks


def test_a_replacement_waits_for_the_answer_to_the_last_one(pair: Pair) -> None:
    pair.alice.do(CloseWanted())
    pair.quiet()
    pair.alice.do(CloseWanted(FeeratePerKw(5000)))
    pair.alice.answer()
    with pytest.raises(CommandRefused, match="not answered"):
        pair.alice.do(CloseWanted(FeeratePerKw(6000)))


def test_a_replacement_needs_the_peer(pair: Pair) -> None:
    pair.alice.do(CloseWanted())
    pair.quiet()
    pair.disconnect()
    with pytest.raises(CommandRefused, match="connected"):
        pair.alice.do(CloseWanted(FeeratePerKw(5000)))


def test_after_a_reconnection_the_close_can_be_replaced_again(pair: Pair) -> None:
    """Checklist 28: shutdown is sent again, and the negotiation begins anew."""
    pair.alice.do(CloseWanted())
    pair.quiet()
    pair.disconnect()
    pair.connect()
    pair.quiet()
    before = closing_of(pair.alice).txid
    pair.bob.do(CloseWanted(FeeratePerKw(20_000)))
    pair.quiet()
    assert not pair.alice.drops + pair.bob.drops
    assert closing_of(pair.alice).txid == closing_of(pair.bob).txid != before


def test_a_confirmed_close_answers_no_more(pair: Pair) -> None:
    pair.alice.do(CloseWanted())
    pair.quiet()
    tx = closing_of(pair.bob).serialize()
    for end in pair.ends:
        end.do(FundingSpent(tx, BlockHeight(120), 1))
    pair.alice.do(CloseWanted(FeeratePerKw(20_000)))
    pair.quiet()
    assert closing_of(pair.alice).serialize() == tx
    for end in pair.ends:
        end.do(FundingSpent(tx, BlockHeight(120), 6))
        assert isinstance(end.state.committed.phase, Closed)


@pytest.mark.parametrize("cut", range(12))
def test_a_lost_line_at_any_message_ends_in_a_close_all_the_same(tmp_path: Path, cut: int) -> None:
    """checklist 28, 55"""
    pair = opened(tmp_path)
    pair.alice.do(CloseWanted())
    for _ in range(cut):
        for end in pair.ends:
            if end.answer() or pair.deliver(end):
                break
    pair.disconnect()
    pair.connect()
    pair.quiet()
    for end in pair.ends:
        assert not end.drops
        closing_of(end)


# What a peer may not do.


def complete_of_bob(pair: Pair) -> ClosingComplete:
    pair.alice.do(CloseWanted())
    found = sent_by(pair, pair.bob, ClosingComplete)
    assert isinstance(found, ClosingComplete)
    return found


OFFENCES = {
    "another script of ours": (
        lambda m: replace(m, closee_scriptpubkey=ELSEWHERE),
        "another script than our last",
    ),
    "a script of no form": (lambda m: replace(m, closer_scriptpubkey=b"\x51"), "unknown form"),
    "another upfront script": (lambda m: replace(m, closer_scriptpubkey=ELSEWHERE), "upfront"),
    "a fee above its balance": (lambda m: replace(m, fee_satoshis=Sat(3_000_001)), "cannot pay"),
    "no signature": (lambda m: replace(m, tlvs=ClosingTlvs()), "lacks"),
    "the wrong form": (
        lambda m: replace(m, tlvs=ClosingTlvs(closer_output_only=m.tlvs.closer_and_closee_outputs)),
        "lacks",
    ),
    "a wrong signature": (
        lambda m: replace(m, tlvs=ClosingTlvs(closer_and_closee_outputs=JUNK)),
        "signature on the closing transaction is wrong",
    ),
    "another locktime": (lambda m: replace(m, locktime=7), "signature on the closing transaction is wrong"),
}


@pytest.mark.parametrize("name", OFFENCES)
def test_a_closing_complete_that_breaks_a_rule_costs_the_connection(pair: Pair, name: str) -> None:
    """checklist 55: a script that differs leads to a reconnection."""
    change, words = OFFENCES[name]
    alice = instead(pair, pair.bob, change(complete_of_bob(pair)))
    accused(alice, words)
    assert not any(isinstance(decode(frame), ClosingSig) for frame in alice.out.waiting)
    pair.disconnect()
    pair.connect()
    pair.quiet()
    assert closing_of(pair.bob)


def answer_of_bob(pair: Pair) -> ClosingSig:
    pair.alice.do(CloseWanted())
    found = sent_by(pair, pair.bob, ClosingSig)
    assert isinstance(found, ClosingSig)
    return found


def both(message: ClosingSig) -> ClosingSig:
    sig = message.tlvs.closer_and_closee_outputs
    return replace(message, tlvs=ClosingTlvs(closer_output_only=sig, closer_and_closee_outputs=sig))


ANSWERS = {
    "another fee": (lambda m: replace(m, fee_satoshis=Sat(m.fee_satoshis + 1)), "another transaction"),
    "another script": (lambda m: replace(m, closee_scriptpubkey=ELSEWHERE), "another transaction"),
    "another locktime": (lambda m: replace(m, locktime=1), "another transaction"),
    "two signatures": (both, "2 signatures"),
    "no signature": (lambda m: replace(m, tlvs=ClosingTlvs()), "0 signatures"),
    "a form not offered": (
        lambda m: replace(m, tlvs=ClosingTlvs(closee_output_only=m.tlvs.closer_and_closee_outputs)),
        "did not offer",
    ),
    "a wrong signature": (
        lambda m: replace(m, tlvs=ClosingTlvs(closer_and_closee_outputs=JUNK)),
        "signature on the closing transaction is wrong",
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_a_closing_sig_that_breaks_a_rule_costs_the_connection(pair: Pair, name: str) -> None:
    """checklist 55"""
    change, words = ANSWERS[name]
    accused(instead(pair, pair.bob, change(answer_of_bob(pair))), words)


def test_a_closing_sig_that_nobody_asked_for_costs_the_connection(pair: Pair) -> None:
    """checklist 55"""
    answer = answer_of_bob(pair)
    pair.deliver(pair.bob)
    pair.alice.do(FromPeer(answer))
    accused(pair.alice, "without a closing_complete")


def test_no_closing_complete_before_the_channel_is_clear(pair: Pair) -> None:
    """checklist 55"""
    channel_id = pair.alice.state.committed.params.channel_id
    script = pair.alice.state.committed.params.holder_script
    pair.alice.do(FromPeer(ClosingComplete(channel_id, ELSEWHERE, script, Sat(500), 0)))
    accused(pair.alice, "before the channel is clear")


def test_no_closing_complete_where_it_was_not_negotiated(tmp_path: Path) -> None:
    """checklist 55"""
    pair = Pair(tmp_path)
    open_channel(pair, push=3_000_000_000)
    channel_id = pair.alice.state.committed.params.channel_id
    pair.alice.do(FromPeer(ClosingComplete(channel_id, ELSEWHERE, ELSEWHERE, Sat(500), 0)))
    accused(pair.alice, "not negotiated")


def test_no_closing_signed_where_simple_close_was_negotiated(pair: Pair) -> None:
    """checklist 54, 55"""
    pair.alice.do(CloseWanted())
    sent_by(pair, pair.bob, ClosingComplete)
    channel_id = pair.alice.state.committed.params.channel_id
    instead(pair, pair.bob, ClosingSigned(channel_id, Sat(500), JUNK))
    accused(pair.alice, "closing_signed")


def burning(pair: Pair) -> ClosingComplete:
    """Bob, who gave no upfront script, gives his part away; signed as he would."""
    for end in pair.ends:
        free = replace(end.state.committed.params, counterparty_upfront_script=None)
        end.state.committed.params = free
    complete = complete_of_bob(pair)
    return replace(complete, closer_scriptpubkey=b"\x6a\x06burned")


def test_an_op_return_output_gets_nothing(pair: Pair) -> None:
    """checklist 55"""
    complete = burning(pair)
    from protocol.bolt3 import simple_close

    committed = pair.alice.state.committed
    terms = simple_close.Terms(
        committed.settled_remote,
        committed.settled_local,
        complete.closer_scriptpubkey,
        complete.closee_scriptpubkey,
        complete.fee_satoshis,
        0,
    )
    close = simple_close.build(commitment_params(committed.params), terms, simple_close.Variant.BOTH)
    (channel,) = pair.bob.signer._channels.values()
    signature = curve.sign_ecdsa(channel.secrets.funding.reveal(), close.digest)
    alice = instead(pair, pair.bob, replace(complete, tlvs=ClosingTlvs(closer_and_closee_outputs=signature)))
    while alice.answer():
        pass
    tx = closing_of(alice)
    assert paid(tx) == {complete.closer_scriptpubkey: 0, complete.closee_scriptpubkey: 7_000_000}


def test_an_op_return_shutdown_is_taken_only_with_simple_close(tmp_path: Path) -> None:
    """Checklist 53."""
    for simple in (True, False):
        pair = Pair(tmp_path / str(simple))
        pair.simple_close = simple
        open_channel(pair, push=3_000_000_000)
        params = pair.alice.state.committed.params
        pair.alice.state.committed.params = replace(params, counterparty_upfront_script=None)
        pair.alice.do(FromPeer(Shutdown(params.channel_id, b"\x6a\x06burned")))
        assert bool(pair.alice.drops) != simple


def test_a_running_htlc_holds_the_close(pair: Pair) -> None:
    pair.alice.do(Offer(OfferWant(Msat(50_000_000), b"\x09" * 32, 200, bytes(1366), "payment/1")))
    pair.alice.do(CloseWanted())
    pair.alice.answer()
    pair.deliver(pair.alice, 10)
    assert isinstance(pair.bob.state.committed.phase, ShuttingDown) or pair.bob.asks
    assert not pair.bob.published
    pair.quiet()
    assert closing_of(pair.bob)
