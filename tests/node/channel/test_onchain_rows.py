"""What the chain decided enters the rows once, and payments hear it once (BOLT 5; checklist 44, 46)."""

from pathlib import Path

import pytest

from node.channel.events import Event, ForceCloseWanted, FundingSpent, ResolvedOnChain, SettledOnChain
from node.channel.handover import facts_of, running
from node.channel.state import Closed, CloseKind, Closing
from node.channel.store import load_all_htlcs, origins, settled_received
from node.onchain.deadlines import Running
from node.onchain.state import Kind
from protocol.amounts import BlockHeight, Msat, Sat
from protocol.bitcoin.transaction import OutPoint, Transaction, TxIn, TxOut
from protocol.hashes import sha256
from tests.node.channel.pair import End, Pair, open_channel
from tests.node.channel.test_dance import offer

AMOUNT = 50_000_000
PREIMAGE = b"\x07" * 32


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    made = Pair(tmp_path)
    open_channel(made, push=3_000_000_000)
    return made


def closed(pair: Pair, end: End) -> None:
    end.do(ForceCloseWanted("the test wants it"))
    while end.answer():
        pass
    tx = end.published[-1]
    for one in pair.ends:
        one.do(FundingSpent(tx, BlockHeight(120), 1))
        assert one.resolves[-1].tx == tx


def told(end: End, event: Event) -> None:
    """Twice, and with a crash between."""
    end.do(event)
    end.crash()
    end.do(event)


def test_a_preimage_from_the_chain_reaches_payments_once(pair: Pair) -> None:
    """checklist 46"""
    origin = offer(pair, pair.alice, AMOUNT)
    pair.quiet()
    closed(pair, pair.bob)
    before = pair.alice.state.committed.settled_local
    told(pair.alice, SettledOnChain(True, 0, True, PREIMAGE))
    (fulfilled,) = pair.alice.said.fulfilled
    assert (fulfilled.origin, fulfilled.preimage) == (origin, PREIMAGE)
    assert not pair.alice.said.failed and not pair.alice.state.htlcs
    assert pair.alice.state.committed.settled_local == before - AMOUNT
    assert origins(pair.alice.database) == [(origin, PREIMAGE, None, None, 1, None)]


def test_a_failure_on_the_chain_reaches_payments_once(pair: Pair) -> None:
    """checklist 44"""
    origin = offer(pair, pair.alice, AMOUNT)
    pair.quiet()
    closed(pair, pair.alice)
    before = pair.alice.state.committed.settled_local
    told(pair.alice, SettledOnChain(True, 0, False))
    (failed,) = pair.alice.said.failed
    assert failed.origin == origin
    assert pair.alice.state.committed.settled_local == before
    assert origins(pair.alice.database) == [(origin, None, None, None, 1, None)]


def test_who_gave_the_preimage_and_missed_the_money_was_paid_all_the_same(pair: Pair) -> None:
    """The payer was told of its success before; a failure after it would contradict that."""
    from node.channel.events import Fulfil

    offer(pair, pair.alice, AMOUNT)
    pair.quiet()
    pair.bob.do(Fulfil(0))
    pair.bob.answer()
    pair.deliver(pair.bob, 100)
    assert pair.alice.said.fulfilled
    closed(pair, pair.alice)
    told(pair.alice, SettledOnChain(True, 0, False))
    assert not pair.alice.said.failed and len(pair.alice.said.fulfilled) == 1


@pytest.mark.parametrize("paid", [True, False])
def test_a_received_htlc_counts_as_income_only_when_the_chain_gave_it(pair: Pair, paid: bool) -> None:
    offer(pair, pair.alice, AMOUNT)
    pair.quiet()
    closed(pair, pair.alice)
    (row,) = pair.bob.state.htlcs.values()
    told(pair.bob, SettledOnChain(False, 0, paid, PREIMAGE if paid else None))
    (resolved,) = pair.bob.said.resolved
    assert resolved.fulfilled is paid
    assert settled_received(pair.bob.database, row.payment_hash) == (AMOUNT if paid else 0)


def test_the_channel_is_closed_when_all_is_resolved(pair: Pair) -> None:
    closed(pair, pair.alice)
    pair.bob.do(ResolvedOnChain())
    phase = pair.bob.state.committed.phase
    assert isinstance(phase, Closed) and phase.kind is CloseKind.THEIRS


def test_a_commitment_that_is_deep_ends_nothing_while_its_htlcs_run(pair: Pair) -> None:
    """Their ends come later, and somebody upstream waits for each. checklist 44, 46, 51"""
    origin = offer(pair, pair.alice, AMOUNT)
    pair.quiet()
    closed(pair, pair.bob)
    tx = pair.alice.resolves[-1].tx
    for depth in (6, 100):
        pair.alice.do(FundingSpent(tx, BlockHeight(120), depth))
        assert isinstance(pair.alice.state.committed.phase, Closing)
    pair.alice.do(SettledOnChain(True, 0, True, PREIMAGE))
    assert [(event.origin, event.preimage) for event in pair.alice.said.fulfilled] == [(origin, PREIMAGE)]


