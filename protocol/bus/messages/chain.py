"""What the chain service says and hears: tip, watches, broadcasts and fees (DESIGN, "The chain").

Txids and block hashes are in internal order. Events about watches are said again after every block, with the
depth they then have, until that is `FINAL_DEPTH`: whoever missed one gets the next.
"""

from msgspec import Struct

from protocol.amounts import BlockHeight, FeeratePerKw, Sat
from protocol.bus.registry import register

FINAL_DEPTH = 100


@register
class GetTip(Struct, frozen=True, tag="chain.get_tip"):
    """Answered with `Tip`; waits while no tip is known yet."""


@register
class Tip(Struct, frozen=True, tag="chain.tip"):
    """`synced` is False while the backend is away or still behind: then `height` is the last one known."""

    height: BlockHeight
    block_hash: bytes
    synced: bool


@register
class WatchOutput(Struct, frozen=True, tag="chain.watch_output"):
    """Watches an output for its confirmation and its spending; `script` is its script_pubkey.

    What happened from block `since` on is found too (0: in the last 144 blocks). Answered with
    `OutputStatus`; the events follow as well. Repeating it is harmless.
    """

    txid: bytes
    index: int
    script: bytes
    since: BlockHeight = BlockHeight(0)


@register
class OutputStatus(Struct, frozen=True, tag="chain.output_status"):
    """`height` None: not confirmed. `spent_height` None: not spent in a block."""

    txid: bytes
    index: int
    value: Sat | None
    height: BlockHeight | None
    tx_index: int | None
    spent_by: bytes | None
    spent_height: BlockHeight | None


@register
class UnwatchOutput(Struct, frozen=True, tag="chain.unwatch_output"):
    """One way."""

    txid: bytes
    index: int


@register
class WatchScript(Struct, frozen=True, tag="chain.watch_script"):
    """One way: `ScriptPaid` for each output to it from the next block on, and `OutpointSpent` of those."""

    script: bytes


@register
class ScanFrom(Struct, frozen=True, tag="chain.scan_from"):
    """Looks through the blocks from `height` on for everything watched. Answered with `Scanned`."""

    height: BlockHeight


@register
class Scanned(Struct, frozen=True, tag="chain.scanned"):
    first: BlockHeight
    last: BlockHeight


@register
class Broadcast(Struct, frozen=True, tag="chain.broadcast"):
    """Saves the transaction, publishes it, and again after each block until it is confirmed.

    With `keep` False a refused one is forgotten; else it is tried again although it was refused.
    """

    raw: bytes
    label: str = ""
    keep: bool = True


@register
class BroadcastResult(Struct, frozen=True, tag="chain.broadcast_result"):
    """`accepted`: it is in the mempool or in a block. `reason`: the backend's words when it is not."""

    txid: bytes
    accepted: bool
    reason: str


@register
class GetFeerate(Struct, frozen=True, tag="chain.get_feerate"):
    """Answered with a `FeeratePerKw` (a number), or refused when there is no estimate."""

    target_blocks: int


@register
class GetTransaction(Struct, frozen=True, tag="chain.get_transaction"):
    """Answered with `TransactionFound`, or None: not in mempool or chain, or the backend has no index."""

    txid: bytes


@register
class TransactionFound(Struct, frozen=True, tag="chain.transaction"):
    raw: bytes
    height: BlockHeight | None


@register
class GetOutputAt(Struct, frozen=True, tag="chain.get_output_at"):
    """The output that a short channel id names. Answered with `OutputAt`, or None when there is none."""

    height: BlockHeight
    tx_index: int
    output_index: int


@register
class OutputAt(Struct, frozen=True, tag="chain.output_at"):
    txid: bytes
    value: Sat
    script: bytes
    unspent: bool


@register
class BlockConnected(Struct, frozen=True, tag="chain.connected"):
    """Event: one more block. While catching up there are many before one `TipChanged`."""

    height: BlockHeight
    block_hash: bytes
    time: int


@register
class BlockDisconnected(Struct, frozen=True, tag="chain.disconnected"):
    """Event: the chain was reorganised and this block is no longer part of it."""

    height: BlockHeight
    block_hash: bytes


@register
class TipChanged(Struct, frozen=True, tag="chain.tip_changed"):
    """Event: all blocks up to here were connected. The events about watches follow it."""

    height: BlockHeight
    block_hash: bytes
    time: int


@register
class OutputConfirmed(Struct, frozen=True, tag="chain.output_confirmed"):
    """Event about `WatchOutput`."""

    txid: bytes
    index: int
    value: Sat
    height: BlockHeight
    tx_index: int
    depth: int


@register
class OutputReorganised(Struct, frozen=True, tag="chain.output_reorganised"):
    """Event: the block that held a watched output is no longer in the chain."""

    txid: bytes
    index: int


@register
class OutpointSpent(Struct, frozen=True, tag="chain.outpoint_spent"):
    """Event: `tx`, in the block at `height`, spends a watched output."""

    txid: bytes
    index: int
    tx: bytes
    height: BlockHeight
    depth: int


@register
class SpendReorganised(Struct, frozen=True, tag="chain.spend_reorganised"):
    """Event: the block that held the spending is no longer in the chain; the output is unspent again."""

    txid: bytes
    index: int


@register
class ScriptPaid(Struct, frozen=True, tag="chain.script_paid"):
    """Event about `WatchScript`; said once for each block that holds it."""

    script: bytes
    txid: bytes
    index: int
    value: Sat
    height: BlockHeight
    coinbase: bool


@register
class ChainAway(Struct, frozen=True, tag="chain.away"):
    """Event: the backend does not answer; `reason` says what to do."""

    reason: str


@register
class ChainBack(Struct, frozen=True, tag="chain.back"):
    """Event: the backend answers again."""
