"""Our own transactions: saved, sent, and sent again after each block until they confirm (DESIGN, "The chain").

A child and the parents that need its fee go out as one package. Which belong together is not saved: a transaction of
ours that spends another one of ours is its child.
"""

from collections.abc import Sequence

import structlog

from node.chain.backend import BackendAway, BackendUnusable, ChainBackend, Outcome
from node.chain.watches import Watches, parse_own
from node.storage.writer import Unit, Writer
from protocol.bitcoin.transaction import Transaction, txid_hex
from protocol.bus.messages.chain import Broadcast, BroadcastResult
from protocol.errors import CommandRefused, MalformedMessage

log = structlog.get_logger()
PUT_OWN = "INSERT OR IGNORE INTO transactions (txid, raw, label) VALUES (?, ?, ?)"
CONFIRM_OWN = "UPDATE transactions SET height = ? WHERE txid = ?"
"""A negative height: that block spends the same otherwise, so no later one can hold this transaction."""
UNCONFIRM_OWN = "UPDATE transactions SET height = NULL WHERE abs(height) = ?"
FORGET_OWN = "DELETE FROM transactions WHERE txid = ? AND (height IS NULL OR height < 0)"
RECENT_OWN = "SELECT raw, height FROM transactions WHERE height IS NULL OR abs(height) > ?"
HEIGHT_OF = "SELECT height FROM transactions WHERE txid = ? AND height IS NOT NULL"
MAX_PARENTS = 24
"""A package has at most 25 transactions (Bitcoin Core's doc/policy/packages.md)."""


