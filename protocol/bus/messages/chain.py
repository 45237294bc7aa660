"""What the chain service says and hears: blocks, outputs that we watch, transactions that we send."""

from msgspec import Struct

from protocol.amounts import BlockHeight, Sat

FINAL_DEPTH = 2100
"""Confirmations and spends are told again at each block until they are this deep: longer than any to_self_delay."""

SPENDS_BACK = 2016
"""Blocks that `WatchSpends` reads again at most: two weeks, after which gossip forgets silent channels anyway."""


class GetTip(Struct, frozen=True, tag="chain.get_tip"):
    pass


class Tip(Struct, frozen=True, tag="chain.tip"):
    """`synced`: whether our view has reached the backend's own tip."""

    height: BlockHeight
    block_hash: bytes
    synced: bool


class TipChanged(Struct, frozen=True, tag="chain.tip_changed"):
    """Event: after one or more blocks came or went, once all of them were told."""

    height: BlockHeight
    block_hash: bytes
    time: int


class BlockConnected(Struct, frozen=True, tag="chain.block"):
    height: BlockHeight
    block_hash: bytes
    time: int


class BlockDisconnected(Struct, frozen=True, tag="chain.unblock"):
    """Event: the newest block, at `height`, left the chain."""

    height: BlockHeight
    block_hash: bytes


class WatchOutput(Struct, frozen=True, tag="chain.watch"):
    """Answered with `OutputStatus`; then `OutputConfirmed` and `OutpointSpent` are told. Harmless to repeat.

    `since`: the block from which the output may be in the chain; 0 looks at the last blocks only.
    `mempool`: spends that are not confirmed are told too, with `height` None. Who asks for them must not take them
    for settled. Once asked for it stays so; asked again, what stands in the mempool is told again.
    """

    txid: bytes
    index: int
    script: bytes
    since: int = 0
    mempool: bool = False


class OutputStatus(Struct, frozen=True, tag="chain.status"):
    txid: bytes
    index: int
    value: Sat | None
    height: BlockHeight | None
    tx_index: int | None
    spent_by: bytes | None
    spent_height: BlockHeight | None


class UnwatchOutput(Struct, frozen=True, tag="chain.unwatch"):
    """One way."""

    txid: bytes
    index: int


class OutputConfirmed(Struct, frozen=True, tag="chain.confirmed"):
    """Event, at each block until `FINAL_DEPTH`: a watched output is in the block at `height`."""

    txid: bytes
    index: int
    value: Sat
    height: BlockHeight
    tx_index: int
    depth: int


class OutputReorganised(Struct, frozen=True, tag="chain.unconfirmed"):
    """Event: the block that held a watched output left the chain."""

    txid: bytes
    index: int


class OutpointSpent(Struct, frozen=True, tag="chain.spent"):
    """Event, at each block until `FINAL_DEPTH`: `tx` in the block at `height` spends a watched output.

    `height` None and `depth` 0: seen in the mempool, told once a transaction; it may never be mined. Only for outputs
    that are watched with `mempool`.
    """

    txid: bytes
    index: int
    tx: bytes
    height: BlockHeight | None
    depth: int


class SpendReorganised(Struct, frozen=True, tag="chain.unspent"):
    """Event: the block with the spend left the chain."""

    txid: bytes
    index: int


class WatchScript(Struct, frozen=True, tag="chain.watch_script"):
    """One way. Tells `ScriptPaid` from now on; `ScanFrom` looks into older blocks."""

    script: bytes


class ScriptPaid(Struct, frozen=True, tag="chain.paid"):
    """Event: an output to a watched script is in the block at `height`; it is watched for its spend too."""

    script: bytes
    txid: bytes
    index: int
    value: Sat
    height: BlockHeight
    coinbase: bool


class ScanFrom(Struct, frozen=True, tag="chain.scan"):
    """Looks again into every block from this height on; answered with `Scanned`."""

    height: BlockHeight


class Scanned(Struct, frozen=True, tag="chain.scanned"):
    first: BlockHeight
    last: BlockHeight


class ScanProgress(Struct, frozen=True, tag="chain.scan_progress"):
    """Event, for whoever waits for a long scan: all blocks up to `height` were read, `last` is the newest now."""

    height: BlockHeight
    last: BlockHeight


