"""The RPC methods: names, arguments, results and error codes as in Bitcoin Core, and five of our own.

Ours: `fund(address, amount_sat)` pays from the faucet; `makefunding(script, amount_sat)` gives such a payment
unsent, for nodes without a wallet; `reorg(depth, blocks, transactions)` replaces blocks;
`setfeerate(sat_per_kvb)` moves what estimatesmartfee answers (null: no estimate). `generateblock` is Core's.
invalidateblock cannot be offered: the kernel has no such call.
"""

import inspect
import time
from collections.abc import Callable
from typing import Any

from node.chain.regtest import policy, views
from node.chain.regtest.chain import RegtestChain
from node.chain.regtest.faucet import FaucetEmpty
from node.chain.regtest.index import Block, is_unspendable
from node.chain.regtest.kernel import BlockRefused
from node.chain.regtest.notify import HIGH_WATER_MARK, TOPICS
from node.chain.regtest.policy import Rejected
from node.chain.regtest.views import Json, btc
from protocol.amounts import Sat
from protocol.bitcoin.address import script_pubkey_of
from protocol.bitcoin.network import REGTEST
from protocol.bitcoin.transaction import OutPoint, Transaction, TxOut, parse_txid, txid_hex
from protocol.errors import MalformedMessage

MISC_ERROR = -1
TYPE_ERROR = -3
NOT_FOUND = -5
INVALID_PARAMETER = -8
DESERIALIZATION_ERROR = -22
VERIFY_ERROR = -25
VERIFY_REJECTED = -26
ALREADY_IN_CHAIN = -27
METHOD_NOT_FOUND = -32601
DEFAULT_FEERATE = 2_000
DEFAULT_MAX_FEERATE = 0.10
VERSION = 290_000
MAX_BLOCKS_PER_CALL = 10_000
DEPLOYMENTS = ("bip34", "bip65", "bip66", "csv", "segwit", "taproot")


