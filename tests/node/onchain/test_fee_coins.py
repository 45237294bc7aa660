"""Coins that pay for HTLC transactions and anchors, when they are too few or gone (BOLT 5, "Generation of HTLC
Transactions"; checklist 47, 48, 52)."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from node.onchain.coins import find_coins
from node.onchain.events import CoinsFound, NewBlock, Signed
from protocol.amounts import FeeratePerKw, Sat
from protocol.bitcoin.transaction import OutPoint, Transaction, TxIn, TxOut
from protocol.bus.messages import signer as sign
from protocol.bus.messages import wallet
from protocol.errors import CommandRefused
from tests.node.onchain.test_fees import empty_block, rates
from tests.node.onchain.test_unilateral import due, has
from tests.node.onchain.world import Watcher, World
from tests.support import need

BIG = 200_000_000
EXPIRY = 140
LITTLE = Sat(3_000)


@pytest.fixture
def anchored(tmp_path: Path) -> Iterator[World]:
    need("kernel", importlib.util.find_spec("pbk") is not None, "py-bitcoinkernel is not installed")
    made = World(tmp_path, anchors=True)
    yield made
    made.close()


def only_little(world: World, monkeypatch: pytest.MonkeyPatch, *, then: Sat | None = None) -> None:
    """Alice's wallet has one coin of 3,000 sat, and lends it once; from then on at most one that is smaller."""
    outpoint = world.chain.fund(world.pair.alice.signer.keys.wallet_script(0, 35), LITTLE)
    lent: list[int] = []

    def coins_for(_watcher: Watcher, claim: int) -> CoinsFound:
        if lent and then:
            return CoinsFound(claim, (sign.WalletCoin(bytes(32), 0, then, 0, 36),), (1, claim))
        if lent:
            return CoinsFound(claim, (), None, "the wallet is empty")
        lent.append(claim)
        coin = sign.WalletCoin(outpoint.txid, outpoint.index, LITTLE, 0, 35)
        return CoinsFound(claim, (coin,), (1, claim))

    monkeypatch.setattr(world, "coins_for", coins_for)


def test_too_few_coins_for_the_market_pay_what_they_can(
    anchored: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """checklist 43, 52: in a fee spike the reserve does not reach what miners ask. A late timeout may still come before
    the peer's preimage; one that was never sent comes too late for certain."""
    world = anchored
    world.offer(world.pair.alice, BIG, EXPIRY)
    world.force_close(world.pair.alice)
    only_little(world, monkeypatch)
    world.mine_to(EXPIRY - 1)
    world.alice.rates = (FeeratePerKw(9000),) * 3
    world.mine()
    (claim,) = [c for c in world.alice.state.claims if c.coins]
    tx = Transaction.parse(claim.tx or b"")
    assert tx.txid in world.chain.mempool
    assert LITTLE - 400 < world.fee_of(tx) <= LITTLE
    world.mine_until_done(world.alice)
    assert not world.alice.outcomes[True, 0].paid


@pytest.mark.parametrize("then", [None, Sat(1_300)], ids=["none", "less"])
def test_what_was_sent_is_sent_again_while_no_coin_pays_for_more(
    anchored: World, monkeypatch: pytest.MonkeyPatch, then: Sat | None
) -> None:
    """checklist 52: the fee was raised until the coins were used up. A server that was off, or whose mempool was full,
    must hear of it again, or the HTLC is never taken back."""
    world = anchored
    world.offer(world.pair.alice, BIG, EXPIRY)
    world.force_close(world.pair.alice)
    only_little(world, monkeypatch, then=then)
    world.mine_to(EXPIRY - 1)
    empty_block(world, world.alice)
    assert 1000 in rates(world.alice)
    world.alice.rates = (FeeratePerKw(9000),) * 3
    for _ in range(3):
        world.chain.mempool.entries.clear()
        world.chain.mempool._spenders.clear()
        empty_block(world, world.alice)
        assert [entry.tx.locktime for entry in world.chain.mempool if entry.tx.locktime == EXPIRY]
    assert world.alice.released  # or the wallet would never look for more of them
    world.mine_until_done(world.alice)
    assert not world.alice.outcomes[True, 0].paid


def test_an_answer_that_spends_coins_which_were_given_back_is_not_kept(anchored: World) -> None:
    """checklist 52: the signer was asked before the mempool said that a coin is gone. Kept, its answer would be refused
    at each block, and no other coin asked for."""
    world = anchored
    alice = world.pair.alice
    payment_hash = world.offer(alice, BIG, EXPIRY)
    world.force_close(alice)
    world.tolerated = ("bad-txns-inputs-missingorspent",)
    world.mine_to(EXPIRY - 1)
    _, position = world.places["alice"][0]
    gone = OutPoint(b"\x07" * 32, 0)
    world.places["alice"][0] = (gone, position)
    empty_block(world, world.alice)
    (claim,) = [c for c in world.alice.state.claims if c.waits]
    assert claim.tx is None and not claim.coins
    htlc = OutPoint(*claim.outputs[0])
    late = Transaction(2, (TxIn(htlc), TxIn(gone)), (TxOut(Sat(1000), b"\x51"),), EXPIRY)
    world.alice.do(Signed(claim.id, late.serialize(), FeeratePerKw(1000)))
    world.alice.do(NewBlock())
    world.mine_until_done(world.alice)
    ended = world.alice.outcome(payment_hash)
    assert ended is not None and not ended.paid
    assert has(world, world.alice) == due(world, world.alice, gave=BIG, won=BIG, untrimmed=1)


class Wallet:
    """Lends no more than `most`."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.asked: list[int] = []
        self.released = 0

    async def request(self, _service: str, message: Any, **_: Any) -> Any:
        if isinstance(message, wallet.ReleasePlan):
            self.released += 1
            return None
        self.asked.append(message.value)
        if message.value > self.most:
            raise CommandRefused(f"{message.value} is too much", what_to_do="Send coins.")
        coin = wallet.CoinInfo(b"\x01" * 32, 0, Sat(self.most), b"", "", 100, False, False, 3, 0)
        return wallet.CoinsLent((coin,), (1, 5))


async def test_less_is_borrowed_when_the_wallet_has_not_four_times_the_fee() -> None:
    """checklist 52: what is asked for leaves room for replacements. In a fee spike that room must not keep the first
    form from being paid."""
    purse = Wallet(3_000)
    found = await find_coins(purse, 7, "fees", Sat(10_000))  # type: ignore[arg-type]
    assert purse.asked == [10_000, 5_000, 2_500] and purse.released == 1
    assert found.claim == 7 and [coin.value for coin in found.coins] == [3_000] and found.change == (1, 5)
    empty = await find_coins(Wallet(0), 7, "fees", Sat(10_000))  # type: ignore[arg-type]
    assert not empty.coins and "10000 is too much" in empty.why
