"""What the node needs of a source of blocks (DESIGN, "The chain"): `bitcoind` gives them whole, `electrum` in parts."""

from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from node.chain.blocks import Interest, Looked
from protocol.amounts import BlockHeight, FeeratePerKw, Sat
from protocol.bitcoin.transaction import Transaction
from protocol.errors import ProtocolError


class BackendAway(ProtocolError):
    """The backend cannot be reached now; trying again may help."""


class BackendUnusable(ProtocolError):
    """The backend answers, but cannot serve this node: a person must change something."""


class BlockRef(Struct, frozen=True):
    height: BlockHeight
    block_hash: bytes
    time: int


class Unspent(Struct, frozen=True):
    """An output in the UTXO set of the block `at`."""

    value: Sat
    script: bytes
    confirmations: int
    at: bytes


class Found(Struct, frozen=True):
    """A transaction; `height` None: it is in the mempool."""

    raw: bytes
    height: BlockHeight | None


class Outcome(Struct, frozen=True):
    """`accepted`: in the mempool or in a block, also from before."""

    accepted: bool
    reason: str


class ChainBackend(Protocol):
    """Every method may raise BackendAway or BackendUnusable."""

    cannot: frozenset[str]
    """What this backend is not able to do, in plain words, such as "old blocks"."""

    name: str
    """What a person knows it by, such as "bitcoind"."""

    async def check(self) -> None:
        """Raises BackendUnusable unless this is our network and everything needed is there."""

    async def tip(self) -> BlockRef: ...

    async def block_hash(self, height: int) -> bytes | None:
        """None above the tip."""

    async def look(self, height: int, block_hash: bytes, interest: Interest) -> Looked | None:
        """None when that block left the chain meanwhile: there will be a notice."""

    async def transaction_at(self, height: int, tx_index: int) -> Transaction | None:
        """None when there is no such block, or no such transaction in it."""

    async def output_status(self, txid: bytes, index: int) -> Unspent | None:
        """The output if it is confirmed and not spent by a block."""

    async def transaction(self, txid: bytes) -> Found | None: ...

    async def broadcast(self, raw: bytes) -> Outcome: ...

    async def feerate(self, target_blocks: int) -> FeeratePerKw | None: ...

    def subscribe(self, changed: Callable[[], None]) -> None:
        """`changed` is called when there may be a new block. It may be called for nothing, and may be late."""

    async def close(self) -> None: ...
