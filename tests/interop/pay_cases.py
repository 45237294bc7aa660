"""Payments over others, hints of private channels, keysend, hold invoices and probes, between LND and our nodes."""

import secrets
from typing import Any

import pytest

from protocol.bolt11.decode import decode
from protocol.hashes import sha256
from tests.interop.network_cases import (
    direction,
    forget,
    keysend,
    lnd_pays,
    paid,
    policy,
    route,
    send_along,
)
from tests.interop.network_world import RELAY, USABLE, Web, b64
from tests.interop.peers.base import Outcome


class Paying:
    def without(self, web: Web, peer: str, funding: str) -> list[str]:
        """`exclude` for a channel of ours."""
        return [f"{web.scid(funding)}/{direction(web, peer)}"]

    def test_we_pay_our_second_node_through_lnd(self, web: Web) -> None:
        """Its invoice has a hint of its private channel with `far`; the straight channel is excluded."""
        web.quiet(web.ours, web.third)
        msat = 40_000_000
        made = web.our_invoice(web.third, msat, exposeprivatechannels=True)
        (hop,) = next(iter(decode(made["bolt11"]).route_hints))
        assert hop.node_id.hex() == web.far.node_id
        terms = policy(web.far, web, web.to_far, web.far.node_id)
        assert (hop.fee_base_msat, hop.cltv_expiry_delta) == (int(terms["fee_base_msat"]), 80)
        ended = web.ours.call(
            "pay", bolt11=made["bolt11"], exclude=self.without(web, web.third_id, web.to_third)
        )
        assert sha256(bytes.fromhex(ended["payment_preimage"])).hex() == made["payment_hash"]
        assert (
            ended["amount_sent_msat"] == msat + 1000 + msat // 1_000_000
        )  # what LND asks unless told otherwise
        web.until("the invoice to be paid", lambda: web.paid_to(web.third, made["label"]) == msat)

    def test_we_pay_in_parts_over_our_channel_and_through_lnd(self, web: Web) -> None:
        """More than the straight channel holds."""
        web.quiet(web.ours, web.third)
        msat = 900_000_000
        made = web.our_invoice(web.third, msat, exposeprivatechannels=True)
        ended = web.ours.call("xpay", made["bolt11"])
        assert ended["successful_parts"] >= 2
        rows = web.ours.call("listsendpays", payment_hash=made["payment_hash"])["payments"]
        sent = [row for row in rows if row["status"] != "failed"]
        assert sum(row["amount_msat"] for row in sent) == msat
        assert any(row["amount_sent_msat"] > row["amount_msat"] for row in sent)  # LND took a fee
        assert any(
            row["amount_sent_msat"] == row["amount_msat"] for row in sent
        )  # the straight one took none
        web.until("the invoice to be paid", lambda: web.paid_to(web.third, made["label"]) == msat)
        web.third.call("xpay", web.our_invoice(web.ours, msat, exposeprivatechannels=False)["bolt11"])

    def test_lnd_pays_a_hint_of_ours_over_an_announced_hop(self, web: Web) -> None:
        """lnd, we, far, and over the private channel of the hint to our second node."""
        web.quiet(web.ours, web.third)
        made = web.our_invoice(web.third, 25_000_000, exposeprivatechannels=True)
        order = {"payment_request": made["bolt11"], "last_hop_pubkey": b64(web.far.node_id)}
        end = paid(lnd_pays(web.lnd, **order), made["payment_hash"])
        assert len(end.successes[0].scids) == 3
        web.until("the invoice to be paid", lambda: web.paid_to(web.third, made["label"]) == 25_000_000)

    def test_we_pay_a_private_invoice_of_lnd(self, web: Web) -> None:
        """Its hint is the private channel with our second node, which passes the payment on to LND."""
        web.quiet(web.ours, web.third)
        made = web.far.post("/v1/invoices", value_msat="15000000", private=True, expiry="3600")
        read = decode(made["payment_request"])
        assert [hop.node_id.hex() for (hop,) in read.route_hints] == [web.third_id]
        exclude = self.without(web, web.far.node_id, web.to_far)
        web.ours.call("pay", bolt11=made["payment_request"], exclude=exclude)
        assert web.far.received_msat(read.payment_hash.hex()) == 15_000_000
        (row,) = web.forwards(read.payment_hash.hex(), web.third)
        assert row["status"] == "settled"

    def test_lnd_pays_us_in_parts_over_both_channels(self, web: Web) -> None:
        web.quiet()
        held = [web.channel(funding)["receivable_msat"] for funding in (web.by_lnd, web.by_us)]
        msat = max(held) + 20_000_000
        made = web.our_invoice(web.ours, msat)
        end = paid(lnd_pays(web.lnd, payment_request=made["bolt11"], max_parts=4), made["payment_hash"])
        assert len({htlc.scids[0] for htlc in end.successes}) == 2 and end.fee_msat == 0
        web.until("our invoice to be paid", lambda: web.paid_to(web.ours, made["label"]) == msat)
        web.quiet()
        web.ours.call("xpay", web.lnd.invoice(msat, description="back"))

    def test_keysend_from_lnd_to_us(self, web: Web) -> None:
        end, preimage = keysend(web.lnd, web.our_id, 7_000_000)
        payment_hash = sha256(preimage).hex()
        paid(end, payment_hash)
        (row,) = web.ours.call("listinvoices", payment_hash=payment_hash)["invoices"]
        web.until("it to be in our books", lambda: web.paid_to(web.ours, row["label"]) == 7_000_000)

    @pytest.mark.parametrize("to", ["lnd", "far"])
    def test_keysend_from_us_to_lnd(self, web: Web, to: str) -> None:
        """With a record of our own beside the preimage."""
        lnd = web.lnd if to == "lnd" else web.far
        sent = web.ours.call(
            "keysend", destination=lnd.node_id, amount_msat=6_000_000, extratlvs={"696969": "616263"}
        )
        row = lnd.get(f"/v1/invoice/{sent['payment_hash']}")
        assert (row["state"], row["amt_paid_msat"], row["is_keysend"]) == ("SETTLED", "6000000", True)
        assert row["htlcs"][0]["custom_records"]["696969"] == "YWJj"

    def test_keysend_from_lnd_to_lnd_over_us(self, web: Web) -> None:
        end, preimage = keysend(web.lnd, web.far.node_id, 5_000_000)
        paid(end, sha256(preimage).hex())
        (row,) = web.forwards(sha256(preimage).hex())
        assert row["out_msat"] == 5_000_000

    @pytest.mark.parametrize("last", ["us", "our second node", "LND"])
    def test_probes_end_at_the_last_node(self, web: Web, last: str) -> None:
        """A hash that nobody knows, with a right and with a wrong payment secret (checklist 40)."""
        made = web.our_invoice(web.third if last == "our second node" else web.ours, 5_000_000)
        ends = {"us": [], "our second node": [web.third_id], "LND": [web.far.node_id]}
        hops = [web.our_id, *ends[last]]
        for secret in (made["payment_secret"], secrets.token_hex(32)):
            failure = send_along(web.lnd, route(web.lnd, hops, 5_000_000, secret))
            said = (failure["code"], failure["failure_source_index"], failure["height"])
            assert said == ("INCORRECT_OR_UNKNOWN_PAYMENT_DETAILS", len(hops), web.chain.height)

    def test_lnd_estimates_a_fee_by_probing_through_us(self, web: Web) -> None:
        """LND's own probe: an HTLC to the payee for a hash of its invention."""
        bolt11 = web.far.invoice(5_000_000, description="never paid")
        found = web.lnd.post("/v2/router/route/estimatefee", payment_request=bolt11, timeout=20)
        assert found["failure_reason"] == "FAILURE_REASON_NONE"
        assert int(found["routing_fee_msat"]) == 1000 + 5_000_000 * 10 // 1_000_000


