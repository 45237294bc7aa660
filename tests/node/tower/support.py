"""Two running nodes, of which one writes a watchtower's file; a chain for the tower alone; a peer that cheats."""

from pathlib import Path

from node.chain.regtest import RegtestChain, Rejected
from node.channel.service import ChannelService
from node.storage import tower as rows
from node.tower.service import TowerService
from protocol.bitcoin.transaction import Transaction
from protocol.bolt3.commitment import Side, build
from protocol.bus.messages import channel as said
from protocol.bus.messages.tower import GetTowerStatus, TowerStatus
from protocol.curve import sign_ecdsa
from protocol.errors import MalformedMessage
from tests.node.onchain.services import Node, Pair
from tests.node.onchain.world import Copy
from tests.node.wallet.support import until


class TowerNode(Node):
    """`wants_tower` False: everything as usual."""

    wants_tower = True

    @property
    def file(self) -> Path:
        return self.folder / "tower.txt"

    async def start(self) -> None:
        usual = ChannelService.keeps_revoked
        ChannelService.keeps_revoked = self.wants_tower
        try:
            await super().start()
            self.channels.keeps_revoked = self.wants_tower
        finally:
            ChannelService.keeps_revoked = usual
        self.tower = TowerService(
            self.bus,
            writer=self.database.writer,
            signer=self.signer,
            file=self.file,
            batch_seconds=0.01,
            clock=lambda: 1_700_000_000.0,
        )
        await self.tower.start()

    async def stop(self) -> None:
        await self.tower.stop()
        await super().stop()

    async def status(self) -> TowerStatus:
        found: TowerStatus = await self.bus.request("tower", GetTowerStatus())
        return found

    @property
    def pending(self) -> int:
        return rows.count(self.database.writer)

    @property
    def revoked(self) -> int:
        (channel,) = self.channels._channels.values()
        return channel.state.committed.remote_revoked

    async def written(self) -> None:
        """Until every commitment that the peer revoked has its line."""
        await until(lambda: self.tower._written >= self.revoked and not self.pending)

    def copy(self) -> Copy:
        """Its newest commitment, signed by its own keys past every rule of its signer."""
        (channel,) = self.service._channels.values()
        assert channel.state is not None and channel.params is not None
        number = channel.state.holder_validated
        version = channel.state.holder[number][-1]
        commitment = build(channel.params, Side.HOLDER, version.content, channel.point(number))
        signature = sign_ecdsa(channel.secrets.funding.reveal(), commitment.digest)
        return Copy(
            channel, commitment, version, commitment.signed(signature, version.signatures[0].commitment)
        )


class TowerPair(Pair):
    """Alice has the tower; Bob is the one who cheats."""

    def __init__(self, folder: Path, *, wants_tower: bool = True) -> None:
        self.chain = RegtestChain(folder / "chain")
        self.alice: TowerNode = TowerNode(folder / "alice", self.chain)
        self.bob: TowerNode = TowerNode(folder / "bob", self.chain)
        self.alice.wants_tower, self.bob.wants_tower = wants_tower, False
        self.alice.other, self.bob.other = self.bob, self.alice
        self.connections = 0

    async def pay(self, payer: Node, amount_msat: int) -> None:
        """An HTLC that comes and is fulfilled: it leaves revoked commitments behind."""
        htlc = await self.offer(payer, amount_msat, self.chain.height + 60)
        await self.settle(payer, htlc)

    async def settle(self, payer: Node, htlc: said.HtlcReceived) -> None:
        assert payer.other is not None
        self.fulfil(payer.other, htlc)
        heard = payer.payments.fulfilled
        await until(lambda: any(event.origin == htlc.payment_hash.hex() for event in heard))
        await until(lambda: all(self._at_rest(node) for node in self.nodes))

    @staticmethod
    def _at_rest(node: Node) -> bool:
        (channel,) = node.channels._channels.values()
        committed = channel.state.committed
        return not channel.state.htlcs and not committed.awaits_revocation and committed.question is None


class TowerChain:
    """What the tower sees: the real chain, and nothing of a node."""

    def __init__(self, chain: RegtestChain) -> None:
        self.chain = chain
        self.sent: list[bytes] = []

    def height(self) -> int:
        return self.chain.height

    def block(self, height: int) -> list[bytes]:
        return [tx.txid for tx in self.chain.block(height).transactions]

    def mempool(self) -> list[bytes]:
        return list(self.chain.mempool.entries)

    def send(self, raw: bytes) -> str:
        try:
            self.chain.submit(raw)
        except (Rejected, MalformedMessage) as error:
            return str(error)
        self.sent.append(raw)
        return ""

    def spender(self, txid: bytes, index: int) -> Transaction | None:
        """In a block."""
        for height in range(self.chain.height, 0, -1):
            for tx in self.chain.block(height).transactions:
                if any((s.outpoint.txid, s.outpoint.index) == (txid, index) for s in tx.inputs):
                    return tx
        return None
