"""Which transaction stands where: the txids of a few blocks, for short channel ids (BOLT 7, "Definition of
`short_channel_id`"; Bitcoin Core's RPC reference, getblock with verbosity 1).

The list is proven by the block's own hash, so a damaged answer is not believed. It is some 130 KB as text and as
bytes alike where the block itself has 1.5 MB and takes 100 ms to read.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

from node.chain.blocks import check_txids, header_of
from node.chain.json_rpc import RpcError
from node.chain.together import Together
from protocol.bitcoin.transaction import parse_txid, txid_hex
from protocol.errors import MalformedMessage

OUT_OF_RANGE = -8
KEPT = 32
"""Blocks; at most 4 MB. Questions for channels come in the order of their blocks."""
BURIED = 144
"""From this depth the block at a height is not asked for again: we follow no deeper reorganisation either."""
KEPT_HASHES = 1_024
TXID = 32


class BlockTxids:
    """`read` gives the joined txids of a block, None for a block that left the chain."""

    def __init__(self, together: Together, read: Callable[[bytes], Awaitable[bytes | None]]) -> None:
        self._together = together
        self._read = read
        self.tip = 0
        self._hashes: OrderedDict[int, bytes] = OrderedDict()
        self._blocks: OrderedDict[bytes, bytes] = OrderedDict()
        self._reading: dict[bytes, asyncio.Task[bytes | None]] = {}

    def clear(self) -> None:
        """What comes now may be another server."""
        self._hashes.clear()
        self._blocks.clear()

    async def at(self, height: int, tx_index: int) -> bytes | None:
        """None above the tip, and behind the last transaction. Raises RpcError and what `read` raises."""
        block_hash = await self._hash(height)
        txids = None if block_hash is None else await self._of(block_hash)
        if txids is None or TXID * tx_index >= len(txids):
            return None
        return txids[TXID * tx_index : TXID * (tx_index + 1)]

    async def _hash(self, height: int) -> bytes | None:
        known = self._hashes.get(height)
        if known is not None:
            return known
        try:
            answer = await self._together.ask("getblockhash", height)
        except RpcError as error:
            if error.code == OUT_OF_RANGE or "out of range" in error.message:
                return None
            raise
        try:
            block_hash = parse_txid(answer)
        except (ValueError, TypeError) as error:
            raise RpcError(0, "a block hash in a form that we do not know") from error
        if height <= self.tip - BURIED:
            _keep(self._hashes, height, block_hash, KEPT_HASHES)
        return block_hash

    async def _of(self, block_hash: bytes) -> bytes | None:
        known = self._blocks.get(block_hash)
        if known is not None:
            self._blocks.move_to_end(block_hash)
            return known
        reading = self._reading.get(block_hash)
        if reading is None:
            reading = asyncio.ensure_future(self._read(block_hash))
            self._reading[block_hash] = reading
            reading.add_done_callback(lambda _: self._reading.pop(block_hash, None))
        # Who gives up does not take the answer from the others.
        txids = await asyncio.shield(reading)
        if txids is not None:
            _keep(self._blocks, block_hash, txids, KEPT)
        return txids


def _keep(kept: OrderedDict[Any, bytes], key: Any, value: bytes, most: int) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > most:
        kept.popitem(last=False)


def joined_txids(answer: Any, block_hash: bytes) -> bytes:
    """From getblock's answer, whose header must hash to the block and commit to these ids. Raises MalformedMessage."""
    try:
        txids = [parse_txid(text) for text in answer["tx"]]
        header = header_of(
            b"".join(
                (
                    answer["version"].to_bytes(4, "little", signed=True),
                    parse_txid(answer.get("previousblockhash", "00" * TXID)),
                    parse_txid(answer["merkleroot"]),
                    answer["time"].to_bytes(4, "little"),
                    bytes.fromhex(answer["bits"])[::-1],
                    answer["nonce"].to_bytes(4, "little"),
                )
            )
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise MalformedMessage("a block in a form that we do not know") from error
    if header.block_hash != block_hash:
        raise MalformedMessage(f"another block than {txid_hex(block_hash)}")
    check_txids(header, txids)
    return b"".join(txids)
