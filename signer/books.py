"""The rows behind the requests: cold scripts, invoices, releases, sweeps (DESIGN, "Hot can only pay cold").

A request collects its rows in `Books`; they reach the open transaction when the request was granted, and are
forgotten when it was not.
"""

import msgspec

from protocol.amounts import Msat
from protocol.bitcoin.transaction import OutPoint
from protocol.bus.messages.signer import InvoiceMade, MakeInvoice, SignSweep
from protocol.hashes import sha256
from signer import storage as db
from signer.invoices import payment_secret_of, preimage_of
from signer.keys import COLD, NodeKeys
from signer.operations import OwnInvoice
from signer.policy.closing import swept_output
from signer.storage import Row, Storage

_encode = msgspec.msgpack.Encoder().encode


def digest_of(request: MakeInvoice | SignSweep) -> bytes:
    return sha256(_encode(request))


class Books:
    def __init__(self, storage: Storage, keys: NodeKeys) -> None:
        self._storage = storage
        self._keys = keys
        self._writes: list[tuple[str, Row]] = []
        self._next_cold = storage.counter("cold")

    def write(self, statement: str, row: Row) -> None:
        self._writes.append((statement, row))

    def keep(self) -> None:
        """The request was granted: its rows join the turn."""
        writes, self._writes = self._writes, []
        self._storage.execute_together(writes)

    def forget(self) -> None:
        """The request was not granted."""
        self._writes.clear()
        self._next_cold = self._storage.counter("cold")

    def draw_cold(self) -> tuple[int, bytes]:
        """The next index of the cold branch and its script; no index is given out twice."""
        position = self._next_cold
        script = self._keys.wallet_script(COLD, position)
        self._next_cold = position + 1
        self.write(db.INSERT_COLD, (position, script))
        self.write(db.SET_COUNTER, ("cold", position + 1))
        return position, script

    def adopt_cold(self, next_cold: int) -> None:
        """Scripts below this were given out by the signer that wrote a backup."""
        for position in range(self._next_cold, next_cold):
            self.write(db.INSERT_COLD, (position, self._keys.wallet_script(COLD, position)))
        if next_cold > self._next_cold:
            self._next_cold = next_cold
            self.write(db.SET_COUNTER, ("cold", next_cold))

    def is_cold(self, script: bytes) -> bool:
        return self._storage.one("SELECT 1 FROM cold WHERE script = ?", (script,)) is not None

    def invoice(self, payment_hash: bytes, channel: bytes) -> OwnInvoice | None:
        """For a release in this channel."""
        row = self._storage.one(
            "SELECT request_id, amount_msat FROM invoice WHERE payment_hash = ?", (payment_hash,)
        )
        if row is None:
            return None
        amount = None if row[1] is None else Msat(row[1])
        preimage = preimage_of(self._keys.invoice_secret, row[0])
        return OwnInvoice(preimage, amount, self.granted(payment_hash, channel))

    def is_own(self, payment_hash: bytes) -> bool:
        return self._storage.one("SELECT 1 FROM invoice WHERE payment_hash = ?", (payment_hash,)) is not None

    def granted(self, payment_hash: bytes, channel: bytes) -> frozenset[int]:
        """The HTLCs of this channel for which a preimage was released."""
        rows = self._storage.all(
            "SELECT htlc_id FROM release WHERE payment_hash = ? AND channel = ?", (payment_hash, channel)
        )
        return frozenset(htlc_id for (htlc_id,) in rows)

    def note_release(self, payment_hash: bytes, channel: bytes, ids: frozenset[int]) -> None:
        for htlc_id in sorted(ids):
            self.write(db.INSERT_RELEASE, (payment_hash, channel, htlc_id))

    def made_invoice(self, request: MakeInvoice) -> tuple[bool, InvoiceMade] | None:
        """The invoice of this request id, and whether it was made of the same terms."""
        row = self._storage.one(
            "SELECT request_digest, payment_hash, bolt11 FROM invoice WHERE request_id = ?",
            (request.request_id,),
        )
        if row is None:
            return None
        secret = payment_secret_of(self._keys.invoice_secret, request.request_id)
        return row[0] == digest_of(request), InvoiceMade(row[2], row[1], secret)

    def note_invoice(self, request: MakeInvoice, made: InvoiceMade) -> None:
        row = (request.request_id, digest_of(request), made.payment_hash, request.amount_msat, made.bolt11)
        self.write(db.INSERT_INVOICE, row)

    def signed_sweep(self, request: SignSweep) -> bytes | None:
        row = self._storage.one("SELECT signed FROM sweep WHERE request_digest = ?", (digest_of(request),))
        return None if row is None else bytes(row[0])

    def note_sweep(self, request: SignSweep, transaction: bytes) -> None:
        self.write(db.INSERT_SWEEP, (digest_of(request), transaction))

    def pin_value(self, outpoint: OutPoint, value: int) -> None:
        """An output has one value. Two values would let two signatures be joined into one high-fee transaction."""
        key = outpoint.serialize()
        row = self._storage.one("SELECT value FROM swept WHERE outpoint = ?", (key,))
        swept_output(row is None or row[0] == value)
        self.write(db.INSERT_SWEPT, (key, value))
