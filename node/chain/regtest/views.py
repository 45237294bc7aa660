"""Blocks, transactions and mempool entries in JSON, with the fields of Bitcoin Core that clients use."""

from typing import Any

from node.chain.regtest.chain import RegtestChain
from node.chain.regtest.index import Block
from node.chain.regtest.mempool import MempoolEntry
from node.chain.regtest.miner import POW_BITS
from node.chain.regtest.policy import script_type
from protocol.bitcoin.address import address_of
from protocol.bitcoin.network import REGTEST
from protocol.bitcoin.transaction import Transaction, TxOut, txid_hex

Json = dict[str, Any]
DIFFICULTY = 4.656542373906925e-10
WORK_PER_BLOCK = 2


def btc(sat: int) -> float:
    """The nearest double, which every JSON reader rounds back to the same satoshi."""
    return sat / 100_000_000


def script_view(script_pubkey: bytes) -> Json:
    view: Json = {"hex": script_pubkey.hex(), "type": script_type(script_pubkey)}
    address = address_of(script_pubkey, REGTEST)
    if address is not None:
        view["address"] = address
    return view


def transaction_view(tx: Transaction) -> Json:
    inputs: list[Json] = []
    for spent in tx.inputs:
        item: Json
        if spent.outpoint.txid == bytes(32):
            item = {"coinbase": spent.script_sig.hex()}
        else:
            item = {
                "txid": txid_hex(spent.outpoint.txid),
                "vout": spent.outpoint.index,
                "scriptSig": {"hex": spent.script_sig.hex()},
            }
        if spent.witness:
            item["txinwitness"] = [element.hex() for element in spent.witness]
        inputs.append({**item, "sequence": spent.sequence})
    return {
        "txid": txid_hex(tx.txid),
        "hash": txid_hex(tx.wtxid),
        "version": tx.version,
        "size": len(tx.serialize()),
        "vsize": tx.vsize,
        "weight": tx.weight,
        "locktime": tx.locktime,
        "vin": inputs,
        "vout": [_output_view(n, output) for n, output in enumerate(tx.outputs)],
        "hex": tx.serialize().hex(),
    }


def _output_view(n: int, output: TxOut) -> Json:
    return {"value": btc(output.value), "n": n, "scriptPubKey": script_view(output.script_pubkey)}


def header_view(chain: RegtestChain, height: int) -> Json:
    entries = chain.index.entries
    entry = entries[height]
    header = entry.header
    view: Json = {
        "hash": txid_hex(entry.hash),
        "confirmations": chain.height - height + 1,
        "height": height,
        "version": int.from_bytes(header[:4], "little"),
        "versionHex": header[3::-1].hex(),
        "merkleroot": txid_hex(header[36:68]),
        "time": entry.time,
        "mediantime": chain.index.median_time(height),
        "nonce": int.from_bytes(header[76:80], "little"),
        "bits": f"{POW_BITS:08x}",
        "difficulty": DIFFICULTY,
        "chainwork": f"{(height + 1) * WORK_PER_BLOCK:064x}",
        "nTx": len(entry.txids),
    }
    if height:
        view["previousblockhash"] = txid_hex(entries[height - 1].hash)
    if height < chain.height:
        view["nextblockhash"] = txid_hex(entries[height + 1].hash)
    return view


def block_view(chain: RegtestChain, block: Block, height: int, *, full: bool) -> Json:
    stripped = len(block.raw) - _witness_bytes(block)
    transactions: list[Any] = [txid_hex(tx.txid) for tx in block.transactions]
    if full:
        spent = iter(chain.index.entries[height].undo)
        transactions = []
        for n, tx in enumerate(block.transactions):
            view = transaction_view(tx)
            if n:
                value_in = sum(next(spent)[1].output.value for _ in tx.inputs)
                view["fee"] = btc(value_in - sum(output.value for output in tx.outputs))
            transactions.append(view)
    return {
        **header_view(chain, height),
        "strippedsize": stripped,
        "size": len(block.raw),
        "weight": 3 * stripped + len(block.raw),
        "tx": transactions,
    }


def _witness_bytes(block: Block) -> int:
    return sum(len(tx.serialize()) - len(tx.serialize(witness=False)) for tx in block.transactions)


def entry_view(chain: RegtestChain, entry: MempoolEntry) -> Json:
    pool = chain.mempool
    ancestors = [pool.entries[txid] for txid in pool.ancestors_of(entry.tx)]
    descendants = [pool.entries[txid] for txid in pool.with_descendants([entry.tx.txid])]
    ancestors.append(entry)
    return {
        "vsize": entry.tx.vsize,
        "weight": entry.tx.weight,
        "time": entry.time,
        "height": entry.height,
        "descendantcount": len(descendants),
        "descendantsize": sum(e.tx.vsize for e in descendants),
        "ancestorcount": len(ancestors),
        "ancestorsize": sum(e.tx.vsize for e in ancestors),
        "wtxid": txid_hex(entry.tx.wtxid),
        "fees": {
            "base": btc(entry.fee),
            "modified": btc(entry.fee),
            "ancestor": btc(sum(e.fee for e in ancestors)),
            "descendant": btc(sum(e.fee for e in descendants)),
        },
        "depends": sorted(txid_hex(txid) for txid in pool.parents_of(entry.tx)),
        "spentby": sorted(txid_hex(txid) for txid in pool.children_of(entry.tx)),
        "bip125-replaceable": any(e.signals_replacement for e in ancestors),
        "unbroadcast": False,
    }
