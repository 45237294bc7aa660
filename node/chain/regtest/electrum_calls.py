"""Electrum's questions about blocks, transactions and scripts (Electrum protocol 1.4, "Protocol Methods")."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from node.chain.regtest.chain import RegtestChain
from node.chain.regtest.index import Coin
from node.chain.regtest.methods import Methods
from node.chain.regtest.miner import merkle_root
from node.chain.regtest.script_history import ScriptHistory, Touch
from node.chain.regtest.views import Json
from protocol.bitcoin.transaction import OutPoint, Transaction, parse_txid, txid_hex
from protocol.hashes import double_sha256, sha256

BAD_REQUEST = 1
INVALID_PARAMS = -32602
MAX_HEADERS = 2016


class ElectrumError(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def parse_script_hash(text: object) -> bytes:
    try:
        return parse_txid(str(text))
    except ValueError:
        raise ElectrumError(BAD_REQUEST, f"{text!r} is no script hash: 64 hex digits are wanted") from None


def _txid(text: object) -> bytes:
    try:
        return parse_txid(str(text))
    except ValueError:
        raise ElectrumError(
            BAD_REQUEST, f"{text!r} is no transaction hash: 64 hex digits are wanted"
        ) from None


def _natural(value: object, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ElectrumError(BAD_REQUEST, f"{name} should be a non-negative integer")
    return value


def header_view(chain: RegtestChain, height: int) -> Json:
    return {"hex": chain.index.entries[height].header.hex(), "height": height}


def merkle_branch(hashes: list[bytes], position: int) -> list[bytes]:
    """The siblings on the way from a leaf to the root, lowest first."""
    branch = []
    level = hashes
    while len(level) > 1:
        if len(level) % 2:
            level = [*level, level[-1]]
        branch.append(level[position ^ 1])
        level = [double_sha256(level[i] + level[i + 1]) for i in range(0, len(level), 2)]
        position //= 2
    return branch


class Calls:
    """Parameters have the names of the protocol's documentation, for clients may name them."""

    def __init__(self, methods: Methods, history: ScriptHistory) -> None:
        self.chain = methods.chain
        self._methods = methods
        self._history = history

    def table(self) -> dict[str, Callable[..., Any]]:
        return {
            "blockchain.block.header": self._header,
            "blockchain.block.headers": self._headers,
            "blockchain.estimatefee": self._estimate_fee,
            "blockchain.scripthash.get_balance": self._balance,
            "blockchain.scripthash.get_history": self._get_history,
            "blockchain.scripthash.get_mempool": self._get_mempool,
            "blockchain.scripthash.listunspent": self._list_unspent,
            "blockchain.transaction.broadcast": self._broadcast,
            "blockchain.transaction.get": self._transaction,
            "blockchain.transaction.get_merkle": self._merkle,
            "blockchain.transaction.id_from_pos": self._id_from_position,
            "mempool.get_fee_histogram": self._fee_histogram,
        }

    @staticmethod
    def bound(method: Callable[..., Any], params: object, name: str) -> Callable[[], Any]:
        args, kwargs = (params, {}) if isinstance(params, list) else ([], params)
        try:
            inspect.signature(method).bind(*args, **kwargs)  # type: ignore[arg-type]
        except TypeError as error:
            raise ElectrumError(INVALID_PARAMS, f"{name}: {error}") from None
        return partial(method, *args, **kwargs)  # type: ignore[arg-type]

    # Blocks

    def _check_height(self, height: object, name: str = "height") -> int:
        number = _natural(height, name)
        if number > self.chain.height:
            raise ElectrumError(BAD_REQUEST, f"{name} {number} is above the tip, {self.chain.height}")
        return number

    def _proof(self, height: int, cp_height: int) -> Json:
        """That a header belongs to the chain of a checkpoint: a Merkle branch over block hashes."""
        if height > self._check_height(cp_height, "cp_height"):
            raise ElectrumError(BAD_REQUEST, f"height {height} is above cp_height {cp_height}")
        hashes = [entry.hash for entry in self.chain.index.entries[: cp_height + 1]]
        branch = merkle_branch(hashes, height)
        return {"branch": [txid_hex(node) for node in branch], "root": txid_hex(merkle_root(hashes))}

    def _header(self, height: int, cp_height: int = 0) -> str | Json:
        header = self.chain.index.entries[self._check_height(height)].header.hex()
        if not _natural(cp_height, "cp_height"):
            return header
        return {**self._proof(height, cp_height), "header": header}

    def _headers(self, start_height: int, count: int, cp_height: int = 0) -> Json:
        start = _natural(start_height, "start_height")
        end = start + min(_natural(count, "count"), MAX_HEADERS)
        found = [entry.header for entry in self.chain.index.entries[start:end]]
        view: Json = {"hex": b"".join(found).hex(), "count": len(found), "max": MAX_HEADERS}
        if found and _natural(cp_height, "cp_height"):
            view.update(self._proof(start + len(found) - 1, cp_height))
        return view

    # Fees

    def _estimate_fee(self, number: int) -> float:
        answer: float = self._methods.estimatesmartfee(number).get("feerate", -1)
        return answer

    def _fee_histogram(self) -> list[list[int]]:
        """Pairs of a feerate in sat/vB and the size of what pays it, highest first."""
        sizes: dict[int, int] = {}
        for entry in self.chain.mempool:
            rate = entry.fee // entry.tx.vsize
            sizes[rate] = sizes.get(rate, 0) + entry.tx.vsize
        return [[rate, sizes[rate]] for rate in sorted(sizes, reverse=True)]

    # Scripts

    def _get_history(self, scripthash: str) -> list[Json]:
        return [_touch_view(touch) for touch in self._history.of(parse_script_hash(scripthash))]

    def _get_mempool(self, scripthash: str) -> list[Json]:
        return [_touch_view(touch) for touch in self._history.unconfirmed(parse_script_hash(scripthash))]

    def _coins(self, script_hash: bytes) -> list[tuple[OutPoint, Coin, bool]]:
        """(outpoint, coin, is confirmed) of what nobody spent, in a block or in the mempool."""
        found: dict[OutPoint, tuple[Coin, bool]] = {}
        for touch in self._history.of(script_hash):
            for n, output in enumerate(self._known(touch.txid).outputs):
                outpoint = OutPoint(touch.txid, n)
                if sha256(output.script_pubkey) != script_hash:
                    continue
                coin = self.chain.coin(outpoint)
                if coin is not None:
                    found[outpoint] = (coin, touch.height > 0)
        return [(outpoint, coin, confirmed) for outpoint, (coin, confirmed) in found.items()]

    def _known(self, txid: bytes) -> Transaction:
        tx = self.chain.transaction(txid)
        if tx is None:
            raise ElectrumError(BAD_REQUEST, f"no such transaction: {txid_hex(txid)}")
        return tx

    def _list_unspent(self, scripthash: str) -> list[Json]:
        return [
            {
                "tx_hash": txid_hex(outpoint.txid),
                "tx_pos": outpoint.index,
                "height": coin.height if confirmed else 0,
                "value": coin.output.value,
            }
            for outpoint, coin, confirmed in self._coins(parse_script_hash(scripthash))
        ]

    def _balance(self, scripthash: str) -> Json:
        """Unconfirmed is a change: what the mempool brings, less what it spends of the confirmed."""
        script_hash = parse_script_hash(scripthash)
        total = sum(coin.output.value for _, coin, _ in self._coins(script_hash))
        confirmed = sum(coin.output.value for coin in self._confirmed_coins(script_hash))
        return {"confirmed": confirmed, "unconfirmed": total - confirmed}

    def _confirmed_coins(self, script_hash: bytes) -> list[Coin]:
        scripts = {
            output.script_pubkey
            for touch in self._history.of(script_hash)
            for output in self._known(touch.txid).outputs
            if sha256(output.script_pubkey) == script_hash
        }
        return [coin for script in scripts for coin in self.chain.index.coins_of(script).values()]

    # Transactions

    def _broadcast(self, raw_tx: str) -> str:
        return self._methods.sendrawtransaction(raw_tx)

    def _transaction(self, tx_hash: str, verbose: bool = False) -> str | Json:
        return self._methods.getrawtransaction(txid_hex(_txid(tx_hash)), bool(verbose))

    def _merkle(self, tx_hash: str, height: int) -> Json:
        place = self.chain.index.place_of(_txid(tx_hash))
        if place is None or place[0] != height:
            raise ElectrumError(BAD_REQUEST, f"no transaction {tx_hash} in the block at height {height}")
        hashes = list(self.chain.index.entries[height].txids)
        branch = merkle_branch(hashes, place[1])
        return {"merkle": [txid_hex(node) for node in branch], "block_height": height, "pos": place[1]}

    def _id_from_position(self, height: int, tx_pos: int, merkle: bool = False) -> str | Json:
        txids = list(self.chain.index.entries[self._check_height(height)].txids)
        position = _natural(tx_pos, "tx_pos")
        if position >= len(txids):
            raise ElectrumError(BAD_REQUEST, f"no transaction at position {position} of block {height}")
        found = txid_hex(txids[position])
        if not merkle:
            return found
        return {"tx_hash": found, "merkle": [txid_hex(node) for node in merkle_branch(txids, position)]}


def _touch_view(touch: Touch) -> Json:
    view: Json = {"tx_hash": txid_hex(touch.txid), "height": touch.height}
    return view if touch.fee is None else {**view, "fee": touch.fee}
