"""The RPC methods: names, arguments, results and error codes as in Bitcoin Core, and eight of our own.

Ours: `fund(address, amount_sat)` pays from the faucet; `makefunding(script, amount_sat)` gives such a payment
unsent, for nodes without a wallet; `reorg(depth, blocks, transactions)` replaces blocks;
`setfeerate(sat_per_kvb)` moves what estimatesmartfee answers (null: no estimate). A rising market is made with
`setminfeerate(sat_per_kvb)`, below which nothing stays in the mempool, `setblockfloor(sat_per_kvb)`, below which
nothing is mined, and `setmempoolsize(vbytes)`. `generateblock` is Core's.
invalidateblock cannot be offered: the kernel has no such call.
"""

import inspect
import time
from collections.abc import Callable
from typing import Any

from node.chain.regtest import policy, views
from node.chain.regtest.chain import RegtestChain
from node.chain.regtest.faucet import FaucetEmpty
from node.chain.regtest.index import Block
from node.chain.regtest.kernel import BlockRefused
from node.chain.regtest.notify import HIGH_WATER_MARK, TOPICS
from node.chain.regtest.policy import Rejected
from node.chain.regtest.rpc_values import (
    DESERIALIZATION_ERROR,
    INVALID_PARAMETER,
    METHOD_NOT_FOUND,
    MISC_ERROR,
    VERIFY_ERROR,
    VERIFY_REJECTED,
    RpcError,
    integer,
    script_pubkey,
    transaction,
    txid_of,
)
from node.chain.regtest.transaction_methods import TransactionMethods
from node.chain.regtest.views import Json, btc
from protocol.amounts import Sat
from protocol.bitcoin.transaction import TxOut, txid_hex
from protocol.errors import MalformedMessage

DEFAULT_FEERATE = 2_000
VERSION = 290_000
MAX_BLOCKS_PER_CALL = 10_000
DEPLOYMENTS = ("bip34", "bip65", "bip66", "csv", "segwit", "taproot")


class Methods(TransactionMethods):
    """One method of this class for each RPC method; a parameter has the name that Core gives it."""

    def __init__(self, chain: RegtestChain, *, stop: Callable[[], None], zmq_endpoint: str = "") -> None:
        super().__init__(chain)
        self._stop = stop
        self._zmq_endpoint = zmq_endpoint
        self._feerate: int | None = DEFAULT_FEERATE
        self._started = time.monotonic()

    def call(self, name: object, params: object) -> Any:
        """Raises RpcError; any other exception is a bug of ours."""
        method = getattr(self, name, None) if isinstance(name, str) and name.isalpha() else None
        if not callable(method) or name == "call":
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
        if not 0 <= integer(height, "height") <= self._chain.height:
            raise RpcError(INVALID_PARAMETER, "Block height out of range")
        return txid_hex(self._chain.index.entries[height].hash)

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

    def estimatesmartfee(self, conf_target: int, estimate_mode: str = "economical") -> Json:
        if not 1 <= integer(conf_target, "conf_target") <= 1008:
            raise RpcError(INVALID_PARAMETER, "Invalid conf_target, must be between 1 and 1008")
        if self._feerate is None:
            return {"errors": ["Insufficient data or no feerate found"], "blocks": conf_target}
        return {"feerate": btc(max(self._feerate, self._chain.mempool.market.minimum)), "blocks": conf_target}

    def setfeerate(self, sat_per_kvb: int | None) -> None:
        self._feerate = None if sat_per_kvb is None else integer(sat_per_kvb, "sat_per_kvb")

    def setminfeerate(self, sat_per_kvb: int) -> None:
        """As if others filled the mempool with what pays this; 0: there is room again."""
        self._chain.mempool.set_floor(integer(sat_per_kvb, "sat_per_kvb"))

    def setblockfloor(self, sat_per_kvb: int) -> None:
        """As if others filled the blocks with what pays this."""
        self._chain.block_floor = integer(sat_per_kvb, "sat_per_kvb")

    def setmempoolsize(self, vbytes: int) -> None:
        self._chain.mempool.market.max_vsize = integer(vbytes, "vbytes")

    # Mining and our own

    def generatetoaddress(self, nblocks: int, address: str, maxtries: int = 1_000_000) -> list[str]:
        count = integer(nblocks, "nblocks")
        if not 0 <= count <= MAX_BLOCKS_PER_CALL:
            raise RpcError(INVALID_PARAMETER, f"nblocks must be between 0 and {MAX_BLOCKS_PER_CALL}")
        return [txid_hex(h) for h in self._chain.generate(count, script_pubkey(address))]

    def generateblock(self, output: str, transactions: list[str], submit: bool = True) -> Json:
        """A block with exactly these transactions: txids of the mempool, or raw. `[]`: an empty block."""
        if not submit:
            raise RpcError(INVALID_PARAMETER, "only submit=true is supported")
        chosen = []
        for text in transactions:
            known = self._chain.mempool.entries.get(txid_of(text)) if len(text) == 64 else None
            chosen.append(known.tx if known else transaction(text))
        return {"hash": txid_hex(self._chain.generate_block(chosen, script_pubkey(output)))}

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
            paid = self._chain.fund(script_pubkey(address), Sat(integer(amount_sat, "amount_sat")))
        except (FaucetEmpty, Rejected) as error:
            raise RpcError(VERIFY_REJECTED, str(error)) from error
        return {"txid": txid_hex(paid.txid), "vout": paid.index}

    def makefunding(self, script: str, amount_sat: int) -> str:
        """A payment of the faucet that is not broadcast. Send it before the next one is made."""
        try:
            output = TxOut(Sat(integer(amount_sat, "amount_sat")), bytes.fromhex(script))
            return self._chain.prepare([output]).serialize().hex()
        except (FaucetEmpty, ValueError) as error:
            raise RpcError(VERIFY_REJECTED, str(error)) from error

    def reorg(
        self, depth: int, new_blocks: int | None = None, transactions: list[str] | None = None
    ) -> list[str]:
        try:
            chosen = [transaction(text) for text in transactions or []]
            return [txid_hex(h) for h in self._chain.reorg(depth, new_blocks, chosen)]
        except ValueError as error:
            raise RpcError(INVALID_PARAMETER, str(error)) from error

    def stop(self) -> str:
        self._stop()
        return "lnp-regtest stopping"
