"""A wallet on the embedded chain, with the real signer and the real chain service, all in the test's process."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from node.chain.backend import BlockRef, Found, Outcome, Unspent
from node.chain.blocks import Interest, Looked, look_into
from node.chain.regtest import RegtestChain, Rejected
from node.chain.service import ChainService
from node.storage.database import Database, open_database
from node.wallet.coins import Balance
from node.wallet.service import WalletService
from protocol.amounts import FEERATE_FLOOR, BlockHeight, FeeratePerKw, Sat
from protocol.bitcoin.address import script_pubkey_of
from protocol.bitcoin.network import REGTEST
from protocol.bitcoin.transaction import OutPoint, Transaction
from protocol.bus.local import LocalBus
from protocol.bus.messages import signer as contract
from protocol.bus.messages import wallet
from protocol.errors import MalformedMessage
from signer.service import SignerService
from tests.signer.support import Node as SignerNode

FOREIGN = b"\x00\x20" + bytes([5]) * 32
RATE = FeeratePerKw(1000)


async def until(condition: Callable[[], object]) -> None:
    """Lets the loop turn until something that nobody announces has come about."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  nothing could set an event
            await asyncio.sleep(0.001)


class DirectBackend:
    """The embedded chain as a backend, without a socket between."""

    def __init__(self, chain: RegtestChain) -> None:
        self.cannot: frozenset[str] = frozenset()
        self.name = "the chain"
        self.chain = chain
        self.estimate: FeeratePerKw | None = None
        self.refusal: str | None = None
        self.has_index = True
        self._changed: Callable[[], None] = lambda: None
        self.chain.listeners.append(lambda _event: self._changed())

    async def check(self) -> None:
        pass

    async def tip(self) -> BlockRef:
        return BlockRef(
            BlockHeight(self.chain.height), self.chain.tip_hash, self.chain.block(self.chain.height).time
        )

    async def block_hash(self, height: int) -> bytes | None:
        return self.chain.block(height).hash if height <= self.chain.height else None

    async def look(self, height: int, block_hash: bytes, interest: Interest) -> Looked | None:
        block = self.chain.block_by_hash(block_hash)
        return None if block is None else look_into(block.raw, block_hash, interest)

    async def transaction_at(self, height: int, tx_index: int) -> Transaction | None:
        if height > self.chain.height:
            return None
        transactions = self.chain.block(height).transactions
        return transactions[tx_index] if tx_index < len(transactions) else None

    async def output_status(self, txid: bytes, index: int) -> Unspent | None:
        coin = self.chain.coin(OutPoint(txid, index), include_mempool=False)
        if coin is None:
            return None
        depth = self.chain.height - coin.height + 1
        return Unspent(coin.output.value, coin.output.script_pubkey, depth, self.chain.tip_hash)

    async def transaction(self, txid: bytes, height: int | None = None) -> Found | None:
        tx = self.chain.transaction(txid) if self.has_index else None
        if tx is None:
            return None
        confirmations = self.chain.confirmations(txid)
        block = self.chain.block(self.chain.height - confirmations + 1).hash if confirmations else None
        return Found(tx.serialize(), block)

    async def broadcast(self, raw: bytes) -> Outcome:
        if self.refusal is not None:
            return Outcome(False, self.refusal)
        txid = Transaction.parse(raw).txid
        if self.chain.transaction(txid) is not None:
            return Outcome(True, "")
        try:
            self.chain.submit(raw)
        except (Rejected, MalformedMessage) as error:
            return Outcome(False, str(error))
        return Outcome(True, "")

    async def submit_package(self, parents: Sequence[bytes], child: bytes) -> Outcome:
        if self.refusal is not None:
            return Outcome(False, self.refusal)
        result = self.chain.submit_package([Transaction.parse(raw) for raw in (*parents, child)])
        return Outcome(result.error is None, result.error or "")

    async def mempool_spenders(self, watched: Mapping[OutPoint, bytes]) -> Sequence[Transaction]:
        pool = self.chain.mempool
        found = {pool.spender_of(outpoint) for outpoint in watched}
        return [pool.entries[txid].tx for txid in found if txid is not None]

    async def feerate(self, target_blocks: int) -> FeeratePerKw | None:
        return self.estimate

    async def mempool_minimum(self) -> FeeratePerKw:
        return FEERATE_FLOOR

    def subscribe(self, changed: Callable[[], None]) -> None:
        self._changed = changed

    async def close(self) -> None:
        self._changed = lambda: None