class Broadcast(Struct, frozen=True, tag="chain.broadcast"):
    """Saves a transaction and sends it, again after each block until it confirms.

    Without `keep` a transaction that the backend refuses is forgotten. `parents`: unconfirmed transactions that need
    this child's fee; they go out with it as one package, parents first.
    """

    raw: bytes
    label: str = ""
    keep: bool = True
    parents: tuple[bytes, ...] = ()


class BroadcastResult(Struct, frozen=True, tag="chain.sent"):
    """`accepted` also when the backend knew it already. `reason`: the backend's words for a refusal."""

    txid: bytes
    accepted: bool
    reason: str = ""


class Forget(Struct, frozen=True, tag="chain.forget"):
    """One way: this transaction is superseded; it is not sent again. One that is in a block stays."""

    txid: bytes


class GetFeerate(Struct, frozen=True, tag="chain.get_feerate"):
    """Answered with a `FeeratePerKw`."""

    target_blocks: int = 6


class GetMempoolMinimum(Struct, frozen=True, tag="chain.get_mempool_minimum"):
    """Answered with a `FeeratePerKw`: below it the backend's mempool takes nothing now."""


class GetTransaction(Struct, frozen=True, tag="chain.get_tx"):
    """Answered with `TransactionFound`, or None when it is not known.

    `height`: the block that holds it, where that is known: then no index of old transactions is needed.
    """

    txid: bytes
    height: BlockHeight | None = None


class TransactionFound(Struct, frozen=True, tag="chain.tx"):
    raw: bytes
    height: BlockHeight | None


class GetOutputAt(Struct, frozen=True, tag="chain.get_output_at"):
    """What a short channel id points at; answered with `OutputAt`, or None when there is no such output.

    A backend that only knows outputs which no block has spent answers None for the others too.
    """

    height: BlockHeight
    tx_index: int
    output_index: int


class OutputAt(Struct, frozen=True, tag="chain.output_at"):
    txid: bytes
    value: Sat
    script: bytes
    unspent: bool


class WatchSpends(Struct, frozen=True, tag="chain.watch_spends"):
    """Many outputs of others, of which only whether a block spends them matters; answered with `SpendsWatched`.

    `outpoints`: 36 bytes each (txid, index in little endian), one after another; they are added to those before.
    `since`: the block up to which their spends are known. Later blocks that were read before are read again, as far
    as `SPENDS_BACK` blocks. Told is `OutpointsSpent`. Harmless to repeat.
    """

    outpoints: bytes
    since: int


class SpendsWatched(Struct, frozen=True, tag="chain.spends_watched"):
    """Told of are the blocks up to `height` and all that follow.

    `able` False: this backend has no whole blocks, so nothing will be told. `complete` False: some blocks after
    `since` could not be read again.
    """

    height: BlockHeight
    able: bool = True
    complete: bool = True


class UnwatchSpends(Struct, frozen=True, tag="chain.unwatch_spends"):
    """One way."""

    outpoints: bytes


class OutpointsSpent(Struct, frozen=True, tag="chain.outpoints_spent"):
    """Event, once a block while any are watched: which of those of `WatchSpends` the block at `height` spends.

    They stay watched, since the block may leave the chain.
    """

    height: BlockHeight
    outpoints: tuple[bytes, ...]


class OutpointsUnspent(Struct, frozen=True, tag="chain.outpoints_unspent"):
    """Event: the block at `height`, which had spent these, left the chain."""

    height: BlockHeight
    outpoints: tuple[bytes, ...]


class GetChainStatus(Struct, frozen=True, tag="chain.get_status"):
    """Answered with `ChainStatus`, also while no block is known."""


class ChainStatus(Struct, frozen=True, tag="chain.status_of"):
    """`cannot`: what the backend is not able to do. `away`, `behind`: why it does not answer, or lags; else empty."""

    backend: str
    cannot: tuple[str, ...]
    height: BlockHeight | None
    synced: bool
    away: str = ""
    behind: str = ""


class ChainAway(Struct, frozen=True, tag="chain.away"):
    reason: str


class ChainBack(Struct, frozen=True, tag="chain.back"):
    pass