class Holding:
    """Hold invoices of both, paid by the other."""

    @pytest.mark.parametrize("fate", ["settled", "cancelled"])
    def test_our_hold_invoice_is_paid_by_lnd(self, web: Web, fate: str) -> None:
        made = web.ours.call(
            "holdinvoice", amount_msat=30_000_000, label=secrets.token_hex(4), description="held"
        )
        payment_hash = made["payment_hash"]
        web.lnd.begin_paying(made["bolt11"])
        web.until("us to hold it", lambda: self.state(web, payment_hash) == "accepted")
        assert web.lnd.ended(payment_hash) is None
        verb = "settleholdinvoice" if fate == "settled" else "cancelholdinvoice"
        web.ours.call(verb, payment_hash=payment_hash)
        end: Outcome = web.until("LND's payment to end", lambda: web.lnd.ended(payment_hash))
        if fate == "settled":
            assert end.preimage is not None and sha256(bytes.fromhex(end.preimage)).hex() == payment_hash
            web.until("it to be ours", lambda: self.state(web, payment_hash) == "paid")
        else:
            assert end.preimage is None and "INCORRECT_PAYMENT_DETAILS" in end.failure
            assert self.state(web, payment_hash) == "cancelled"

    def state(self, web: Web, payment_hash: str) -> str:
        (row,) = web.ours.call("listholdinvoices", payment_hash=payment_hash)["holdinvoices"]
        return str(row["state"])

    @pytest.mark.parametrize("restart", [False, True], ids=["we stay", "we restart in between"])
    @pytest.mark.parametrize("fate", ["settled", "cancelled"])
    def test_lnds_hold_invoice_is_paid_by_us(self, web: Web, fate: str, restart: bool) -> None:
        bolt11 = web.lnd.hold_invoice(30_000_000)
        payment_hash = decode(bolt11).payment_hash
        web.pay_later(bolt11)
        web.until("LND to hold it", lambda: web.lnd.holds(bolt11))
        assert self.payment(web, bolt11)["status"] == "pending"
        if restart:
            web.ours.daemon.stop()
            web.ours.start_daemon()
            web.ours.wait_ready()
            assert self.payment(web, bolt11)["status"] == "pending"
        if fate == "settled":
            web.lnd.release(bolt11)
        else:
            web.lnd.give_back(bolt11)
        wanted = "complete" if fate == "settled" else "failed"
        web.until("our payment to end", lambda: self.payment(web, bolt11)["status"] == wanted)
        row = self.payment(web, bolt11)
        if fate == "settled":
            assert sha256(bytes.fromhex(row["preimage"])) == payment_hash
        else:
            assert "incorrect_or_unknown_payment_details" in row["error"]
        web.quiet()

    def payment(self, web: Web, bolt11: str) -> dict[str, Any]:
        row: dict[str, Any] = web.ours.call("listpays", bolt11=bolt11)["pays"][-1]
        return row


