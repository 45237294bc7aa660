"""What the node needs of a source of blocks (DESIGN, "The chain"): `bitcoind` gives them whole, `electrum` in parts."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from node.chain.blocks import Interest, Looked
from protocol.amounts import BlockHeight, FeeratePerKw, Sat
from protocol.bitcoin.transaction import OutPoint, Transaction
from protocol.errors import ProtocolError

OLD_BLOCKS = "old blocks"
NOTHING_LEFT_OUT = "proof that nothing was left out"
PACKAGES = "packages"
MEMPOOL_SPENDS = "spends in the mempool"
FEE_ESTIMATES = "fee estimates"
OTHERS_SPENDS = "spends of others' outputs"
"""What a backend may say that it cannot do."""


class BackendAway(ProtocolError):
    """The backend cannot be reached now; trying again may help."""


class BackendUnusable(ProtocolError):
    """The backend answers, but cannot serve this node: a person must change something."""


class BlockRef(Struct, frozen=True):
    """`behind`: why this is not the newest block that there is, if the backend knows that it lags."""

    height: BlockHeight
    block_hash: bytes
    time: int
    behind: str = ""


class Unspent(Struct, frozen=True):
    """An output in the UTXO set of the block `at`."""

    value: Sat
    script: bytes
    confirmations: int
    at: bytes


class Placed(Struct, frozen=True):
    """An output by its place in the chain, in the transaction `txid`."""

    txid: bytes
    value: Sat
    script: bytes
    unspent: bool


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
    """What this backend is not able to do, in the words above. Known after `check`; it may grow."""

    name: str
    """What a person knows it by, such as "bitcoind"."""

    async def check(self) -> None:
        """Raises BackendUnusable unless this is our network and everything needed is there.

        Asked again whenever the chain does not go on from our tip: the backend may be another one now.
        """

    async def tip(self) -> BlockRef: ...

    async def block_hash(self, height: int) -> bytes | None:
        """None above the tip."""

    async def look(self, height: int, block_hash: bytes, interest: Interest) -> Looked | None:
        """None when that block left the chain meanwhile: there will be a notice."""

    async def output_at(self, height: int, tx_index: int, output_index: int) -> Placed | None:
        """None when there is no such block, transaction or output; also for a spent one, if it cannot tell."""

    async def output_status(self, txid: bytes, index: int) -> Unspent | None:
        """The output if it is confirmed and not spent by a block."""

    async def transaction(self, txid: bytes, height: int | None = None) -> Found | None:
        """`height`: the block to look in, for a backend that has no index of old transactions."""

    async def broadcast(self, raw: bytes) -> Outcome: ...

    async def submit_package(self, parents: Sequence[bytes], child: bytes) -> Outcome:
        """What became of the child. Without packages: each by itself, parents first, and PACKAGES in `cannot`."""

    async def mempool_spenders(self, watched: Mapping[OutPoint, bytes]) -> Sequence[Transaction]:
        """Unconfirmed transactions that spend any of these outputs, which are given with their scripts.

        Others may be among them. `changed` is called when the answer may be another one.
        """

    async def feerate(self, target_blocks: int) -> FeeratePerKw | None: ...

    async def mempool_minimum(self) -> FeeratePerKw:
        """Below this its mempool takes nothing now; the floor of the protocol, if it cannot tell."""

    def subscribe(self, changed: Callable[[], None]) -> None:
        """`changed` is called when there may be a new block, or a new spender of what was asked for.

        It may be called for nothing, and may be late.
        """

    async def close(self) -> None: ...


async def send_one_by_one(
    broadcast: Callable[[bytes], Awaitable[Outcome]], parents: Sequence[bytes], child: bytes
) -> Outcome:
    """A package for a backend that takes none. A parent that pays too little by itself is refused, and so its child."""
    refused = []
    for parent in parents:
        outcome = await broadcast(parent)
        if not outcome.accepted:
            refused.append(outcome.reason)
    outcome = await broadcast(child)
    if outcome.accepted or not refused:
        return outcome
    why = "; ".join(dict.fromkeys(refused))
    return Outcome(False, f"{outcome.reason}; its parent: {why} (sent one by one: no packages here)")
