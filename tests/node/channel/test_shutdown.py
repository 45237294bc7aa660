"""How a channel begins to end, and what is said again after a reconnection (BOLT 2, "Closing Initiation: `shutdown`",
"Message Retransmission"; checklist 28, 53), and ids and hashes of HTLCs (checklist 18)."""

import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from node.channel.events import CloseWanted, FromPeer, Fulfil, Offer
from node.channel.state import OfferWant, Offline, Online, ShuttingDown
from protocol.amounts import Msat
from protocol.bitcoin.script import p2tr, p2wpkh, p2wsh
from protocol.curve import point_of
from protocol.wire.bolt2_close import Shutdown
from protocol.wire.bolt2_open import ChannelReady
from protocol.wire.bolt2_reestablish import ChannelReestablish
from protocol.wire.bolt2_update import UpdateAddHtlc
from protocol.wire.message import Message, decode
from tests.node.channel.pair import End, Pair, invoice, onion_for, open_channel
from tests.node.channel.test_dance import balances, offer

KEY = point_of(b"\x07" * 32)
P2PKH = b"\x76\xa9\x14" + bytes(20) + b"\x88\xac"
P2SH = b"\xa9\x14" + bytes(20) + b"\x87"


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    made = Pair(tmp_path)
    open_channel(made, push=3_000_000_000)
    return made


def hears_shutdown(pair: Pair, script: bytes, *, upfront: bytes | None = None) -> bool:
    """Whether Alice takes this shutdown of Bob's."""
    params = pair.alice.state.committed.params
    pair.alice.state.committed.params = replace(params, counterparty_upfront_script=upfront)
    pair.alice.do(FromPeer(Shutdown(params.channel_id, script)))
    return isinstance(pair.alice.state.volatile.link, Online)


@pytest.mark.parametrize("script", [p2wpkh(KEY), p2wsh(b"a script"), p2tr(KEY[1:]), b"\x60\x02\x01\x02"])
def test_a_shutdown_to_a_known_form_is_answered(pair: Pair, script: bytes) -> None:
    """checklist 53"""
    assert hears_shutdown(pair, script)
    phase = pair.alice.state.committed.phase
    assert isinstance(phase, ShuttingDown)
    assert phase.theirs == script
    assert any(isinstance(decode(frame), Shutdown) for frame in pair.alice.out.waiting)


@pytest.mark.parametrize("script", [P2PKH, P2SH, b"", b"\x00\x15" + bytes(21), b"\x6a\x06burned"])
def test_a_shutdown_to_another_form_costs_the_connection(pair: Pair, script: bytes) -> None:
    """checklist 53: an OP_RETURN too, where option_simple_close was not negotiated."""
    assert not hears_shutdown(pair, script)
    assert not isinstance(pair.alice.state.committed.phase, ShuttingDown)


@pytest.mark.parametrize(("upfront", "taken"), [(p2wpkh(KEY), True), (p2wsh(b"x"), False), (None, True)])
def test_a_shutdown_keeps_to_the_upfront_script(pair: Pair, upfront: bytes | None, taken: bool) -> None:
    """checklist 53"""
    assert hears_shutdown(pair, p2wpkh(KEY), upfront=upfront) is taken


def test_a_second_shutdown_names_the_same_script(pair: Pair) -> None:
    """What we sign for and what the peer asks for must not part. checklist 53"""
    offer(pair, pair.alice, 50_000_000)
    pair.quiet()
    assert hears_shutdown(pair, p2wpkh(KEY))
    assert hears_shutdown(pair, p2wpkh(KEY))
    assert not hears_shutdown(pair, p2wsh(b"another"))
    assert "another script" in pair.alice.drops[0].reason
    phase = pair.alice.state.committed.phase
    assert isinstance(phase, ShuttingDown)
    assert phase.theirs == p2wpkh(KEY)


def test_our_shutdown_names_the_script_that_we_gave_upfront(pair: Pair) -> None:
    """checklist 53"""
    pair.alice.do(CloseWanted())
    (said,) = (m for m in said_by(pair.alice) if isinstance(m, Shutdown))
    assert said.scriptpubkey == pair.bob.state.committed.params.counterparty_upfront_script


def said_by(end: End) -> list[Message]:
    return [m for frame in end.out.waiting if isinstance(m := decode(frame), Message)]


def test_htlcs_are_settled_after_shutdown_and_none_is_added(pair: Pair) -> None:
    """checklist 53"""
    offer(pair, pair.alice, 50_000_000)
    pair.quiet()
    pair.alice.do(CloseWanted())
    pair.quiet()
    offer(pair, pair.alice, 1_000_000)
    offer(pair, pair.bob, 1_000_000)
    assert pair.alice.said.refused
    assert pair.bob.said.refused
    pair.bob.do(Fulfil(0))
    pair.quiet()
    assert pair.alice.published


def test_shutdown_is_said_once_and_again_on_each_connection(pair: Pair) -> None:
    """checklist 28, 53"""
    offer(pair, pair.bob, 50_000_000)
    pair.quiet()
    pair.alice.do(CloseWanted())
    pair.alice.do(CloseWanted())
    assert [type(message) for message in said_by(pair.alice)] == [Shutdown]
    for _ in range(2):
        pair.disconnect()
        pair.connect()
        pair.deliver(pair.bob)
        assert [type(message) for message in said_by(pair.alice)].count(Shutdown) == 1


def test_channel_ready_is_said_again_only_before_anything_was_signed(pair: Pair) -> None:
    """checklist 28: when both numbers are 1."""
    for before in (True, False):
        pair.disconnect()
        pair.connect()
        pair.deliver(pair.bob)
        kinds = [type(message) for message in said_by(pair.alice)]
        assert kinds[0] is ChannelReestablish
        assert (ChannelReady in kinds) is before
        pair.quiet()
        offer(pair, pair.alice, 50_000_000)
        pair.quiet()
        if before:
            pair.bob.do(Fulfil(0))
            pair.quiet()


def test_ids_rise_and_one_hash_may_be_paid_many_times(pair: Pair) -> None:
    """checklist 18: and no id is ever given twice."""
    made = invoice(pair.bob, None)
    before = balances(pair)
    for turn in range(2):
        for _ in range(2):
            onion = onion_for(pair.bob, made, 1_000_000, 200)
            want = OfferWant(Msat(1_000_000), made.payment_hash, 200, onion, os.urandom(4).hex())
            pair.alice.do(Offer(want))
        pair.quiet()
        ids = [event.htlc_id for event in pair.bob.said.received]
        assert ids == list(range(2 * turn + 2))
        pair.bob.do(*(Fulfil(n) for n in ids))
        pair.quiet()
    assert balances(pair)[1] == before[1] + 4_000_000
    assert not pair.bob.drops


def test_an_update_that_nobody_signed_for_is_forgotten_with_the_connection(pair: Pair) -> None:
    """checklist 26"""
    channel_id = pair.bob.state.committed.params.channel_id
    pair.bob.do(FromPeer(UpdateAddHtlc(channel_id, 0, Msat(1_000_000), b"\x09" * 32, 200, bytes(1366))))
    assert pair.bob.state.volatile.staged
    pair.disconnect()
    assert isinstance(pair.bob.state.volatile.link, Offline)
    pair.connect()
    pair.quiet()
    offer(pair, pair.alice, 2_000_000)
    pair.quiet()
    (received,) = pair.bob.said.received
    assert (received.htlc_id, received.amount_msat) == (0, 2_000_000)
