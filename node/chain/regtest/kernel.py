"""The one door to libbitcoinkernel (py-bitcoinkernel 0.1.0a5): blocks in, blocks out, scripts checked.

The kernel knows consensus and nothing else: no mempool, no lookup of coins, no invalidateblock. Its answer to
a bad block is the unchanged tip; the reason stands only in its log, which is read here.
"""

import logging
from pathlib import Path

import pbk

from node.chain.regtest.block_log import BlockLog
from protocol.bitcoin.transaction import Transaction, TxOut
from protocol.hashes import double_sha256

_log = logging.getLogger(__name__)
_last_refusal: list[str] = []
_connections: list[object] = []  # the log goes to one place per process; it must outlive every chain


class BlockRefused(Exception):
    """The kernel did not take this block; the text is its own reason."""


def _listen_to_log() -> None:
    if _connections:
        return

    def on_line(line: str) -> None:
        for mark in ("AcceptBlock FAILED (", "Block validation error: "):
            at = line.find(mark)
            if at >= 0:
                _last_refusal.append(line[at + len(mark) :].strip().removesuffix(")"))

    pbk.logging_set_options(pbk.LoggingOptions())
    _connections.append(pbk.LoggingConnection(cb=on_line))


class Kernel:
    """A regtest chainstate in `datadir`, which one process may open at a time."""

    def __init__(self, datadir: Path) -> None:
        _listen_to_log()
        datadir.mkdir(parents=True, exist_ok=True)
        try:
            self._manager = pbk.load_chainman(datadir, pbk.ChainType.REGTEST)
        except RuntimeError as error:
            raise RuntimeError(
                f"{datadir} cannot be opened: does another process use it? ({error})"
            ) from error
        self._chain = self._manager.get_active_chain()
        self._log = BlockLog(datadir / "blocks.log")
        self._recover()

    def _recover(self) -> None:
        """Gives the kernel the blocks that it took and had not written when the process was killed."""
        known = {self.hash_at(height) for height in range(self.height + 1)}
        for raw in self._log.blocks():
            if double_sha256(raw[:80]) not in known:
                self._process(raw)

    @property
    def height(self) -> int:
        return int(self._chain.height)

    def hash_at(self, height: int) -> bytes:
        """The hash, in internal order, of the active chain's block at this height."""
        return bytes(self._chain.block_tree_entries[height].block_hash)

    def block_at(self, height: int) -> bytes:
        return bytes(self._manager.blocks[self._chain.block_tree_entries[height]])

    def block_with(self, block_hash: bytes) -> bytes:
        """Any stored block, on the active chain or not."""
        return bytes(self._manager.blocks[self._manager.block_tree_entries[pbk.BlockHash(block_hash)]])

    def submit(self, raw: bytes) -> None:
        """Stores a block and follows the longest valid chain. Raises BlockRefused if it is not valid.

        A valid block on a shorter branch is stored and changes nothing yet.
        """
        self._process(raw)
        self._log.append(raw)

    def _process(self, raw: bytes) -> None:
        _last_refusal.clear()
        try:
            self._manager.process_block(pbk.Block(raw))
        except (pbk.KernelException, RuntimeError) as error:
            raise BlockRefused(_last_refusal[-1] if _last_refusal else str(error)) from error
        # process_block is content with a block that then fails to connect; only the log tells.
        if _last_refusal:
            raise BlockRefused(_last_refusal[-1])

    def close(self) -> None:
        """Lets go of the data directory (the library frees it when the last reference goes)."""
        self._log.close()
        del self._chain
        del self._manager


def failing_input(tx: Transaction, spent: list[TxOut]) -> int | None:
    """The first input whose script refuses, by consensus rules; None when all agree."""
    raw = pbk.Transaction(tx.serialize())
    outputs = [pbk.TransactionOutput(pbk.ScriptPubkey(coin.script_pubkey), coin.value) for coin in spent]
    precomputed = pbk.script.PrecomputedTransactionData(raw, outputs)
    for index, coin in enumerate(spent):
        script = pbk.ScriptPubkey(coin.script_pubkey)
        if not script.verify(coin.value, raw, precomputed, index, pbk.ScriptVerificationFlags.ALL):
            return index
    return None
