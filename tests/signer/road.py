"""A received HTLC in one channel of a signer, and another channel in which it is passed on."""

from msgspec.structs import replace

from protocol.amounts import Sat
from protocol.bitcoin.transaction import OutPoint, Transaction, TxIn, TxOut
from protocol.bus.messages import signer as contract
from signer.service import SignerService
from tests.signer.support import HASH, PREIMAGE, World, htlc

OURS = 600_000_000
IN, OUT = 50_000_000, 49_000_000

IN_EXPIRY, OUT_EXPIRY = 540, 500


class Road:
    """A received HTLC in channel `a` stands in all commitments; `c` is the channel that it goes on in."""

    def __init__(self, service: SignerService) -> None:
        self.a = World(service)
        self.c = World(service, beside=self.a, place=1)
        self.received = htlc(False, 3, IN, HASH, IN_EXPIRY)
        self.onward = htlc(True, 5, OUT, HASH, OUT_EXPIRY)
        self.a.both_move(1, OURS, (self.received,))

    def forward(self, htlc_id: int = 5, from_htlc: int = 3, channel: bytes | None = None) -> contract.Forward:
        return contract.Forward(htlc_id, self.a.channel_id if channel is None else channel, from_htlc)

    def offer(self, *forwards: contract.Forward, **terms: int) -> contract.SignCounterparty:
        onward = replace(self.onward, **terms)  # type: ignore[arg-type]
        return self.c.sign(1, OURS - onward.amount_msat, (onward,), forwards=forwards or (self.forward(),))

    def passed_on(self) -> None:
        """The onward HTLC stands in all commitments of `c`."""
        self.c.grants(self.offer(), self.c.revocation(0))
        self.c.holder_moves(1, OURS - OUT, (self.onward,))

    def failed_onward(self, number: int = 2) -> None:
        self.c.holder_moves(number, OURS)
        self.c.peer_moves(number, OURS)

    def paid_onward(self) -> None:
        self.c.grants(contract.LearnPreimage(PREIMAGE))
        self.c.holder_moves(2, OURS - OUT)
        self.c.peer_moves(2, OURS - OUT)

    def spend(self, outpoint: OutPoint | None = None) -> bytes:
        spent = self.c.params.funding_outpoint if outpoint is None else outpoint
        return Transaction(2, (TxIn(spent),), (TxOut(Sat(1), b"\x00\x14" + bytes(20)),)).serialize()

    def bury(self, htlc_id: int = 5) -> contract.HtlcBuried:
        return contract.HtlcBuried(htlc_id, self.spend())

    def fails_upstream(self, number: int = 2) -> None:
        self.a.both_move(number, OURS)

    def refuses_to_fail(self) -> set[str]:
        return {self.a.refuses(self.a.validate(2, OURS)), self.a.refuses(self.a.sign(2, OURS))}


def other_channel(road: Road) -> tuple[World, contract.SignCounterparty]:
    d = World(road.a.service, beside=road.a, place=2)
    onward = (htlc(True, 0, OUT, HASH, OUT_EXPIRY),)
    return d, d.sign(1, OURS - OUT, onward, forwards=(road.forward(0),))
