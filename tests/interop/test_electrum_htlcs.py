"""Our node and Electrum, with HTLCs on the chain: each direction, each fate, at 45,000 sat/kw.

Electrum has no hold invoices. It holds a payment while its own switch says so, and a part of one while the rest is
missing; on the chain it takes the first and leaves the second.
"""

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from node.demo.stack import wait_for
from node.onchain.deadlines import CLAIM_BEFORE
from protocol.bolt11.decode import decode
from protocol.hashes import sha256
from tests.interop.cases import pay_them, pay_us
from tests.interop.closed import Closed, htlc_output, sat, taken
from tests.interop.harness import Side, World, copy_state
from tests.interop.onchain_cases import TO_THE_END, force_close, status
from tests.interop.peers.electrum_peer import Electrum

PEER = "electrum"
THEY_CLAIM, WE_LOSE_TIME, WE_CLAIM, THEY_LOSE_TIME = 340_000, 280_000, 220_000, 160_000
"""Satoshis of the four HTLCs. An HTLC transaction and its sweep cost Electrum 53,000."""
FINAL_DELTA = 160
"""Of the part that we send by hand: Electrum wants 144 blocks to its end."""
LOAD = 180.0


@dataclass(frozen=True)
class Htlcs:
    """One HTLC of each direction and fate. Of `we_time_out` half of the payment is missing."""

    they_claim: str
    we_time_out: str
    we_claim: dict[str, Any]
    they_time_out: dict[str, Any]

    @property
    def they_claim_hash(self) -> str:
        return decode(self.they_claim).payment_hash.hex()


def send_half(world: World, funding: str, bolt11: str, msat: int) -> str:
    """A part of a payment whose other part never comes; its payment hash."""
    invoice, row = decode(bolt11), world.our_channel(funding)
    assert row is not None and invoice.payment_secret is not None
    hop = {
        "id": world.their_id,
        "channel": row["short_channel_id"],
        "amount_msat": msat,
        "delay": FINAL_DELTA,
    }
    payment_hash = invoice.payment_hash.hex()
    world.ours.call(
        "sendpay",
        route=[hop],
        payment_hash=payment_hash,
        amount_msat=invoice.amount_msat,
        payment_secret=bytes(invoice.payment_secret).hex(),
        partid=1,
    )
    return payment_hash


def hold_invoice(world: World, amount: int, preimage: bytes) -> dict[str, Any]:
    made: dict[str, Any] = world.ours.call(
        "holdinvoice",
        payment_hash=sha256(preimage).hex(),
        amount_msat=amount * 1000,
        description="a preimage from outside",
    )
    return made


def part(world: World, payment_hash: str) -> str:
    (row,) = world.ours.call("listsendpays", payment_hash=payment_hash)["payments"]
    return str(row["status"])


