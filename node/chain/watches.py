"""What is watched on chain, and what became of it: outputs, scripts and our own transactions (no I/O here)."""

from collections.abc import Iterable, Iterator

from node.chain.blocks import Interest
from protocol.amounts import BlockHeight, Sat
from protocol.bitcoin.transaction import OutPoint, Transaction
from protocol.bus.messages.chain import (
    FINAL_DEPTH,
    OutpointSpent,
    OutputConfirmed,
    OutputReorganised,
    OutputStatus,
    ScriptPaid,
    SpendReorganised,
)
from protocol.errors import MalformedMessage

OP_RETURN = b"\x6a"
MAX_SEEN = 1000
"""Replacements of one spend that are told: whoever makes more of them only wants us to work."""
NULL_OUTPOINT = OutPoint(bytes(32), 0xFFFFFFFF)


class Watched:
    """One output: where it was confirmed and where it was spent, as far as that is known."""

    __slots__ = (
        "announced",
        "height",
        "mempool",
        "script",
        "seen",
        "spent_by",
        "spent_height",
        "tx_index",
        "value",
    )

    def __init__(self, script: bytes, *, announced: bool) -> None:
        self.script = script
        self.announced = announced
        """Whether somebody asked for OutputConfirmed; outputs to watched scripts are known by ScriptPaid."""
        self.mempool = False
        """Whether somebody wants to hear of unconfirmed spends."""
        self.seen: set[bytes] = set()
        """The unconfirmed spenders that were told."""
        self.value: Sat | None = None
        self.height: BlockHeight | None = None
        self.tx_index: int | None = None
        self.spent_by: bytes | None = None
        self.spent_height: BlockHeight | None = None


