"""What the middle node does between two peers that do not move at the same pace (BOLT 2, "Forwarding HTLCs").

Each of these was found with a real peer, or stands for a moment that the rule machine reaches too rarely.
"""

from pathlib import Path

import pytest

from node.channel.events import Fail, Fulfil, Offer
from node.channel.state import Normal, OfferWant
from protocol.amounts import Msat
from protocol.bolt4 import failure as failures
from protocol.wire.bolt2_update import CommitmentSigned, UpdateFulfillHtlc
from protocol.wire.message import decode
from tests.node.channel.pair import invoice, onion_for, open_channel
from tests.node.channel.passing import IN_EXPIRY, OUT_EXPIRY, Row, onion_over

REASON = failures.encode(failures.TemporaryNodeFailure())
AMOUNT, FEE = 5_000_000, 2_000


def opened(folder: Path) -> Row:
    made = Row(folder)
    for pair in made.pairs:
        open_channel(pair, push=400_000_000, funding=1_000_000)
    return made


@pytest.fixture
def row(tmp_path: Path) -> Row:
    return opened(tmp_path)


def quiet(row: Row, *pairs: int) -> None:
    for _ in range(20):
        for index in pairs or (0, 1):
            row.pairs[index].quiet()
        row.forward()


def pass_on(row: Row) -> bytes:
    """Alice's payment stands at Carol."""
    made = invoice(row.carol, AMOUNT)
    onion = onion_over(row.left, row.carol, made, onward=AMOUNT)
    row.alice.do(
        Offer(OfferWant(Msat(AMOUNT + FEE), made.payment_hash, IN_EXPIRY, onion.packet, "payment/1"))
    )
    quiet(row)
    assert [entry.payment_hash for entry in row.carol.said.received] == [made.payment_hash]
    return made.payment_hash


def pay_bob(row: Row, number: int) -> None:
    made = invoice(row.left, AMOUNT)
    onion = onion_for(row.left, made, AMOUNT, OUT_EXPIRY)
    row.alice.do(Offer(OfferWant(Msat(AMOUNT), made.payment_hash, OUT_EXPIRY, onion, f"direct/{number}")))
    quiet(row, 0)
    row.left.do(Fulfil(row.left.said.received[-1].htlc_id))
    quiet(row, 0)
    assert row.alice.said.fulfilled[-1].origin == f"direct/{number}"


def test_the_incoming_channel_goes_on_while_the_next_peer_owes_its_commitment(row: Row) -> None:
    """LND sends update_fulfill_htlc and its commitment_signed apart: the received HTLC is credited and gone, and
    the onward one still stands in the commitments of the other channel. That must not hold up anything."""
    pass_on(row)
    row.carol.do(Fulfil(0))
    while not row.carol.out.waiting:
        assert row.carol.answer()
    assert [type(decode(frame)) for frame in row.carol.out.waiting] == [UpdateFulfillHtlc, CommitmentSigned]
    row.pairs[1].deliver(row.carol, 1)  # the preimage alone
    row.forward()
    quiet(row, 0)
    assert [event.origin for event in row.alice.said.fulfilled] == ["payment/1"]
    for number in range(3):
        pay_bob(row, number)
    assert not row.left.state.volatile.stalled
    assert not row.left.drops
    quiet(row)
    assert not any(end.state.htlcs for end in row.ends)
    assert all(isinstance(end.state.committed.phase, Normal) for end in row.ends)
    earned = row.left.state.committed.settled_local + row.right.state.committed.settled_local
    assert earned == 400_000_000 + 600_000_000 + FEE + 3 * AMOUNT


def test_the_incoming_htlc_stays_while_the_next_peer_has_not_let_go(row: Row) -> None:
    """The other way about: a failure of the next peer is not passed on before it is irrevocable."""
    pass_on(row)
    (entry,) = row.carol.said.received
    row.carol.do(Fail(entry.htlc_id, REASON))
    while not row.carol.out.waiting:
        assert row.carol.answer()
    row.pairs[1].deliver(row.carol, 1)  # update_fail_htlc alone
    row.forward()
    quiet(row, 0)
    assert not row.alice.said.failed
    quiet(row)
    assert [event.origin for event in row.alice.said.failed] == ["payment/1"]
    assert not any(end.state.htlcs for end in row.ends)