class Ending:
    def test_channels_of_a_node_that_is_away_are_disabled_and_come_back(self, web: Web) -> None:
        """LND says so three seconds after we stopped; our second node hears it from LND."""
        scid = web.scid(web.to_far)

        def active() -> bool:
            return bool(web.listed(web.third, scid)[(scid, web.far.node_id)]["active"])

        known = web.listed(web.ours).keys()
        web.until("the channel to be enabled", active, RELAY)
        web.ours.daemon.stop()
        web.until("LND to disable the channel, and to say so", lambda: not active(), RELAY)
        web.ours.start_daemon()
        web.ours.wait_ready()
        web.until("our graph from the disk", lambda: web.listed(web.ours).keys() == known, 10)
        web.until("the channel to be enabled again", active, RELAY)
        for funding in (web.by_lnd, web.by_us, web.to_far):
            web.until("the channel to be usable again", lambda f=funding: web.usable(f))
        for lnd in (web.lnd, web.far):
            forget(lnd)
        made = web.our_invoice(web.ours, 1_000_000)
        paid(lnd_pays(web.lnd, payment_request=made["bolt11"]), made["payment_hash"])

    def test_a_closed_channel_leaves_every_graph(self, web: Web) -> None:
        """At LND with the closing transaction, with us 72 blocks later: till then it may be a splice (checklist 59)."""
        web.quiet()
        scid = web.scid(web.by_us)
        closed = web.ours.call("close", id=web.channel(web.by_us)["channel_id"])
        assert closed["type"] == "mutual"
        web.mine(1)
        for lnd in (web.lnd, web.far):
            web.until("LND to forget the channel", lambda one=lnd: scid not in web.edges(one))
        web.mine(72)
        for node in (web.ours, web.third):
            web.until("our nodes to forget it", lambda n=node: not web.listed(n, scid))
        assert web.channel(web.by_lnd)["state"] == USABLE
        assert web.scid(web.by_lnd) in web.edges(web.far)
