"""The RPC methods about transactions and the mempool, as in Bitcoin Core."""

from node.chain.regtest import policy, views
from node.chain.regtest.chain import RegtestChain
from node.chain.regtest.index import is_unspendable
from node.chain.regtest.package import MAX_COUNT, PackageMember, is_child_with_parents
from node.chain.regtest.policy import Rejected
from node.chain.regtest.rpc_values import (
    ALREADY_IN_CHAIN,
    INVALID_PARAMETER,
    NOT_FOUND,
    TYPE_ERROR,
    VERIFY_ERROR,
    VERIFY_REJECTED,
    RpcError,
    integer,
    transaction,
    txid_of,
)
from node.chain.regtest.views import Json, btc
from protocol.bitcoin.transaction import OutPoint, Transaction, txid_hex

DEFAULT_MAX_FEERATE = 0.10
MAX_FEERATE_SENTENCE = "Fee exceeds maximum configured by user (e.g. -maxtxfee, maxfeerate)"


class TransactionMethods:
    def __init__(self, chain: RegtestChain) -> None:
        self.chain = self._chain = chain

    def _height(self, blockhash: str) -> int:
        height = self._chain.index.height_of(txid_of(blockhash, "blockhash"))
        if height is None:
            raise RpcError(NOT_FOUND, "Block not found")
        return height

    def getrawtransaction(
        self, txid: str, verbosity: int | bool = 0, blockhash: str | None = None
    ) -> str | Json:
        wanted = txid_of(txid)
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
        outpoint = OutPoint(txid_of(txid), integer(n, "n"))
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
            outpoint = OutPoint(txid_of(item.get("txid")), integer(item.get("vout"), "vout"))
            spender = self._chain.mempool.spender_of(outpoint)
            if spender is None and not mempool_only:
                spender = self._chain.index.spender_of(outpoint)
            row: Json = {"txid": item["txid"], "vout": item["vout"]}
            found.append(row if spender is None else {**row, "spendingtxid": txid_hex(spender)})
        return found

    def sendrawtransaction(
        self, hexstring: str, maxfeerate: float = DEFAULT_MAX_FEERATE, maxburnamount: float = 0
    ) -> str:
        tx = transaction(hexstring)
        self._check_burn(tx, maxburnamount)
        if tx.txid in self._chain.mempool:
            return txid_hex(tx.txid)
        try:
            fee = self._chain.would_accept(tx)
            if self._fee_is_excessive(tx, fee, maxfeerate):
                raise RpcError(VERIFY_ERROR, MAX_FEERATE_SENTENCE)
            return txid_hex(self._chain.submit(tx))
        except Rejected as error:
            if error.reason == "txn-already-known":
                why = "Transaction outputs already in utxo set"
                raise RpcError(ALREADY_IN_CHAIN, why) from error
            missing = error.reason == "bad-txns-inputs-missingorspent"
            raise RpcError(VERIFY_ERROR if missing else VERIFY_REJECTED, str(error)) from error

    @staticmethod
    def _check_burn(tx: Transaction, most: float) -> None:
        for output in tx.outputs:
            if is_unspendable(output.script_pubkey) and btc(output.value) > float(most):
                why = "Unspendable output exceeds maximum configured by user (maxburnamount)"
                raise RpcError(VERIFY_ERROR, why)

    @staticmethod
    def _fee_is_excessive(tx: Transaction, fee: int, max_feerate: float) -> bool:
        limit = round(float(max_feerate) * 100_000_000)
        return limit > 0 and fee > policy.fee_at(limit, tx.vsize)

    def testmempoolaccept(self, rawtxs: list[str], maxfeerate: float = DEFAULT_MAX_FEERATE) -> list[Json]:
        """Several are judged one after the other; what comes after the first refused one is not judged."""
        transactions = _several(rawtxs)
        try:
            members = self._chain.test_package(transactions)
        except Rejected as error:
            return [{**_ids(tx), "package-error": str(error)} for tx in transactions]
        rows = [self._tested(member, maxfeerate) for member in members]
        return rows + [_ids(tx) for tx in transactions[len(rows) :]]

    def _tested(self, member: PackageMember, max_feerate: float) -> Json:
        row, entry = _ids(member.tx), member.entry
        if entry is None:
            said = str(member.error)
            return {**row, "allowed": False, "reject-reason": said.split(",")[0], "reject-details": said}
        if self._fee_is_excessive(member.tx, entry.fee, max_feerate):
            return {**row, "allowed": False, "reject-reason": "max-fee-exceeded"}
        return {**row, "allowed": True, "vsize": member.tx.vsize, "fees": _fees(member)}

    def submitpackage(
        self, package: list[str], maxfeerate: float = DEFAULT_MAX_FEERATE, maxburnamount: float = 0
    ) -> Json:
        """A child with its parents, parents first."""
        transactions = _several(package)
        for tx in transactions:
            self._check_burn(tx, maxburnamount)
        if len(transactions) > 1 and not is_child_with_parents(transactions):
            why = "package topology disallowed. not child-with-parents or parents depend on each other."
            raise RpcError(VERIFY_ERROR, why)
        known = {tx.txid for tx in transactions if tx.txid in self._chain.mempool}
        most = round(float(maxfeerate) * 100_000_000)
        result = self._chain.submit_package(transactions, max_feerate=most)
        rows: Json = {}
        for member in result.members:
            row: Json = {"txid": txid_hex(member.tx.txid)}
            if member.entry is None:
                row["error"] = member.error
            elif member.entry.tx.wtxid != member.tx.wtxid:
                row["other-wtxid"] = txid_hex(member.entry.tx.wtxid)
            else:
                fees = {"base": btc(member.entry.fee)} if member.tx.txid in known else _fees(member)
                row |= {"vsize": member.tx.vsize, "fees": fees}
            rows[txid_hex(member.tx.wtxid)] = row
        replaced = [txid_hex(txid) for txid in result.replaced]
        return {"package_msg": result.message, "tx-results": rows, "replaced-transactions": replaced}

    def getrawmempool(self, verbose: bool = False) -> list[str] | Json:
        if not verbose:
            return [txid_hex(txid) for txid in self._chain.mempool.entries]
        return {txid_hex(e.tx.txid): views.entry_view(self._chain, e) for e in self._chain.mempool}

    def getmempoolentry(self, txid: str) -> Json:
        entry = self._chain.mempool.entries.get(txid_of(txid))
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
            "maxmempool": self._chain.mempool.market.max_vsize,
            "mempoolminfee": btc(self._chain.mempool.market.shown),
            "minrelaytxfee": btc(policy.MIN_RELAY_FEE_PER_KVB),
            "incrementalrelayfee": btc(policy.INCREMENTAL_FEE_PER_KVB),
            "unbroadcastcount": 0,
            "fullrbf": True,
        }


def _several(raws: object) -> list[Transaction]:
    if not isinstance(raws, list) or not 1 <= len(raws) <= MAX_COUNT:
        raise RpcError(INVALID_PARAMETER, f"Array must contain between 1 and {MAX_COUNT} transactions.")
    return [transaction(raw) for raw in raws]


def _ids(tx: Transaction) -> Json:
    return {"txid": txid_hex(tx.txid), "wtxid": txid_hex(tx.wtxid)}


def _fees(member: PackageMember) -> Json:
    fee, vsize = sum(e.fee for e in member.together), sum(e.tx.vsize for e in member.together)
    return {
        "base": btc(member.entry.fee if member.entry else 0),
        "effective-feerate": btc(fee * 1000 // vsize),
        "effective-includes": [txid_hex(e.tx.wtxid) for e in member.together],
    }
