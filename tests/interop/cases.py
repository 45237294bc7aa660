"""The conversations that our node must be able to have with every peer (the rows of docs/interop.md)."""

import secrets
import threading
import time
from typing import Any

import pytest

from protocol.bolt11.decode import decode
from protocol.hashes import sha256
from tests.interop.conftest import Channel
from tests.interop.harness import RpcRefused, Side, World
from tests.interop.peers.base import HoldingPeer, Outcome, PeerRefused, Terms, side_by_side

REFUSED_BY_PAYEE = 203
EXPIRED = 207
AT_ONCE = 100
MANY = 10
"""Of the payments to us, which nobody holds back: so many at least are on their way when the line is cut."""


def pay_them(world: World, msat: int) -> None:
    bolt11 = world.their_invoice(msat)
    paid = world.ours.call("xpay", bolt11)
    payment_hash = decode(bolt11).payment_hash
    assert sha256(bytes.fromhex(paid["payment_preimage"])) == payment_hash
    assert paid["amount_sent_msat"] == msat
    world.until("the peer to count the payment", lambda: world.peer.received_msat(payment_hash.hex()) == msat)


def pay_us(world: World, msat: int) -> None:
    invoice = world.our_invoice(msat)
    end = world.peer.pay(invoice["bolt11"])
    assert end.preimage is not None, end.failure
    assert sha256(bytes.fromhex(end.preimage)).hex() == invoice["payment_hash"]
    world.until("our invoice to be paid", lambda: world.is_paid(invoice["label"]))


def assert_we_refused(world: World, end: Outcome) -> None:
    """The peer could open our failure onion and read in it that the details are wrong."""
    assert end.preimage is None
    said = end.failure.lower().replace("_", "").replace(" ", "")
    assert "incorrectorunknownpaymentdetails" in said or "incorrectpaymentdetails" in said, end.failure


def assert_they_refused(world: World, bolt11: str) -> None:
    with pytest.raises(RpcRefused) as refusal:
        world.ours.call("xpay", bolt11)
    assert refusal.value.code == REFUSED_BY_PAYEE
    assert "incorrect_or_unknown_payment_details" in str(refusal.value)


class Connecting:
    """Without any channel."""

    @pytest.mark.parametrize("by", ["ours", "theirs"])
    def test_connect_and_init(self, world: World, by: Side) -> None:
        world.connect(by)
        (row,) = world.ours.call("listpeers", world.their_id)["peers"]
        features = int(row["features"], 16)
        assert features >> 12 & 3 and features >> 14 & 3  # static_remotekey and payment_secret
        assert bool(features >> 22 & 3) is world.peer.anchors
        world.disconnect()
        world.until("the peer to see that we left", lambda: not world.peer.connected(world.our_id))

    def test_connecting_twice_is_one_connection(self, world: World) -> None:
        world.connect("theirs")
        world.connect("ours")
        assert len(world.ours.call("listpeers", world.their_id)["peers"]) == 1
        world.disconnect()
        world.until("the peer to see that we left", lambda: not world.peer.connected(world.our_id))


