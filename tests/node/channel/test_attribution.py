"""Attribution data in a channel: who adds it, what is kept of it until when, and that it is sent again as it was
(BOLT 2, "Removing an HTLC"; BOLT 4, "Initialization of `attribution_data`"; checklist 39)."""

import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from node.channel.events import Fail, Fulfil, Offer
from node.channel.state import OfferWant, State
from protocol.amounts import Msat
from protocol.bolt4 import sphinx
from protocol.bolt4.attribution import SIZE, Told, read
from protocol.bolt4.failure_onion import unwrap
from protocol.hashes import sha256
from protocol.wire.bolt2_update import (
    AttributionTlvs,
    UpdateAddHtlc,
    UpdateAddHtlcTlvs,
    UpdateFailHtlc,
    UpdateFulfillHtlc,
)
from protocol.wire.message import Message, decode, encode
from tests.node.channel.pair import End, Pair, invoice, onion_for, open_channel
from tests.node.channel.passing import IN_EXPIRY, OUT_EXPIRY, Row, onion_over
from tests.node.channel.test_passing_on import AMOUNT, FEE, REASON, opened, quiet

CAROLS = 2
"""What Carol says that she held it; Bob says `Row.held`."""
Removal = UpdateFulfillHtlc | UpdateFailHtlc


@pytest.fixture
def row(tmp_path: Path) -> Row:
    return opened(tmp_path)


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    made = Pair(tmp_path)
    open_channel(made)
    return made


def pay(row: Row, *, readable: bool = True) -> sphinx.Onion:
    """Alice's payment stands at Carol, or came back from there."""
    made = invoice(row.carol, AMOUNT)
    onion = onion_over(row.left, row.carol, made, onward=AMOUNT, readable=readable)
    row.alice.do(
        Offer(OfferWant(Msat(AMOUNT + FEE), made.payment_hash, IN_EXPIRY, onion.packet, "payment/1"))
    )
    quiet(row)
    return onion


def without(frame: bytes) -> bytes:
    """The message as a peer sends it that knows no attribution data."""
    message = decode(frame)
    return encode(replace(message, tlvs=AttributionTlvs())) if isinstance(message, Removal) else frame


def end_of(row: Row, *, silent: bool = False) -> None:
    """Carol's answer is on the line, `silent`: without her data; then all of it reaches Alice."""
    while row.carol.answer():
        pass
    if silent:
        row.carol.out.waiting = type(row.carol.out.waiting)(map(without, row.carol.out.waiting))
    quiet(row)


def removal(end: End) -> Removal:
    """What is on its way from this end."""
    found = [m for m in map(decode, end.out.waiting) if isinstance(m, Removal)]
    assert len(found) == 1
    return found[0]


def test_the_payer_hears_from_every_hop_how_long_it_held_what_was_paid(row: Row) -> None:
    """checklist 39: also on fulfil"""
    onion = pay(row)
    row.carol.do(Fulfil(0, hold_time=CAROLS))
    end_of(row)
    (event,) = row.alice.said.fulfilled
    assert event.attribution is not None and len(event.attribution) == SIZE
    assert read(onion.shared_secrets, b"", event.attribution) == Told((row.held, CAROLS))


def test_the_payer_hears_from_every_hop_how_long_it_held_what_failed(row: Row) -> None:
    """checklist 39"""
    onion = pay(row)
    row.carol.do(Fail(0, REASON, hold_time=CAROLS))
    end_of(row)
    (event,) = row.alice.said.failed
    opened = unwrap(onion.shared_secrets, event.reason)
    assert opened is not None and opened.hop_index == 1
    assert event.attribution is not None
    assert read(onion.shared_secrets, event.reason, event.attribution, source=1) == Told((row.held, CAROLS))


@pytest.mark.parametrize("paid", [True, False])
def test_zeros_stand_for_a_next_hop_that_gives_none(row: Row, paid: bool) -> None:
    """checklist 39: fill zero when the downstream gave none"""
    onion = pay(row)
    row.carol.do(Fulfil(0, hold_time=CAROLS) if paid else Fail(0, REASON, hold_time=CAROLS))
    end_of(row, silent=True)
    (event,) = [*row.alice.said.fulfilled, *row.alice.said.failed]
    assert event.attribution is not None
    packet = b"" if paid else event.reason  # type: ignore[union-attr]
    told = read(onion.shared_secrets, packet, event.attribution)
    assert told == Told((row.held,), spoiled_at=1, silent=True)


def test_a_failure_that_we_make_for_an_unreadable_onion_begins_the_data(row: Row) -> None:
    """checklist 39: update_fail_malformed_htlc has none, so whoever turns it into a failure is its source."""
    onion = pay(row, readable=False)
    (event,) = row.alice.said.failed
    assert event.attribution is not None
    assert read(onion.shared_secrets, event.reason, event.attribution, source=0) == Told((row.held,))
    assert (
        row.right.said.failed[0].malformed_code is not None and row.right.said.failed[0].attribution is None
    )


def stands(pair: Pair, *, blinded: bool = False) -> None:
    """Alice's payment stands at Bob; `blinded`: its update_add_htlc carried a path_key."""
    made = invoice(pair.bob, AMOUNT)
    onion = onion_for(pair.bob, made, AMOUNT, OUT_EXPIRY)
    pair.alice.do(Offer(OfferWant(Msat(AMOUNT), made.payment_hash, OUT_EXPIRY, onion, "payment/1")))
    if blinded:
        while not pair.alice.out.waiting:
            assert pair.alice.answer()
        pair.alice.out.waiting = type(pair.alice.out.waiting)(map(_with_path_key, pair.alice.out.waiting))
    pair.quiet()
    assert len(pair.bob.said.received) == 1