class Sending:
    """`watches.own` holds what is not confirmed, in the order in which it came."""

    def __init__(self, backend: ChainBackend, writer: Writer, watches: Watches) -> None:
        self._backend = backend
        self._writer = writer
        self._watches = watches
        self._refused: dict[bytes, str] = {}
        self._kept: set[bytes] = set()
        """What somebody asked to keep in this run, although somebody else may have brought it first and would not."""

    def load(self, above: int) -> None:
        """What is open, and what was confirmed above this height and may lose its block yet."""
        for raw, height in self._writer.read(RECENT_OWN, (above,)):
            tx = parse_own(bytes(raw))
            if height is None:
                self._watches.own[tx.txid] = tx
            elif height < 0:
                self._watches.own_overtaken.setdefault(-height, []).append(tx)
            else:
                self._watches.own_confirmed.setdefault(height, []).append(tx)

    def connected(
        self, height: int, confirmed: Sequence[Transaction], overtaken: Sequence[Transaction]
    ) -> Unit:
        """What to save of ours after a block: what is in it, and what it makes impossible."""
        for tx in (*confirmed, *overtaken):
            self._refused.pop(tx.txid, None)
            self._kept.discard(tx.txid)
        rows = [(height, tx.txid) for tx in confirmed] + [(-height, tx.txid) for tx in overtaken]
        return [(CONFIRM_OWN, rows)] if rows else []

    def forget(self, txid: bytes) -> None:
        self._kept.discard(txid)
        if self._watches.forget(txid):
            self._refused.pop(txid, None)
            self._writer.submit([(FORGET_OWN, [(txid,)])], now=False)

    async def send(self, request: Broadcast) -> BroadcastResult:
        """Saved before it is sent: a crash in between sends it at the next start. Raises CommandRefused."""
        tx = _read(request.raw)
        parents = _parents(tx, request.parents)
        height = self._height_of(tx.txid)
        if height > 0:
            return BroadcastResult(tx.txid, True, "")
        if height < 0:
            return BroadcastResult(tx.txid, False, f"bad-txns-inputs-missingorspent (see block {-height})")
        parents = [parent for parent in parents if self._height_of(parent.txid) <= 0]
        own = self._watches.own
        new = [each for each in (*parents, tx) if each.txid not in own]
        own.update((each.txid, each) for each in new)
        if request.keep:
            self._kept.update(each.txid for each in (*parents, tx))
        if new:
            rows = [(each.txid, each.serialize(), request.label) for each in new]
            await self._writer.submit([(PUT_OWN, rows)], now=True)
        try:
            outcome = await self._offer(tx, parents)
        except (BackendAway, BackendUnusable) as error:
            return BroadcastResult(tx.txid, False, f"not sent yet: {error}")
        self._note(tx, outcome)
        if not outcome.accepted and not request.keep and tx in new:
            dropped = [each for each in new if each.txid not in self._kept]
            for each in dropped:
                self._watches.forget(each.txid)  # also what a block has overtaken meanwhile
                self._refused.pop(each.txid, None)
            await self._writer.submit([(FORGET_OWN, [(each.txid,) for each in dropped])], now=True)
        return BroadcastResult(tx.txid, outcome.accepted, outcome.reason)

    async def again(self) -> None:
        """All that was open when this began; what comes meanwhile is being sent already. Twice over those that are
        refused, for a child may stand before its parent; then, what is refused still goes with those that spend it.
        """
        own = self._watches.own
        waiting = list(own.values())
        outcomes: dict[bytes, Outcome] = {}

        def is_taken(tx: Transaction) -> bool:
            return tx.txid in outcomes and outcomes[tx.txid].accepted

        for _ in range(2):
            for tx in waiting:
                if tx.txid in own and not is_taken(tx):
                    outcomes[tx.txid] = await self._backend.broadcast(tx.serialize())
        for tx in waiting:
            parents = self._own_parents(tx)
            if tx.txid in own and parents and not all(is_taken(each) for each in (*parents, tx)):
                outcomes[tx.txid] = await self._offer(tx, parents)
                if outcomes[tx.txid].accepted:
                    outcomes.update((parent.txid, outcomes[tx.txid]) for parent in parents)
        for tx in waiting:
            if tx.txid in own and tx.txid in outcomes:
                self._note(tx, outcomes[tx.txid])

    async def _offer(self, tx: Transaction, parents: Sequence[Transaction]) -> Outcome:
        if not parents:
            return await self._backend.broadcast(tx.serialize())
        return await self._backend.submit_package([each.serialize() for each in parents], tx.serialize())

    def _own_parents(self, tx: Transaction) -> list[Transaction]:
        own = self._watches.own
        ids = dict.fromkeys(spent.outpoint.txid for spent in tx.inputs)
        return [own[txid] for txid in ids if txid in own][:MAX_PARENTS]

    def _height_of(self, txid: bytes) -> int:
        """As in the table, 0 for one that is in no block. What the last blocks changed may not be on disk yet."""
        recent = self._watches.height_of(txid)
        if recent is not None:
            return recent
        rows = self._writer.read(HEIGHT_OF, (txid,))
        return int(rows[0][0]) if rows else 0

    def _note(self, tx: Transaction, outcome: Outcome) -> None:
        if outcome.accepted:
            self._refused.pop(tx.txid, None)
        elif self._refused.get(tx.txid) != outcome.reason:
            self._refused[tx.txid] = outcome.reason
            log.warning("broadcast_refused", txid=txid_hex(tx.txid), reason=outcome.reason)


def _read(raw: bytes) -> Transaction:
    try:
        return parse_own(raw)
    except MalformedMessage as error:
        raise CommandRefused(
            f"this is not a transaction: {error}", what_to_do="Give the whole serialised transaction."
        ) from error


def _parents(child: Transaction, raws: Sequence[bytes]) -> list[Transaction]:
    """Raises CommandRefused for what the network would not take as a package either."""
    parents = [_read(raw) for raw in raws]
    spent = {tx_in.outpoint.txid for tx_in in child.inputs}
    for parent in parents:
        if parent.txid not in spent:
            raise CommandRefused(
                f"{txid_hex(parent.txid)} is no parent of {txid_hex(child.txid)}",
                what_to_do="Give as parents only transactions whose outputs the child spends.",
            )
    if len(parents) > MAX_PARENTS:
        raise CommandRefused(
            f"a package cannot have {len(parents)} parents", what_to_do=f"Give at most {MAX_PARENTS}."
        )
    return parents
