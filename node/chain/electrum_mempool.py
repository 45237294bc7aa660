"""Unconfirmed spends as an Electrum server tells them (Electrum protocol 1.4, "Script Hashes", heights 0 and -1).

Nothing proves that such a transaction will ever be mined, or that none was withheld: what it says is a hint. A
preimage in it proves itself.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

import structlog

from protocol.bitcoin.transaction import OutPoint, Transaction, txid_hex
from protocol.hashes import sha256

log = structlog.get_logger()
FETCHED_AT_ONCE = 200


class ElectrumMempool:
    """`status` subscribes to a script hash, `history` gives (unconfirmed txids, status), `get` a transaction."""

    def __init__(
        self,
        status: Callable[[str], Awaitable[str | None]],
        history: Callable[[str], Awaitable[tuple[frozenset[bytes], str]]],
        get: Callable[[bytes], Awaitable[Transaction | None]],
    ) -> None:
        self._status = status
        self._history = history
        self._get = get
        self._pending: dict[bytes, tuple[str, frozenset[bytes]]] = {}
        """For each script its status, and the unconfirmed transactions that it stands for."""
        self._known: dict[bytes, Transaction] = {}

    @property
    def is_used(self) -> bool:
        return bool(self._pending)

    async def spenders(self, watched: Mapping[OutPoint, bytes]) -> Sequence[Transaction]:
        scripts = frozenset(watched.values())
        for script in self._pending.keys() - scripts:
            del self._pending[script]
        await asyncio.gather(*(self._ask(script) for script in scripts))
        txids = frozenset[bytes]().union(*(pending for _, pending in self._pending.values()))
        self._known = {txid: tx for txid, tx in self._known.items() if txid in txids}
        new = sorted(txids - self._known.keys())
        if len(new) > FETCHED_AT_ONCE:
            log.warning("many_spends_in_mempool", count=len(new), fetched_now=FETCHED_AT_ONCE)
        for tx in await asyncio.gather(*(self._get(txid) for txid in new[:FETCHED_AT_ONCE])):
            if tx is not None:  # it may have been replaced meanwhile
                self._known[tx.txid] = tx
        return [tx for tx in self._known.values() if any(spent.outpoint in watched for spent in tx.inputs)]

    async def _ask(self, script: bytes) -> None:
        """The status is a short answer; the history itself is asked for when it is another one."""
        script_hash = txid_hex(sha256(script))
        status = await self._status(script_hash)
        if status is None:
            self._pending[script] = ("", frozenset())
        elif self._pending.get(script, ("", ()))[0] != status:
            pending, told = await self._history(script_hash)
            self._pending[script] = (told, pending)