def _with_path_key(frame: bytes) -> bytes:
    message = decode(frame)
    if not isinstance(message, UpdateAddHtlc):
        return frame
    return encode(replace(message, tlvs=UpdateAddHtlcTlvs(b"\x02" + sha256(b"a point")[:32])))


def answer(pair: Pair, *, paid: bool) -> Removal:
    pair.bob.do(Fulfil(0) if paid else Fail(0, REASON))
    while pair.bob.answer():
        pass
    return removal(pair.bob)


@pytest.mark.parametrize("paid", [True, False])
def test_inside_a_blinded_path_nothing_is_told(pair: Pair, paid: bool) -> None:
    """checklist 39: not where path_key came with the update_add_htlc, and a crash does not forget that."""
    stands(pair, blinded=True)
    pair.bob.crash()
    pair.disconnect()
    pair.connect()
    pair.quiet()
    assert answer(pair, paid=paid).tlvs.attribution is None


@pytest.mark.parametrize("paid", [True, False])
def test_an_htlc_of_a_signer_that_gave_no_key_ends_without(pair: Pair, paid: bool) -> None:
    """checklist 39: a row that is older than the key is still good."""
    stands(pair)
    state = pair.bob.state
    assert state is not None
    rows = {key: replace(one, ammagext=None) for key, one in state.htlcs.items()}
    pair.bob.state = State(state.committed, rows, state.volatile)
    assert answer(pair, paid=paid).tlvs.attribution is None
    pair.quiet()
    assert not pair.bob.state.htlcs and len([*pair.alice.said.fulfilled, *pair.alice.said.failed]) == 1


@pytest.mark.parametrize("paid", [True, False])
def test_what_is_owed_is_sent_again_byte_for_byte(pair: Pair, paid: bool) -> None:
    """checklist 39: after a lost connection, and after a crash, the signed update is the same."""
    stands(pair)
    said = answer(pair, paid=paid)
    assert said.tlvs.attribution is not None
    for crash in (False, True):
        pair.disconnect()
        if crash:
            pair.bob.crash(lose_next=True)
        pair.connect()
        while not any(isinstance(decode(frame), Removal) for frame in pair.bob.out.waiting):
            assert pair.bob.answer() or pair.deliver(pair.alice) or pair.deliver(pair.bob)
        assert encode(removal(pair.bob)) == encode(said)
    pair.quiet()
    (event,) = [*pair.alice.said.fulfilled, *pair.alice.said.failed]
    assert event.attribution == said.tlvs.attribution


@pytest.mark.parametrize("paid", [True, False])
@pytest.mark.parametrize("lose_next", [True, False])
def test_a_crash_between_the_next_hop_and_the_last_one_keeps_the_data(
    row: Row, paid: bool, lose_next: bool
) -> None:
    """checklist 39: Bob dies when Carol's answer is durable and nothing of it is with Alice: as soon as he has the
    preimage, or when the HTLC that failed is gone for good."""
    onion = pay(row)
    row.carol.do(Fulfil(0, hold_time=CAROLS) if paid else Fail(0, REASON, hold_time=CAROLS))
    while row.carol.answer():
        pass
    row.pairs[1].deliver(row.carol, 1)
    if not paid:
        row.pairs[1].quiet()
    assert [*row.right.said.fulfilled, *row.right.said.failed] and not row.left.out.waiting
    row._heard[id(row.right)] = [0, len(row.right.said.fulfilled), len(row.right.said.failed), 0]
    row.kill(row.left, lose_next=lose_next)
    for each in row.pairs:
        each.disconnect()
        each.connect()
    quiet(row)
    (event,) = [*row.alice.said.fulfilled, *row.alice.said.failed]
    assert event.attribution is not None
    packet = b"" if paid else event.reason  # type: ignore[union-attr]
    source = None if paid else 1
    assert read(onion.shared_secrets, packet, event.attribution, source=source) == Told((row.held, CAROLS))


@pytest.mark.parametrize("paid", [True, False])
def test_nobody_keeps_the_data_of_his_own_htlc_once_it_is_gone(pair: Pair, paid: bool) -> None:
    """checklist 39: neither who owed it nor the payer, who was told."""
    stands(pair)
    answer(pair, paid=paid)
    owed = "SELECT count(*) FROM htlcs WHERE attribution IS NOT NULL"
    assert pair.bob.database.read(owed) == [(1,)]
    pair.quiet()
    for end in pair.ends:
        assert end.state is not None and not end.state.htlcs
        assert end.database.read(owed) == [(0,)]
        assert end.database.read("SELECT done FROM htlcs") == [(1,)]


def test_data_of_another_size_is_no_message(pair: Pair) -> None:
    """checklist 39, BOLT 1: a TLV that is known has its exact length, or the stream cannot be read."""
    stands(pair)
    good = encode(answer(pair, paid=False))
    at = good.rindex(b"\x01\xfd" + SIZE.to_bytes(2, "big"))
    assert isinstance(decode(good), Message)
    for size in (SIZE - 1, SIZE + 1):
        spoiled = good[:at] + b"\x01\xfd" + size.to_bytes(2, "big") + os.urandom(size)
        with pytest.raises(Exception, match=r"920|left|end|bytes"):
            decode(spoiled)