def hold_four(world: World, electrum: Electrum, funding: str, preimage: bytes) -> Htlcs:
    """`preimage`: of the one that we claim. It comes from outside, so our node has to reckon that others know it."""
    electrum.hold(True)
    they_claim = world.their_invoice(THEY_CLAIM * 1000)
    world.begin_paying(they_claim)
    claim_hash = decode(they_claim).payment_hash.hex()
    world.until("Electrum to have our payment", lambda: electrum.would_take(claim_hash), LOAD)

    whole = world.their_invoice(2 * WE_LOSE_TIME * 1000)
    lost_hash = send_half(world, funding, whole, WE_LOSE_TIME * 1000)
    world.until("Electrum to have half a payment", lambda: electrum.waits_for_more(lost_hash), LOAD)

    held = [hold_invoice(world, WE_CLAIM, preimage), world.our_hold_invoice(THEY_LOSE_TIME * 1000)]
    for invoice in held:
        electrum.begin_paying(invoice["bolt11"])
        world.until("us to hold Electrum's payment", lambda i=invoice: world.we_hold(i["payment_hash"]), LOAD)
    row = world.our_channel(funding)
    assert row is not None
    amounts = sorted(htlc["amount_msat"] // 1000 for htlc in row["htlcs"])
    assert amounts == sorted((THEY_CLAIM, WE_LOSE_TIME, WE_CLAIM, THEY_LOSE_TIME))
    return Htlcs(they_claim, lost_hash, *held)


def close_when_due(world: World, electrum: Electrum, funding: str, preimage: bytes) -> None:
    """Electrum is gone, and we learn a preimage: before its HTLC runs out we must go to the chain, unasked."""
    electrum.kill()
    world.ours.call("settleholdinvoice", preimage=preimage.hex())
    row, payment_hash = world.our_channel(funding), sha256(preimage).hex()
    assert row is not None
    (expiry,) = (htlc["expiry"] for htlc in row["htlcs"] if htlc["payment_hash"] == payment_hash)
    due = expiry - CLAIM_BEFORE
    world.chain.mine(due - 1 - world.chain.height)
    wait_for("us to see the blocks", lambda: world.ours.height >= due - 1, seconds=LOAD)
    assert world.spender(funding) is None, "Electrum had one block more"
    world.chain.mine(1)
    wait_for("our commitment in the mempool", lambda: world.spender(funding), seconds=LOAD)
    world.chain.mine(1)
    electrum.start()


def coins(world: World, electrum: Electrum) -> tuple[int, int]:
    """What both wallets have, when Electrum's has nothing that is still to be confirmed."""
    world.until("Electrum's coins to be confirmed", lambda: not electrum.in_mempool(), LOAD)
    return world.money_sat(), electrum.money_sat()


def done(world: World, funding: str) -> bool:
    return world.done(funding) and not Closed(world, funding).open


def is_taken(world: World, funding: str, amount: int) -> bool:
    output = htlc_output(world.closing(funding), amount)
    return world.chain.spender(output, in_blocks=True) is not None


@pytest.mark.parametrize("closer", ["ours", "theirs", "ours, when it is due"])
@pytest.mark.parametrize("opener", ["ours", "theirs"])
def test_force_close_with_htlcs_both_ways(world: World, opener: Side, closer: str) -> None:
    """A preimage and a timeout of each side are mined; both balances are right to the satoshi."""
    electrum = world.peer
    assert isinstance(electrum, Electrum)
    funding = world.open(opener, push_sat=electrum.channel_sat * 2 // 5)
    pay_them(world, 5_000_000)
    pay_us(world, 3_000_000)
    world.quiet(funding)
    our_msat = world.our_msat(funding)
    assert our_msat % 1000 == 0
    before = coins(world, electrum)
    preimage = secrets.token_bytes(32)
    htlcs = hold_four(world, electrum, funding, preimage)
    if closer == "ours, when it is due":
        close_when_due(world, electrum, funding, preimage)
    else:
        force_close(world, funding, "ours" if closer == "ours" else "theirs")
        world.mine(1)
        world.ours.call("settleholdinvoice", preimage=preimage.hex())

    world.until("Electrum to take its HTLC", lambda: is_taken(world, funding, THEY_CLAIM), LOAD)
    ours_to_take = htlc_output(world.closing(funding), WE_CLAIM)
    world.until("our claim to be on its way", lambda: world.chain.spender(ours_to_take, in_blocks=True), LOAD)
    world.bury("our claim of our HTLC", lambda: is_taken(world, funding, WE_CLAIM), blocks=12)
    ours_hash = sha256(preimage).hex()
    world.bury("their preimage to reach us", lambda: status(world, htlcs.they_claim) == "complete", blocks=20)
    world.bury(
        "our preimage to reach them", lambda: electrum.preimage(ours_hash) == preimage.hex(), blocks=20
    )
    world.bury("our own to time out", lambda: part(world, htlcs.we_time_out) == "failed", blocks=300, step=3)
    # Electrum itself never calls a close done in which we took an HTLC that it offered, on its own commitment.
    world.bury("the last output to be a coin", lambda: done(world, funding), **TO_THE_END)
    electrum.hold(False)

    end = Closed(world, funding)
    assert len(end.commitment["vout"]) == 6
    told = electrum.preimage(htlcs.they_claim_hash)
    assert told is not None
    assert end.htlc(THEY_CLAIM) == taken("theirs", told)
    assert end.htlc(WE_CLAIM) == taken("ours", preimage.hex())
    assert end.htlc(WE_LOSE_TIME) == taken("ours")
    assert end.htlc(THEY_LOSE_TIME) == taken("theirs")

    commitment_fee = electrum.channel_sat - sum(map(sat, end.commitment["vout"]))
    moved = WE_CLAIM - THEY_CLAIM
    ours = our_msat // 1000 + moved - end.fees("ours") - (commitment_fee if opener == "ours" else 0)
    theirs = electrum.channel_sat - our_msat // 1000 - moved - end.fees("theirs")
    theirs -= commitment_fee if opener == "theirs" else 0
    assert end.coins == {"ours": ours, "theirs": theirs}
    after = before[0] + ours, before[1] + theirs
    world.until("both wallets to count that", lambda: coins(world, electrum) == after, LOAD)


def test_revoked_commitment_with_htlcs_is_punished(world: World, tmp_path: Path) -> None:
    """All of it is ours: both outputs and four HTLCs, also the one that Electrum, sure of its right, takes first.

    The last test of the module: what a punished Electrum makes of its lost channel disturbs.
    """
    electrum = world.peer
    assert isinstance(electrum, Electrum)
    funding = world.open("theirs", push_sat=electrum.channel_sat // 5)
    pay_us(world, 5_000_000)
    world.quiet(funding)
    htlcs = hold_four(world, electrum, funding, secrets.token_bytes(32))
    electrum.kill()  # a stop would give the part back
    copy_state(electrum.state, tmp_path / "old")
    electrum.start()
    world.until("the channel to be reestablished", lambda: world.usable(funding), LOAD)
    electrum.hold(False)
    for held in (htlcs.we_claim, htlcs.they_time_out):
        world.ours.call("cancelholdinvoice", payment_hash=held["payment_hash"])
    world.until("every HTLC to be gone", lambda: status(world, htlcs.they_claim) == "complete", LOAD)
    world.quiet(funding)
    pay_us(world, 200_000_000)
    pay_them(world, 1_000_000)
    world.quiet(funding)

    before = coins(world, electrum)
    world.ours.daemon.stop()
    electrum.stop()
    copy_state(tmp_path / "old", electrum.state)
    electrum.start()
    electrum.force_close(funding)
    revoked = world.until("the revoked commitment in the mempool", lambda: world.spender(funding), LOAD)
    output = htlc_output(world.chain.call("getrawtransaction", revoked, True), THEY_CLAIM)
    world.until("Electrum to take its HTLC", lambda: world.chain.spender(output), LOAD)
    world.start_ours()
    world.mine(1)
    world.bury("the penalty to be final", lambda: done(world, funding), **TO_THE_END)

    end = Closed(world, funding)
    assert len(end.commitment["vout"]) == 6
    assert all(spend.owners == {"ours"} for spend in end.spends.values())
    assert end.htlc(THEY_CLAIM) == taken("ours", electrum.preimage(htlcs.they_claim_hash) or "unknown")
    fees = sum(spend.fee for spend in end.spends.values())
    assert end.coins == {"ours": electrum.channel_sat - fees, "theirs": 0}
    assert coins(world, electrum) == (before[0] + electrum.channel_sat - fees, before[1])