class OverAChannel:
    """Everything that one channel can do, once for each opener."""

    def test_terms_are_seen_alike(self, world: World, channel: Channel) -> None:
        ours, theirs = world.our_channel(channel.funding), world.their_channel(channel.funding)
        assert ours is not None and theirs is not None
        assert ours["opener"] == ("local" if channel.opener == "ours" else "remote")
        assert ours["private"] is True
        assert ("anchors/even" in ours["channel_type"]["names"]) is world.peer.anchors
        assert theirs.anchors is world.peer.anchors
        assert ours["total_msat"] == theirs.capacity * 1000
        pushed = world.peer.channel_sat * 2 // 5 * 1000
        kept = theirs.capacity * 1000 - pushed
        assert ours["to_us_msat"] == (kept if channel.opener == "ours" else pushed)
        assert ours["feerate"]["perkw"] == theirs.feerate_per_kw

    def test_update_fee_by_the_opener(self, world: World, channel: Channel) -> None:
        def is_at(rate: int) -> bool:
            ours, theirs = world.our_channel(channel.funding), world.their_channel(channel.funding)
            assert ours is not None and theirs is not None
            return ours["feerate"]["perkw"] == rate == theirs.feerate_per_kw and world.usable(channel.funding)

        before = world.our_channel(channel.funding)
        assert before is not None
        if channel.opener == "ours":
            asked = [2000, 500]
            # Without anchors a commitment must confirm as it is, so we take half as much again.
            expected = [rate if world.peer.anchors else rate * 3 // 2 for rate in asked]
            for rate, wanted in zip(asked, expected, strict=True):
                world.chain.call("setfeerate", rate * 4)
                world.mine(1)
                world.until(f"our update_fee to {wanted} to be locked in", lambda w=wanted: is_at(w))
        else:
            wanted = world.peer.want_feerate(1500)
            assert wanted != before["feerate"]["perkw"]
            world.until(f"their update_fee to {wanted} to be locked in", lambda: is_at(wanted))
        pay_them(world, 3_000_000)
        pay_us(world, 2_000_000)
        world.chain.call("setfeerate", 2000)

    def test_pays_invoices_both_ways(self, world: World, channel: Channel) -> None:
        world.quiet(channel.funding)
        before = world.our_msat(channel.funding)
        for to_them, to_us in ((21_000_000, 20_000_000), (1_000, 2_000), (400_000, 300_000)):
            pay_them(world, to_them)
            pay_us(world, to_us)
            before += to_us - to_them
            world.until(
                "the balance to follow",
                lambda: world.our_msat(channel.funding) == before,  # noqa: B023
            )
        world.quiet(channel.funding)

    def test_wrong_amount_is_refused_by_us(self, world: World, channel: Channel) -> None:
        invoice = world.our_invoice(10_000_000)
        delta = decode(invoice["bolt11"]).min_final_cltv_expiry_delta
        for amount in (4_000_000, 30_000_000):
            terms = Terms(world.our_id, invoice["payment_hash"], invoice["payment_secret"], amount, delta)
            assert_we_refused(world, world.peer.send(terms))
        assert not world.is_paid(invoice["label"])

    def test_unknown_hash_is_refused_by_us(self, world: World, channel: Channel) -> None:
        invoice = world.our_invoice(10_000_000)
        unknown = secrets.token_hex(32)
        terms = Terms(world.our_id, unknown, invoice["payment_secret"], 10_000_000, 40)
        assert_we_refused(world, world.peer.send(terms))

    def test_expired_invoice_is_refused_by_us(self, world: World, channel: Channel) -> None:
        invoice = world.our_invoice(10_000_000, expiry=1)
        world.until("our invoice to expire", lambda: time.time() > invoice["expires_at"] + 0.2)
        terms = Terms(world.our_id, invoice["payment_hash"], invoice["payment_secret"], 10_000_000, 40)
        assert_we_refused(world, world.peer.send(terms))

    def test_wrong_amount_is_refused_by_them(self, world: World, channel: Channel) -> None:
        original = decode(world.their_invoice(10_000_000))
        assert_they_refused(world, world.forge(original, amount_msat=4_000_000))
        assert world.peer.received_msat(original.payment_hash.hex()) is None

    def test_unknown_hash_is_refused_by_them(self, world: World, channel: Channel) -> None:
        original = decode(world.their_invoice(10_000_000))
        assert_they_refused(world, world.forge(original, payment_hash=secrets.token_bytes(32)))

    def test_expired_invoice_of_theirs_is_not_paid(self, world: World, channel: Channel) -> None:
        """We do not even try; a peer that checks refuses it too when an invoice lies about its expiry."""
        bolt11 = world.their_invoice(10_000_000, expiry=1)
        original = decode(bolt11)
        world.until("their invoice to expire", lambda: time.time() > original.expires_at + 0.2)
        with pytest.raises(RpcRefused) as refusal:
            world.ours.call("xpay", bolt11)
        assert refusal.value.code == EXPIRED and "expired" in str(refusal.value)
        if world.peer.refuses_expired:
            payment_hash = original.payment_hash.hex()
            world.until("the peer to notice", lambda: world.peer.has_expired(payment_hash))
            assert_they_refused(world, world.forge(original, expiry=86_400))

    def test_ping_is_answered(self, world: World, channel: Channel) -> None:
        world.peer.ping(world.our_id)
        assert world.connected()

    @pytest.mark.parametrize("how", ["stopped", "killed"])
    def test_reconnects_after_we_were(self, world: World, channel: Channel, how: str) -> None:
        world.quiet(channel.funding)
        before = world.our_msat(channel.funding)
        if how == "killed":
            world.ours.daemon.kill()
        else:
            world.ours.daemon.stop()
        world.ours.start_daemon()
        world.ours.wait_ready()
        world.until("the channel to be reestablished", lambda: world.usable(channel.funding))
        assert world.our_msat(channel.funding) == before
        pay_them(world, 1_000_000)
        pay_us(world, 1_000_000)

    def test_reconnects_after_they_restarted(self, world: World, channel: Channel) -> None:
        world.quiet(channel.funding)
        before = world.our_msat(channel.funding)
        world.peer.restart()
        world.until("the channel to be reestablished", lambda: world.usable(channel.funding))
        assert world.our_msat(channel.funding) == before
        pay_them(world, 1_000_000)
        pay_us(world, 1_000_000)


class Storm:
    """For peers that can hold payments: a hundred in flight at once each way, and the line cut in the middle."""

    def test_hundred_payments_each_way_survive_a_disconnect(self, world: World, channel: Channel) -> None:
        peer = world.peer
        assert isinstance(peer, HoldingPeer)
        world.quiet(channel.funding)
        before = world.our_msat(channel.funding)
        each = 1_000_000
        theirs = [peer.hold_invoice(each) for _ in range(AT_ONCE)]
        ours = [world.our_invoice(each) for _ in range(AT_ONCE)]
        sent: list[Any] = []
        orders = [lambda b=bolt11: world.ours.call("xpay", invstring=b, retry_for=300) for bolt11 in theirs]
        paying = threading.Thread(target=lambda: sent.extend(side_by_side(orders, width=AT_ONCE)))
        paying.start()
        world.until("a hundred of ours to be in flight", lambda: in_flight(world, channel, "out") == AT_ONCE)

        received: list[Any] = []
        bolt11s = [invoice["bolt11"] for invoice in ours]
        being_paid = threading.Thread(target=lambda: received.extend(peer.pay_together(bolt11s)))
        being_paid.start()
        world.until("many of theirs to be in flight too", lambda: in_flight(world, channel, "in") >= MANY)
        world.disconnect()
        world.until("the line to be back", lambda: back(world, channel))

        world.until(
            "every payment of ours to be with the peer", lambda: all(peer.holds(bolt11) for bolt11 in theirs)
        )
        for bolt11 in theirs:
            peer.release(bolt11)
        for thread in (paying, being_paid):
            thread.join(300)
            assert not thread.is_alive(), "payments are stuck"
        for bolt11, answer in zip(theirs, sent, strict=True):
            assert isinstance(answer, dict), answer
            assert sha256(bytes.fromhex(answer["payment_preimage"])) == decode(bolt11).payment_hash
        # What was not yet offered when the line went down may have failed cleanly: then it is paid again.
        again = 0
        for invoice, end in zip(ours, received, strict=True):
            if not isinstance(end, Outcome) or end.preimage is None:
                assert isinstance(end, Outcome | PeerRefused), end
                assert not world.is_paid(invoice["label"]), end
                again += 1
                end = peer.pay(invoice["bolt11"])
            assert end.preimage is not None, end.failure
            assert sha256(bytes.fromhex(end.preimage)).hex() == invoice["payment_hash"]
            world.until("our invoice to be paid", lambda i=invoice: world.is_paid(i["label"]))
        print(f"{again} of theirs failed cleanly at the cut and were paid again")
        assert again < AT_ONCE, "not one payment by the peer went through"
        world.quiet(channel.funding)
        assert world.our_msat(channel.funding) == before  # as much came as went, to the millisatoshi
        assert world.usable(channel.funding)


def in_flight(world: World, channel: Channel, direction: str) -> int:
    row = world.our_channel(channel.funding)
    assert row is not None
    return sum(htlc["direction"] == direction for htlc in row["htlcs"])


def back(world: World, channel: Channel) -> bool:
    if not world.connected():
        return False
    row = world.our_channel(channel.funding)
    return row is not None and bool(row["reestablished"])


class Closing:
    """A cooperative close begun by each side, of channels opened by each side."""

    @pytest.mark.parametrize("closer", ["ours", "theirs"])
    @pytest.mark.parametrize("opener", ["ours", "theirs"])
    def test_cooperative_close(self, world: World, opener: Side, closer: Side) -> None:
        funding = world.open(opener, push_sat=world.peer.channel_sat * 2 // 5)
        pay_them(world, 5_000_000)
        pay_us(world, 3_000_000)
        world.quiet(funding)
        row = world.our_channel(funding)
        assert row is not None
        tx = world.close(funding, by=closer)

        (spent,) = tx["vin"]
        assert f"{spent['txid']}:{spent['vout']}" == funding
        values = {out["scriptPubKey"]["hex"]: round(out["value"] * 100_000_000) for out in tx["vout"]}
        fee = world.peer.channel_sat - sum(values.values())
        assert 0 < fee < 50_000
        mine = row["to_us_msat"] // 1000 - (fee if opener == "ours" else 0)
        theirs = (row["total_msat"] - row["to_us_msat"]) // 1000 - (0 if opener == "ours" else fee)
        assert values.pop(row["close_to"]) == mine
        assert list(values.values()) == [theirs]
        world.until("our money to be ours on chain", lambda: world.has_output(tx["txid"], mine))