def test_the_chain_decides_nothing_while_the_channel_lives(pair: Pair) -> None:
    offer(pair, pair.alice, AMOUNT)
    pair.quiet()
    pair.alice.do(SettledOnChain(True, 0, False), ResolvedOnChain())
    assert pair.alice.state.htlcs and not pair.alice.said.failed


def test_a_preimage_from_the_mempool_is_told_while_the_channel_lives(pair: Pair) -> None:
    """checklist 46: the incoming HTLC may expire before a block has the claim; the row waits for that block."""
    origin = offer(pair, pair.alice, AMOUNT)
    offer(pair, pair.bob, AMOUNT)
    pair.quiet()
    before = pair.alice.state.htlcs
    pair.alice.do(SettledOnChain(False, 0, True, PREIMAGE), SettledOnChain(True, 0, True, None))
    assert not pair.alice.said.fulfilled
    pair.alice.do(SettledOnChain(True, 0, True, PREIMAGE))
    assert [(e.origin, e.htlc_id, e.preimage) for e in pair.alice.said.fulfilled] == [(origin, 0, PREIMAGE)]
    assert pair.alice.state.htlcs == before


def test_a_received_htlc_moves_the_balance_when_the_chain_gave_it(pair: Pair) -> None:
    offer(pair, pair.alice, AMOUNT)
    pair.quiet()
    closed(pair, pair.alice)
    told(pair.bob, SettledOnChain(False, 0, True, PREIMAGE))
    committed = pair.bob.state.committed
    assert (committed.settled_local, committed.settled_remote) == (3_050_000_000, 6_950_000_000)


def test_an_unknown_spend_stays_unknown(pair: Pair) -> None:
    """checklist 45: also when it is told again, once the channel is closing because of it."""
    funding = pair.alice.state.committed.params.fundings[0]
    tx = Transaction(2, (TxIn(OutPoint(funding.txid, funding.index)),), (TxOut(Sat(1), b"\x51"),)).serialize()
    for depth in (1, 2):
        pair.alice.do(FundingSpent(tx, BlockHeight(120), depth))
        phase = pair.alice.state.committed.phase
        assert isinstance(phase, Closing) and phase.kind is CloseKind.UNKNOWN
        committed, volatile = pair.alice.state.committed, pair.alice.state.volatile
        assert facts_of(committed, volatile, pair.alice.state.htlcs, (), tx).kind is Kind.UNKNOWN


# Handing over.


def test_htlcs_that_some_valid_commitment_holds_run(pair: Pair) -> None:
    """checklist 43: from the first commitment that holds it to the revocation of the last."""
    from node.channel.events import Fulfil

    assert running(pair.alice.state.committed, pair.alice.state.htlcs, pair.alice.state.volatile) == []
    offer(pair, pair.alice, AMOUNT)
    pair.alice.answer()
    assert running(pair.alice.state.committed, pair.alice.state.htlcs, pair.alice.state.volatile) == [
        Running(True, 0, 200)
    ]
    pair.quiet()
    assert running(pair.bob.state.committed, pair.bob.state.htlcs, pair.bob.state.volatile) == [
        Running(False, 0, 200)
    ]
    pair.bob.do(Fulfil(0))
    assert running(pair.bob.state.committed, pair.bob.state.htlcs, pair.bob.state.volatile) == [
        Running(False, 0, 200, released=True)
    ]
    pair.quiet()
    assert running(pair.bob.state.committed, pair.bob.state.htlcs, pair.bob.state.volatile) == []


def test_facts_of_a_revoked_commitment_name_the_htlcs_that_stood_in_it(pair: Pair) -> None:
    """checklist 50: out of the ranges of finished rows."""
    from node.channel.events import Fulfil

    offer(pair, pair.alice, AMOUNT)
    pair.quiet()
    number = pair.alice.state.committed.remote_number
    (channel,) = pair.bob.signer._channels.values()
    from protocol.bolt3.commitment import Side, build

    content = channel.state.holder[number][-1].content
    revoked = build(channel.params, Side.HOLDER, content, channel.point(number)).tx
    pair.bob.do(Fulfil(0))
    pair.quiet()
    _, finished = load_all_htlcs(pair.alice.database, 1)
    state = pair.alice.state
    facts = facts_of(state.committed, state.volatile, state.htlcs, finished, revoked.serialize())
    assert (facts.kind, facts.number, facts.point) == (Kind.REVOKED, number, None)
    (htlc,) = facts.htlcs
    assert htlc.present and not htlc.live and htlc.offered
    assert htlc.amount_msat == Msat(AMOUNT) and htlc.payment_hash != sha256(PREIMAGE)
