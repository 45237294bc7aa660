"""Which unconfirmed transactions a miner takes: whole packages, the best paying first (as Bitcoin Core's miner does).

A child pays for the ancestors that are not in the block yet, so the feerate that counts is that of all of them.
"""

import heapq

from node.chain.regtest.mempool import Mempool
from protocol.bitcoin.transaction import Transaction

MAX_BLOCK_WEIGHT = 3_980_000
"""Consensus allows 4 000 000; the rest is room for header and coinbase."""


def choose(pool: Mempool, *, floor: int = 0) -> list[Transaction]:
    """Parents first. `floor`: what a package must pay, in sat per 1000 virtual bytes."""
    order = {txid: at for at, txid in enumerate(pool.entries)}
    ancestors = {txid: pool.ancestors_of(entry.tx) for txid, entry in pool.entries.items()}
    chosen: dict[bytes, Transaction] = {}
    weight = 0

    def rank(txid: bytes) -> tuple[float, int, bytes]:
        missing = [pool.entries[each] for each in (txid, *ancestors[txid]) if each not in chosen]
        fee, vsize = sum(entry.fee for entry in missing), sum(entry.tx.vsize for entry in missing)
        return -fee / vsize, order[txid], txid

    waiting = [rank(txid) for txid in pool.entries]
    heapq.heapify(waiting)
    while waiting:
        score, _, txid = heapq.heappop(waiting)
        if txid in chosen:
            continue
        now = rank(txid)
        if now[0] != score:  # an ancestor is in already, or will not be: it counts anew
            heapq.heappush(waiting, now)
            continue
        package = sorted({txid, *ancestors[txid]} - chosen.keys(), key=lambda each: order[each])
        added = sum(pool.entries[each].tx.weight for each in package)
        if -score * 1000 < floor or weight + added > MAX_BLOCK_WEIGHT:
            continue
        weight += added
        for each in package:
            chosen[each] = pool.entries[each].tx
    return list(chosen.values())