class InProcessSigner:
    """The real signer; the test may put something else in its place."""

    def __init__(self, service: SignerService) -> None:
        self.node = SignerNode(service)
        self.calls = 0
        self.instead: Callable[[contract.Request], contract.Reply] | None = None

    async def call(self, request: contract.Request) -> contract.Reply:
        self.calls += 1
        return self.instead(request) if self.instead is not None else self.node.ask(request)


class World:
    """Restartable: `restart` begins again from the database, as after a crash."""

    def __init__(self, path: Path, chain: RegtestChain, service: SignerService) -> None:
        self.path = path
        self.chain = chain
        self.signer = InProcessSigner(service)

    async def start(
        self, *, birth_height: int | None = None, database: str = "node.db", wait: bool = True
    ) -> None:
        path = self.path / database
        self.database: Database = open_database(path, create=True)
        self.backend = DirectBackend(self.chain)
        self.bus = LocalBus()
        self.chain_service = ChainService(self.bus, self.backend, self.database.writer, retry_seconds=0.01)
        welcome = self.signer.node.welcome
        self.wallet = WalletService(
            self.bus,
            network=REGTEST,
            xpub=welcome.wallet_xpub,
            origin=welcome.wallet_origin,
            signer=self.signer,
            writer=self.database.writer,
            birth_height=birth_height,
        )
        await self.chain_service.start()
        await self.wallet.start()
        if wait:
            await self.caught_up()

    async def caught_up(self) -> None:
        async with asyncio.timeout(20):
            await self.wallet.caught_up.wait()

    async def stop(self) -> None:
        await self.wallet.stop()
        await self.chain_service.stop()
        self.database.close()

    async def restart(self, **more: Any) -> None:
        await self.stop()
        await self.start(**more)

    async def ask(self, request: object) -> Any:
        return await self.bus.request("wallet", request)

    async def address(self) -> bytes:
        """The script of a new address."""
        made = await self.ask(wallet.NewAddress())
        return script_pubkey_of(made.address, REGTEST)

    async def coins(self, *, spent: bool = False) -> list[wallet.CoinInfo]:
        return list((await self.ask(wallet.ListCoins(spent))).coins)

    async def balance(self) -> Balance:
        return await self.wallet.balance()

    async def mine(self, count: int = 1) -> None:
        self.chain.generate(count)
        await self.at_tip()

    async def at_tip(self) -> None:
        """Until the wallet has heard of everything up to the chain's tip."""
        await until(lambda: self.chain_service._hashes.get(self.chain.height) == self.chain.tip_hash)
        await until(lambda: self.wallet._ledger.scanned == self.chain.height)
        await self.database.writer.submit([], now=True)

    async def fund(self, *amounts: int) -> list[OutPoint]:
        """Confirmed coins, each on an address of its own."""
        outpoints = [self.chain.fund(await self.address(), Sat(amount)) for amount in amounts]
        await self.mine()
        return outpoints

    async def plan(
        self, purpose: str, value: int | None, *, script: bytes = FOREIGN, minconf: int = 1
    ) -> wallet.SpendPlanned:
        amount = None if value is None else Sat(value)
        planned = await self.ask(wallet.PlanSpend(purpose, script, amount, RATE, minconf))
        assert isinstance(planned, wallet.SpendPlanned)
        return planned