class Watches:
    """Fed with blocks in their order; says what happened."""

    def __init__(self) -> None:
        self._outputs: dict[OutPoint, Watched] = {}
        self._scripts: set[bytes] = set()
        self.own: dict[bytes, Transaction] = {}
        """Transactions of ours that are not confirmed."""
        self.own_confirmed: dict[int, list[Transaction]] = {}
        """Those that are, by height, as far back as a reorganisation may reach."""
        self.own_overtaken: dict[int, list[Transaction]] = {}
        """Those that cannot be any more, by the height of the block that spends the same otherwise."""

    def watch_output(self, outpoint: OutPoint, script: bytes, *, mempool: bool = False) -> Watched:
        watched = self._outputs.setdefault(outpoint, Watched(script, announced=True))
        watched.announced = True
        if mempool:
            watched.mempool = True
            watched.seen.clear()  # who asks again has forgotten
        return watched

    def unwatch_output(self, outpoint: OutPoint) -> None:
        self._outputs.pop(outpoint, None)

    def watch_script(self, script: bytes) -> None:
        self._scripts.add(script)

    def interest(self) -> Interest:
        """Needles: a watched script, or the outpoint that an input spends. A spend is found by the script too."""
        needles, scripts = set(self._scripts), set(self._scripts)
        for outpoint, watched in self._outputs.items():
            needles.add(outpoint.serialize())
            scripts.add(watched.script)
            if watched.height is None:
                needles.add(watched.script)
        for tx in self.own.values():
            needles.add(tx.inputs[0].outpoint.serialize())
            if (script := _script_to_find(tx)) is not None:
                scripts.add(script)
        return Interest(frozenset(needles), frozenset(scripts))

    def for_mempool(self) -> dict[OutPoint, bytes]:
        """What to look for in the mempool, with its scripts: nothing that a block has spent."""
        return {
            outpoint: watched.script
            for outpoint, watched in self._outputs.items()
            if watched.mempool and watched.spent_height is None
        }

    def seen(self, tx: Transaction) -> list[OutpointSpent]:
        """An unconfirmed transaction; what is news about it."""
        news = []
        for tx_in in tx.inputs:
            watched = self._outputs.get(tx_in.outpoint)
            if watched is None or not watched.mempool or watched.spent_height is not None:
                continue
            if tx.txid not in watched.seen and len(watched.seen) < MAX_SEEN:
                watched.seen.add(tx.txid)
                spent = tx_in.outpoint
                news.append(OutpointSpent(spent.txid, spent.index, tx.serialize(), None, 0))
        return news

    def connect(
        self, height: BlockHeight, transactions: Iterable[tuple[int, Transaction]]
    ) -> tuple[list[ScriptPaid], list[Transaction], list[Transaction]]:
        """Payments to watched scripts, those of our own transactions that are in this block, and those that cannot be
        in any block after it.

        `transactions` come with their position in the block; some that do not concern us do no harm.
        """
        paid: list[ScriptPaid] = []
        confirmed: list[Transaction] = []
        spent_here: set[OutPoint] = set()
        for tx_index, tx in transactions:
            spent_here.update(tx_in.outpoint for tx_in in tx.inputs)
            for tx_in in tx.inputs:
                spent = self._outputs.get(tx_in.outpoint)
                if spent is not None:
                    spent.spent_by, spent.spent_height = tx.serialize(), height
            for index, output in enumerate(tx.outputs):
                if output.script_pubkey in self._scripts:
                    self._outputs.setdefault(
                        OutPoint(tx.txid, index), Watched(output.script_pubkey, announced=False)
                    )
                    coinbase = tx.inputs[0].outpoint == NULL_OUTPOINT
                    paid.append(
                        ScriptPaid(output.script_pubkey, tx.txid, index, output.value, height, coinbase)
                    )
                watched = self._outputs.get(OutPoint(tx.txid, index)) if self._outputs else None
                if watched is not None and watched.script == output.script_pubkey:
                    watched.value, watched.height, watched.tx_index = output.value, height, tx_index
            own = self.own.pop(tx.txid, None)
            if own is not None:
                confirmed.append(own)
                self.own_confirmed.setdefault(height, []).append(own)
        overtaken = self._overtaken(spent_here)
        if overtaken:
            self.own_overtaken.setdefault(height, []).extend(overtaken)
        return paid, confirmed, overtaken

    def _overtaken(self, spent_here: set[OutPoint]) -> list[Transaction]:
        """Takes out what wants to spend the same as a block did, and what spends an output of that."""
        overtaken: dict[bytes, Transaction] = {}
        found = True
        while found:
            found = False
            for tx in list(self.own.values()):
                spends = (tx_in.outpoint for tx_in in tx.inputs)
                if any(outpoint in spent_here or outpoint.txid in overtaken for outpoint in spends):
                    overtaken[tx.txid] = self.own.pop(tx.txid)
                    found = True
        return list(overtaken.values())

    def height_of(self, txid: bytes) -> int | None:
        """Of one of ours: 0 while it is in no block, negative for the block that overtook it; None: not known here."""
        if txid in self.own:
            return 0
        for sign, by_height in ((1, self.own_confirmed), (-1, self.own_overtaken)):
            for height, transactions in by_height.items():
                if any(tx.txid == txid for tx in transactions):
                    return sign * height
        return None

    def forget(self, txid: bytes) -> bool:
        """One of ours that is in no block. False: it is not known, or confirmed."""
        for height, overtaken in self.own_overtaken.items():
            self.own_overtaken[height] = [tx for tx in overtaken if tx.txid != txid]
            if len(self.own_overtaken[height]) < len(overtaken):
                return True
        return self.own.pop(txid, None) is not None

    def disconnect(self, height: BlockHeight) -> list[OutputReorganised | SpendReorganised]:
        lost: list[OutputReorganised | SpendReorganised] = []
        for back in (self.own_confirmed, self.own_overtaken):
            self.own.update((tx.txid, tx) for tx in back.pop(height, ()))
        for outpoint, watched in self._outputs.items():
            if watched.spent_height == height:
                watched.spent_by = watched.spent_height = None
                watched.seen.clear()
                lost.append(SpendReorganised(outpoint.txid, outpoint.index))
            if watched.height == height:
                watched.height = watched.tx_index = None
                lost.append(OutputReorganised(outpoint.txid, outpoint.index))
        return lost

    def standing(
        self, tip: BlockHeight, *, however_deep: bool = False
    ) -> Iterator[OutputConfirmed | OutpointSpent]:
        """Everything that happened and is not buried yet, with its depth. `however_deep`: spends of long ago too,
        for who searches old blocks and has heard of none."""
        for outpoint, watched in self._outputs.items():
            yield from self.said_of(outpoint, watched, tip, however_deep=however_deep)

    @staticmethod
    def said_of(
        outpoint: OutPoint, watched: Watched, tip: BlockHeight, *, however_deep: bool = False
    ) -> Iterator[OutputConfirmed | OutpointSpent]:
        if watched.announced and watched.height is not None and watched.value is not None:
            depth = tip - watched.height + 1
            if depth <= FINAL_DEPTH and watched.tx_index is not None:
                yield OutputConfirmed(
                    outpoint.txid, outpoint.index, watched.value, watched.height, watched.tx_index, depth
                )
        if watched.spent_by is not None and watched.spent_height is not None:
            depth = tip - watched.spent_height + 1
            if depth <= FINAL_DEPTH or however_deep:
                yield OutpointSpent(
                    outpoint.txid, outpoint.index, watched.spent_by, watched.spent_height, depth
                )

    @staticmethod
    def status(outpoint: OutPoint, watched: Watched) -> OutputStatus:
        return OutputStatus(
            outpoint.txid,
            outpoint.index,
            watched.value,
            watched.height,
            watched.tx_index,
            watched.spent_by,
            watched.spent_height,
        )


def _script_to_find(tx: Transaction) -> bytes | None:
    """A script whose history has this transaction: nobody keeps one of OP_RETURN."""
    spendable = (output.script_pubkey for output in tx.outputs if output.script_pubkey[:1] != OP_RETURN)
    return next(spendable, None)


def parse_own(raw: bytes) -> Transaction:
    """A transaction of ours; raises MalformedMessage when it is none, or has no input."""
    tx = Transaction.parse(raw)
    if not tx.inputs:
        raise MalformedMessage("a transaction without inputs")
    return tx
