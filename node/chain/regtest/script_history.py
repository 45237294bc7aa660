"""Which transactions touch a script, as Electrum servers tell it (Electrum protocol 1.4, "Script Hashes", "Status").

A script hash is the SHA-256 of a script_pubkey, here in internal order; people read it reversed. The chain's part
is kept up by `connected` and `disconnected`; the mempool is small and looked at afresh.
"""

from dataclasses import dataclass

from node.chain.regtest.chain import BlockConnected, BlockDisconnected, RegtestChain
from node.chain.regtest.index import Block, Entry
from protocol.bitcoin.transaction import Transaction, txid_hex
from protocol.hashes import sha256


@dataclass(frozen=True, slots=True)
class Touch:
    """One line of a history. `height` 0: in the mempool; -1: there, with an unconfirmed parent."""

    txid: bytes
    height: int
    fee: int | None = None


class ScriptHistory:
    def __init__(self, chain: RegtestChain) -> None:
        self._chain = chain
        self._confirmed: dict[bytes, list[Touch]] = {}
        self._unconfirmed: dict[bytes, frozenset[bytes]] = {}
        """The script hashes of mempool transactions, for they are asked for again and again."""
        for height in range(chain.height + 1):
            self._connect(chain.block(height), height)

    def connected(self, event: BlockConnected) -> None:
        self._connect(event.block, event.height)

    def disconnected(self, event: BlockDisconnected) -> None:
        gone = {tx.txid for tx in event.block.transactions}
        for script_hash, touches in list(self._confirmed.items()):
            # Only the end of a list can be of the tip's block.
            while touches and touches[-1].txid in gone:
                touches.pop()
            if not touches:
                del self._confirmed[script_hash]

    def _connect(self, block: Block, height: int) -> None:
        spent = self._spent_scripts(block, self._chain.index.entries[height])
        for tx in block.transactions:
            for script_hash in _paid(tx) | spent.get(tx.txid, frozenset()):
                self._confirmed.setdefault(script_hash, []).append(Touch(tx.txid, height))

    @staticmethod
    def _spent_scripts(block: Block, entry: Entry) -> dict[bytes, frozenset[bytes]]:
        """What each transaction of a block spent; the undo list has the coins in the order of the inputs."""
        undo = iter(entry.undo)
        return {
            tx.txid: frozenset(sha256(next(undo)[1].output.script_pubkey) for _ in tx.inputs)
            for tx in block.transactions[1:]
        }

    def of(self, script_hash: bytes) -> list[Touch]:
        """Confirmed ones in the order of the chain, then the mempool's by id, so that a status repeats."""
        return [*self._confirmed.get(script_hash, ()), *self.unconfirmed(script_hash)]

    def unconfirmed(self, script_hash: bytes) -> list[Touch]:
        pool = self._chain.mempool
        for txid in self._unconfirmed.keys() - pool.entries.keys():
            del self._unconfirmed[txid]
        found = []
        for entry in pool:
            if script_hash in self._touched(entry.tx):
                height = -1 if pool.parents_of(entry.tx) else 0
                found.append(Touch(entry.tx.txid, height, entry.fee))
        return sorted(found, key=lambda touch: (-touch.height, touch.txid))

    def _touched(self, tx: Transaction) -> frozenset[bytes]:
        known = self._unconfirmed.get(tx.txid)
        if known is None:
            coins = (self._chain.mempool.coin(spent.outpoint) for spent in tx.inputs)
            known = _paid(tx) | {sha256(coin.output.script_pubkey) for coin in coins if coin is not None}
            self._unconfirmed[tx.txid] = known
        return known

    def status(self, script_hash: bytes) -> str | None:
        """None for a script that nobody ever used."""
        touches = self.of(script_hash)
        if not touches:
            return None
        return sha256("".join(f"{txid_hex(t.txid)}:{t.height}:" for t in touches).encode()).hex()


def _paid(tx: Transaction) -> frozenset[bytes]:
    return frozenset(sha256(output.script_pubkey) for output in tx.outputs)
