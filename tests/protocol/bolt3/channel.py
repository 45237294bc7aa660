"""The channel of BOLT 3's Appendix C, with both sides' secrets, and what the tests do with it.

*Local* of the appendix is our holder, who opened the channel.
"""

from dataclasses import dataclass

from protocol.amounts import FeeratePerKw, Msat, Sat
from protocol.bitcoin.sighash import SIGHASH_ALL
from protocol.bitcoin.transaction import OutPoint, Transaction, parse_txid
from protocol.bolt3.commitment import (
    ChannelKeys,
    Commitment,
    CommitmentContent,
    CommitmentHtlc,
    CommitmentParams,
    Side,
    SideParams,
)
from protocol.bolt3.htlc_tx import HtlcOutput, success_witness, timeout_witness, with_witness
from protocol.bolt3.keys import derive_revocation_secret, derive_secret
from protocol.curve import point_of, sign_ecdsa
from protocol.hashes import sha256

CAPACITY = Sat(10_000_000)
OUTPOINT = OutPoint(parse_txid("8984484a580b825b9972d7adb15050b3ab624ccd731946b3eeddb92f4e7ef6be"), 0)
PER_COMMITMENT_SECRET = bytes(range(31, -1, -1))
PER_COMMITMENT_POINT = point_of(PER_COMMITMENT_SECRET)
NUMBER = 42
DELAY = 144


@dataclass(frozen=True)
class Party:
    """One side's base secrets."""

    funding: bytes
    revocation: bytes
    payment: bytes
    delayed: bytes
    htlc: bytes

    @property
    def keys(self) -> ChannelKeys:
        return ChannelKeys(
            point_of(self.funding),
            point_of(self.revocation),
            point_of(self.payment),
            point_of(self.delayed),
            point_of(self.htlc),
        )

    def htlc_secret(self, point: bytes = PER_COMMITMENT_POINT) -> bytes:
        return derive_secret(self.htlc, point_of(self.htlc), point)

    def delayed_secret(self, point: bytes = PER_COMMITMENT_POINT) -> bytes:
        return derive_secret(self.delayed, point_of(self.delayed), point)

    def revocation_secret(self, secret: bytes = PER_COMMITMENT_SECRET) -> bytes:
        return derive_revocation_secret(self.revocation, secret)


HOLDER = Party(
    funding=bytes.fromhex("30ff4956bbdd3222d44cc5e8a1261dab1e07957bdac5ae88fe3261ef321f3749"),
    revocation=b"\x77" * 32,  # the appendix names none: nothing in the holder's commitment needs it
    payment=b"\x11" * 32,
    delayed=b"\x33" * 32,
    htlc=b"\x11" * 32,
)
COUNTERPARTY = Party(
    funding=bytes.fromhex("1552dfba4f6cf29a62a0af13c8d6981d36d0ef8d61ba10fb0fe90da7634d7e13"),
    revocation=b"\x22" * 32,
    payment=b"\x44" * 32,
    delayed=b"\x55" * 32,
    htlc=b"\x44" * 32,
)


def party(side: Side) -> Party:
    return HOLDER if side is Side.HOLDER else COUNTERPARTY


def params(
    *,
    anchors: bool = False,
    dust_limit: int = 546,
    opener_is_holder: bool = True,
    capacity: int = CAPACITY,
    delays: tuple[int, int] = (DELAY, DELAY),
) -> CommitmentParams:
    return CommitmentParams(
        anchors=anchors,
        funding_outpoint=OUTPOINT,
        capacity=Sat(capacity),
        opener_is_holder=opener_is_holder,
        holder=SideParams(HOLDER.keys, Sat(dust_limit), delays[0]),
        counterparty=SideParams(COUNTERPARTY.keys, Sat(dust_limit), delays[1]),
    )


def preimage_of(id: int) -> bytes:
    """The preimages of the appendix: HTLC 5 and HTLC 6 share one."""
    return bytes((min(id, 5),)) * 32


def _vector_htlc(id: int, offered: bool, amount_msat: int, expiry: int) -> CommitmentHtlc:
    return CommitmentHtlc(offered, id, Msat(amount_msat), sha256(preimage_of(id)), expiry)


VECTOR_HTLCS = (
    _vector_htlc(0, False, 1_000_000, 500),
    _vector_htlc(1, False, 2_000_000, 501),
    _vector_htlc(2, True, 2_000_000, 502),
    _vector_htlc(3, True, 3_000_000, 503),
    _vector_htlc(4, False, 4_000_000, 504),
    _vector_htlc(5, True, 5_000_000, 506),
    _vector_htlc(6, True, 5_000_001, 505),
)


def content(
    to_owner_msat: int, to_other_msat: int, htlcs: tuple[CommitmentHtlc, ...] = (), feerate: int = 253
) -> CommitmentContent:
    return CommitmentContent(NUMBER, FeeratePerKw(feerate), Msat(to_owner_msat), Msat(to_other_msat), htlcs)


def sign_commitment(commitment: Commitment) -> Transaction:
    return commitment.signed(
        sign_ecdsa(HOLDER.funding, commitment.digest), sign_ecdsa(COUNTERPARTY.funding, commitment.digest)
    )


def sign_second_stage(commitment: Commitment, output: HtlcOutput) -> Transaction:
    """The second-stage transaction of one HTLC output, signed by both sides."""
    at = commitment.htlcs.index(output)
    owner, other = party(commitment.owner), party(commitment.owner.other)
    local = sign_ecdsa(owner.htlc_secret(), commitment.htlc_digests(SIGHASH_ALL)[at])
    remote = sign_ecdsa(other.htlc_secret(), commitment.htlc_digests()[at])
    kind, script = commitment.remote_hash_type, output.witness_script
    if output.htlc.offered:
        witness = timeout_witness(remote, local, script, kind)
    else:
        witness = success_witness(remote, local, preimage_of(output.htlc.id), script, kind)
    return with_witness(commitment.second_stage.transaction(output), 0, witness)