class RpcError(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def _txid(text: object, name: str = "txid") -> bytes:
    if not isinstance(text, str):
        raise RpcError(TYPE_ERROR, f"{name} must be a string of 64 hex digits")
    try:
        return parse_txid(text)
    except ValueError:
        raise RpcError(INVALID_PARAMETER, f"{name} must be hexadecimal string of length 64") from None


def _transaction(text: object) -> Transaction:
    try:
        if isinstance(text, str):
            return Transaction.parse(bytes.fromhex(text))
    except (ValueError, MalformedMessage):
        pass
    raise RpcError(DESERIALIZATION_ERROR, "TX decode failed. Make sure the tx has at least one input.")


def _integer(value: object, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise RpcError(TYPE_ERROR, f"{name} must be an integer")
    return value


def _script_pubkey(address: object) -> bytes:
    try:
        return script_pubkey_of(str(address), REGTEST)
    except MalformedMessage as error:
        raise RpcError(NOT_FOUND, f"Error: Invalid address ({error})") from None


class Methods:
    """One method of this class for each RPC method; a parameter has the name that Core gives it."""

    def __init__(self, chain: RegtestChain, *, stop: Callable[[], None], zmq_endpoint: str = "") -> None:
        self.chain = self._chain = chain
        self._stop = stop
        self._zmq_endpoint = zmq_endpoint
        self._feerate: int | None = DEFAULT_FEERATE
        self._started = time.monotonic()

    def call(self, name: object, params: object) -> Any:
        """Raises RpcError; any other exception is a bug of ours."""
        method = getattr(self, name, None) if isinstance(name, str) and name.isalpha() else None
        if method is None or name == "call":
            raise RpcError(METHOD_NOT_FOUND, "Method not found")
        args, kwargs = self._arguments(method, params)
        try:
            return method(*args, **kwargs)
        except BlockRefused as error:
            raise RpcError(VERIFY_ERROR, f"the block was refused: {error}") from error

    @staticmethod
    def _arguments(method: Callable[..., Any], params: object) -> tuple[list[Any], dict[str, Any]]:
        if not isinstance(params, (list, dict)):
            raise RpcError(-32600, "Params must be an array or object")
        args, kwargs = (params, {}) if isinstance(params, list) else ([], params)
        try:
            inspect.signature(method).bind(*args, **kwargs)
        except TypeError as error:
            raise RpcError(MISC_ERROR, f"{method.__name__}{inspect.signature(method)}: {error}") from None
        return args, kwargs

    # Blocks

    def getblockcount(self) -> int:
        return self._chain.height

    def getbestblockhash(self) -> str:
        return txid_hex(self._chain.tip_hash)

    def getblockhash(self, height: int) -> str:
        if not 0 <= _integer(height, "height") <= self._chain.height:
            raise RpcError(INVALID_PARAMETER, "Block height out of range")
        return txid_hex(self._chain.index.entries[height].hash)

    def _height(self, blockhash: str) -> int:
        height = self._chain.index.height_of(_txid(blockhash, "blockhash"))
        if height is None:
            raise RpcError(NOT_FOUND, "Block not found")
        return height

    def getblock(self, blockhash: str, verbosity: int | bool = 1) -> str | Json:
        height = self._height(blockhash)
        block = self._chain.block(height)
        if int(verbosity) == 0:
            return block.raw.hex()
        return views.block_view(self._chain, block, height, full=int(verbosity) >= 2)

    def getblockheader(self, blockhash: str, verbose: bool = True) -> str | Json:
        height = self._height(blockhash)
        if not verbose:
            return self._chain.index.entries[height].header.hex()
        return views.header_view(self._chain, height)

    def getblockchaininfo(self) -> Json:
        chain = self._chain
        tip = chain.index.entries[-1]
        return {
            "chain": "regtest",
            "blocks": chain.height,
            "headers": chain.height,
            "bestblockhash": txid_hex(tip.hash),
            "difficulty": views.DIFFICULTY,
            "time": tip.time,
            "mediantime": chain.index.median_time(chain.height),
            "verificationprogress": 1,
            "initialblockdownload": False,
            "chainwork": f"{(chain.height + 1) * views.WORK_PER_BLOCK:064x}",
            "pruned": False,
            "warnings": [],
        }

    def getnetworkinfo(self) -> Json:
        return {
            "version": VERSION,
            "subversion": "/lnp-regtest:0.1.0/",
            "protocolversion": 70016,
            "localservices": "0000000000000000",
            "localrelay": True,
            "timeoffset": 0,
            "networkactive": False,
            "connections": 0,
            "networks": [],
            "relayfee": btc(policy.MIN_RELAY_FEE_PER_KVB),
            "incrementalfee": btc(policy.INCREMENTAL_FEE_PER_KVB),
            "localaddresses": [],
            "warnings": [],
        }

    def getdeploymentinfo(self, blockhash: str | None = None) -> Json:
        """Which rules are in force: on regtest all of them, from the first block on."""
        height = self._chain.height if blockhash is None else self._height(blockhash)
        buried: Json = {"type": "buried", "active": True, "height": 0}
        return {
            "hash": txid_hex(self._chain.index.entries[height].hash),
            "height": height,
            "deployments": dict.fromkeys(DEPLOYMENTS, buried),
        }

    def getzmqnotifications(self) -> list[Json]:
        endpoint: Json = {"address": self._zmq_endpoint, "hwm": HIGH_WATER_MARK}
        return [{"type": f"pub{topic}", **endpoint} for topic in TOPICS if self._zmq_endpoint]

    def uptime(self) -> int:
        return int(time.monotonic() - self._started)

    # Transactions

    def getrawtransaction(
        self, txid: str, verbosity: int | bool = 0, blockhash: str | None = None
    ) -> str | Json:
        wanted = _txid(txid)
        tx, block = self._chain.transaction(wanted), None
        if blockhash is not None:
            block = self._chain.block(self._height(blockhash))
            tx = next((t for t in block.transactions if t.txid == wanted), None)
        if tx is None:
            where = "mempool or blockchain" if blockhash is None else "in the provided block"
            raise RpcError(NOT_FOUND, f"No such {where} transaction")
        if not verbosity:
            return tx.serialize().hex()
        return {**views.transaction_view(tx), **self._confirmation(wanted)}

    def _confirmation(self, txid: bytes) -> Json:
        place = self._chain.index.place_of(txid)
        if place is None:
            return {}
        entry = self._chain.index.entries[place[0]]
        return {
            "blockhash": txid_hex(entry.hash),
            "confirmations": self._chain.height - place[0] + 1,
            "time": entry.time,
            "blocktime": entry.time,
        }

    def gettxout(self, txid: str, n: int, include_mempool: bool = True) -> Json | None:
        outpoint = OutPoint(_txid(txid), _integer(n, "n"))
        coin = self._chain.coin(outpoint, include_mempool=include_mempool)
        if coin is None:
            return None
        return {
            "bestblock": txid_hex(self._chain.tip_hash),
            "confirmations": max(0, self._chain.height - coin.height + 1),
            "value": btc(coin.output.value),
            "scriptPubKey": views.script_view(coin.output.script_pubkey),
            "coinbase": coin.coinbase,
        }

    def gettxspendingprevout(self, outputs: list[Json], mempool_only: bool = True) -> list[Json]:
        """The mempool's spender of each output; without `mempool_only` the chain's too."""
        if not isinstance(outputs, list) or not outputs:
            raise RpcError(INVALID_PARAMETER, "Invalid parameter, outputs are missing")
        found = []
        for item in outputs:
            if not isinstance(item, dict):
                raise RpcError(TYPE_ERROR, "each output must be an object with txid and vout")
            outpoint = OutPoint(_txid(item.get("txid")), _integer(item.get("vout"), "vout"))
            spender = self._chain.mempool.spender_of(outpoint)
            if spender is None and not mempool_only:
                spender = self._chain.index.spender_of(outpoint)
            row: Json = {"txid": item["txid"], "vout": item["vout"]}
            found.append(row if spender is None else {**row, "spendingtxid": txid_hex(spender)})
        return found

    def sendrawtransaction(
        self, hexstring: str, maxfeerate: float = DEFAULT_MAX_FEERATE, maxburnamount: float = 0
    ) -> str:
        tx = _transaction(hexstring)
        for output in tx.outputs:
            if is_unspendable(output.script_pubkey) and btc(output.value) > float(maxburnamount):
                why = "Unspendable output exceeds maximum configured by user (maxburnamount)"
                raise RpcError(VERIFY_ERROR, why)
        if tx.txid in self._chain.mempool:
            return txid_hex(tx.txid)
        try:
            fee = self._chain.would_accept(tx)
            if self._fee_is_excessive(tx, fee, maxfeerate):
                why = "Fee exceeds maximum configured by user (e.g. -maxtxfee, maxfeerate)"
                raise RpcError(VERIFY_ERROR, why)
            return txid_hex(self._chain.submit(tx))
        except Rejected as error:
            if error.reason == "txn-already-known":
                why = "Transaction outputs already in utxo set"
                raise RpcError(ALREADY_IN_CHAIN, why) from error
            missing = error.reason == "bad-txns-inputs-missingorspent"
            raise RpcError(VERIFY_ERROR if missing else VERIFY_REJECTED, str(error)) from error

    @staticmethod
    def _fee_is_excessive(tx: Transaction, fee: int, max_feerate: float) -> bool:
        limit = round(float(max_feerate) * 100_000_000)
        return limit > 0 and fee > policy.fee_at(limit, tx.vsize)

    def testmempoolaccept(self, rawtxs: list[str], maxfeerate: float = DEFAULT_MAX_FEERATE) -> list[Json]:
        """Each transaction by itself: a parent must be in the mempool already."""
        if not isinstance(rawtxs, list) or not 1 <= len(rawtxs) <= 25:
            raise RpcError(INVALID_PARAMETER, "Array must contain between 1 and 25 transactions.")
        return [self._test(_transaction(raw), maxfeerate) for raw in rawtxs]

    def _test(self, tx: Transaction, max_feerate: float) -> Json:
        row: Json = {"txid": txid_hex(tx.txid), "wtxid": txid_hex(tx.wtxid)}
        try:
            fee = self._chain.would_accept(tx)
        except Rejected as error:
            missing = error.reason == "bad-txns-inputs-missingorspent"
            reason = "missing-inputs" if missing else error.reason
            return {**row, "allowed": False, "reject-reason": reason, "reject-details": str(error)}
        if self._fee_is_excessive(tx, fee, max_feerate):
            return {**row, "allowed": False, "reject-reason": "max-fee-exceeded"}
        effective = {
            "effective-feerate": btc(fee * 1000 // tx.vsize),
            "effective-includes": [txid_hex(tx.wtxid)],
        }
        return {**row, "allowed": True, "vsize": tx.vsize, "fees": {"base": btc(fee), **effective}}

    # Mempool

    def getrawmempool(self, verbose: bool = False) -> list[str] | Json:
        if not verbose:
            return [txid_hex(txid) for txid in self._chain.mempool.entries]
        return {txid_hex(e.tx.txid): views.entry_view(self._chain, e) for e in self._chain.mempool}

    def getmempoolentry(self, txid: str) -> Json:
        entry = self._chain.mempool.entries.get(_txid(txid))
        if entry is None:
            raise RpcError(NOT_FOUND, "Transaction not in mempool")
        return views.entry_view(self._chain, entry)

    def getmempoolinfo(self) -> Json:
        entries = list(self._chain.mempool)
        return {
            "loaded": True,
            "size": len(entries),
            "bytes": sum(e.tx.vsize for e in entries),
            "usage": sum(len(e.tx.serialize()) for e in entries),
            "total_fee": btc(sum(e.fee for e in entries)),
            "maxmempool": 300_000_000,
            "mempoolminfee": btc(policy.MIN_RELAY_FEE_PER_KVB),
            "minrelaytxfee": btc(policy.MIN_RELAY_FEE_PER_KVB),
            "incrementalrelayfee": btc(policy.INCREMENTAL_FEE_PER_KVB),
            "unbroadcastcount": 0,
            "fullrbf": True,
        }

    def estimatesmartfee(self, conf_target: int, estimate_mode: str = "economical") -> Json:
        if not 1 <= _integer(conf_target, "conf_target") <= 1008:
            raise RpcError(INVALID_PARAMETER, "Invalid conf_target, must be between 1 and 1008")
        if self._feerate is None:
            return {"errors": ["Insufficient data or no feerate found"], "blocks": conf_target}
        return {"feerate": btc(self._feerate), "blocks": conf_target}

    def setfeerate(self, sat_per_kvb: int | None) -> None:
        self._feerate = None if sat_per_kvb is None else _integer(sat_per_kvb, "sat_per_kvb")

    # Mining and our own

    def generatetoaddress(self, nblocks: int, address: str, maxtries: int = 1_000_000) -> list[str]:
        count = _integer(nblocks, "nblocks")
        if not 0 <= count <= MAX_BLOCKS_PER_CALL:
            raise RpcError(INVALID_PARAMETER, f"nblocks must be between 0 and {MAX_BLOCKS_PER_CALL}")
        return [txid_hex(h) for h in self._chain.generate(count, _script_pubkey(address))]

    def generateblock(self, output: str, transactions: list[str], submit: bool = True) -> Json:
        """A block with exactly these transactions: txids of the mempool, or raw. `[]`: an empty block."""
        if not submit:
            raise RpcError(INVALID_PARAMETER, "only submit=true is supported")
        chosen = []
        for text in transactions:
            known = self._chain.mempool.entries.get(_txid(text)) if len(text) == 64 else None
            chosen.append(known.tx if known else _transaction(text))
        return {"hash": txid_hex(self._chain.generate_block(chosen, _script_pubkey(output)))}

    def submitblock(self, hexdata: str) -> str | None:
        try:
            raw = bytes.fromhex(hexdata)
            known = self._chain.index.height_of(Block.parse(raw).hash) is not None
        except (ValueError, MalformedMessage):
            raise RpcError(DESERIALIZATION_ERROR, "Block decode failed") from None
        if known:
            return "duplicate"
        try:
            self._chain.submit_block(raw)
        except BlockRefused as error:
            return str(error).split(",")[0]
        return None

    def fund(self, address: str, amount_sat: int) -> Json:
        """The faucet pays; mine a block to confirm it."""
        try:
            paid = self._chain.fund(_script_pubkey(address), Sat(_integer(amount_sat, "amount_sat")))
        except (FaucetEmpty, Rejected) as error:
            raise RpcError(VERIFY_REJECTED, str(error)) from error
        return {"txid": txid_hex(paid.txid), "vout": paid.index}

    def makefunding(self, script: str, amount_sat: int) -> str:
        """A payment of the faucet that is not broadcast. Send it before the next one is made."""
        try:
            output = TxOut(Sat(_integer(amount_sat, "amount_sat")), bytes.fromhex(script))
            return self._chain.prepare([output]).serialize().hex()
        except (FaucetEmpty, ValueError) as error:
            raise RpcError(VERIFY_REJECTED, str(error)) from error

    def reorg(
        self, depth: int, new_blocks: int | None = None, transactions: list[str] | None = None
    ) -> list[str]:
        try:
            chosen = [_transaction(text) for text in transactions or []]
            return [txid_hex(h) for h in self._chain.reorg(depth, new_blocks, chosen)]
        except ValueError as error:
            raise RpcError(INVALID_PARAMETER, str(error)) from error

    def stop(self) -> str:
        self._stop()
        return "lnp-regtest stopping"
