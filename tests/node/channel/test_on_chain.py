"""What a channel leaves on a chain with real consensus and relay rules (BOLT 3; BOLT 5, "Mutual Close",
"Unilateral Close Handling")."""

import asyncio
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.channel.events import (
    CloseWanted,
    ForceCloseWanted,
    Fulfil,
    FundingConfirmed,
    FundingSpent,
    ResolvedOnChain,
)
from node.channel.state import Closed, CloseKind
from protocol.amounts import BlockHeight, Msat, Sat, floor_sat, scid
from protocol.bitcoin.transaction import OutPoint, Transaction, TxOut
from protocol.bolt3.fees import ANCHOR_AMOUNT, commit_fee
from protocol.bus.messages.wallet import SpendPlanned
from tests.node.channel.pair import End, Pair, open_both
from tests.node.channel.test_dance import offer
from tests.support import need

FUNDING = 10_000_000
PUSH = 3_000_000_000


class World:
    """Two ends, a chain, and the funding on it."""

    def __init__(self, chain: object, folder: Path, *, anchors: bool) -> None:
        self.chain = chain
        self.anchors = anchors
        self.pair = Pair(folder)
        asyncio.run(open_both(self.pair, funding=FUNDING, push=PUSH, anchors=anchors, plan=self.plan))
        self.pair.connect()
        self.pair.quiet()
        chain.generate(3)
        height = BlockHeight(chain.height - 2)
        for end in self.pair.ends:
            end.do(FundingConfirmed(height, scid(height, 1, 0), 3))
        self.pair.quiet()

    def plan(self, script: bytes, value: Sat) -> SpendPlanned:
        tx = self.chain.pay([TxOut(value, script)])
        self.funding = OutPoint(tx.txid, 0)
        return SpendPlanned("test", tx.serialize(), tx.txid, 0, value, Sat(0))

    def publish(self, raw: bytes) -> Transaction:
        """Into the mempool by every rule, and into a block."""
        tx = Transaction.parse(raw)
        assert self.chain.submit(tx) == tx.txid
        self.chain.generate(1)
        assert self.chain.confirmations(tx.txid) == 1
        return tx

    def tell(self, tx: Transaction) -> None:
        """Both ends hear of the spend of the funding, as deep as it is."""
        depth = self.chain.confirmations(tx.txid)
        height = BlockHeight(self.chain.height - depth + 1)
        for end in self.pair.ends:
            end.do(FundingSpent(tx.serialize(), height, depth))

    def fee_of(self, tx: Transaction) -> int:
        spent = 0
        for item in tx.inputs:
            before = self.chain.transaction(item.outpoint.txid)
            spent += before.outputs[item.outpoint.index].value
        return spent - sum(output.value for output in tx.outputs)


@pytest.fixture(params=[True, False], ids=["anchors", "static_remotekey"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    need("kernel", importlib.util.find_spec("pbk") is not None, "py-bitcoinkernel is not installed")
    from node.chain.regtest import RegtestChain

    with RegtestChain(tmp_path / "chain") as chain:
        yield World(chain, tmp_path, anchors=request.param)


def paid(world: World, *, fulfilled: bool = True) -> tuple[int, int]:
    """One payment each way; the balances in satoshi that follow."""
    pair = world.pair
    if fulfilled:
        for payer, amount in ((pair.alice, 50_000_123), (pair.bob, 7_000_456)):
            offer(pair, payer, amount)
            pair.quiet()
            payee = pair.other(payer)
            payee.do(Fulfil(payee.said.received[-1].htlc_id))
            pair.quiet()
    alice, bob = pair.alice.state.committed, pair.bob.state.committed
    assert alice.settled_local + bob.settled_local == FUNDING * 1000
    return floor_sat(alice.settled_local), floor_sat(bob.settled_local)


@pytest.mark.parametrize("payments", [False, True], ids=["unused", "after payments"])
def test_a_mutual_close_is_mined_and_pays_to_the_satoshi(world: World, payments: bool) -> None:
    has_alice, has_bob = paid(world, fulfilled=payments)
    pair = world.pair
    pair.alice.do(CloseWanted())
    pair.quiet()
    assert pair.alice.published == pair.bob.published
    tx = world.publish(pair.alice.published[0])
    fee = world.fee_of(tx)
    outputs = {output.script_pubkey: output.value for output in tx.outputs}
    scripts = [end.state.committed.params.holder_script for end in pair.ends]
    rounding = FUNDING - has_alice - has_bob
    assert outputs == {scripts[0]: has_alice - fee + rounding, scripts[1]: has_bob}
    world.chain.generate(5)
    world.tell(tx)
    for end in pair.ends:
        assert isinstance(end.state.committed.phase, Closed)
        assert end.state.committed.phase.kind is CloseKind.MUTUAL


@pytest.mark.parametrize("payments", [False, True], ids=["unused", "after payments"])
@pytest.mark.parametrize("who", ["alice", "bob"])
def test_a_force_close_brings_both_balances_home(world: World, who: str, payments: bool) -> None:
    has = dict(zip(("alice", "bob"), paid(world, fulfilled=payments), strict=True))
    pair = world.pair
    closer: End = getattr(pair, who)
    closer.do(ForceCloseWanted("the test wants it"))
    while closer.answer():
        pass
    commitment = world.publish(closer.published[0])
    cost = commit_fee(closer.state.committed.fees[0].feerate_per_kw, 0, world.anchors)
    anchors = 2 * ANCHOR_AMOUNT if world.anchors else 0
    due = {"alice": has["alice"] - cost - anchors, "bob": has["bob"]}
    rounding = FUNDING - has["alice"] - has["bob"]
    assert world.fee_of(commitment) == cost + rounding
    values = sorted(output.value for output in commitment.outputs)
    assert values == sorted([*due.values(), *([ANCHOR_AMOUNT] * 2 if world.anchors else [])])

    world.tell(commitment)
    for end in pair.ends:
        assert end.resolves[-1].tx == commitment.serialize()
        end.do(ResolvedOnChain())
        assert isinstance(end.state.committed.phase, Closed)


def test_a_force_close_with_a_pending_htlc_is_relayed(world: World) -> None:
    """Its HTLC output is there with its whole amount; who resolves it is the channel's next issue."""
    pair = world.pair
    offer(pair, pair.alice, 50_000_123)
    pair.quiet()
    pair.bob.do(ForceCloseWanted("the test wants it"))
    while pair.bob.answer():
        pass
    commitment = world.publish(pair.bob.published[0])
    assert 50_000 in [output.value for output in commitment.outputs]
    rate = pair.bob.state.committed.fees[0].feerate_per_kw
    assert world.fee_of(commitment) >= commit_fee(rate, 1, world.anchors)


def test_the_balances_add_up_to_the_funding(world: World) -> None:
    has_alice, has_bob = paid(world)
    coin = world.chain.coin(world.funding)
    assert coin is not None
    assert coin.output.value == FUNDING
    assert has_alice + has_bob == FUNDING - 1  # both have a part of a satoshi
    assert world.pair.alice.state.committed.settled_local == Msat(7_000_000_000 - 50_000_123 + 7_000_456)
