"""Our node between LND, LDK and a second LND: what it earns, and how LND reads its refusals (checklist 32 to 35)."""

import secrets
import time

import pytest

from protocol.bolt11.decode import decode
from protocol.hashes import sha256
from tests.interop.network_cases import (
    DEFAULT_BASE,
    hint_of,
    hints_for_lnd,
    lnd_pays,
    lower,
    our_fee,
    paid,
    policy,
    route,
    send_along,
)
from tests.interop.network_world import RELAY, Web, b64
from tests.interop.peers.base import PeerRefused


class Forwarding:
    """LND and LDK pay each other over our node."""

    def test_lnd_to_ldk_in_one_part(self, web: Web) -> None:
        """Over the private channel that LDK's invoice names by the alias that we gave to LDK."""
        msat = 50_000_000
        bolt11 = web.ldk.invoice(msat, description="one part")
        payment_hash = decode(bolt11).payment_hash.hex()
        alias = web.channel(web.to_ldk)["alias"]["local"]
        end = paid(lnd_pays(web.lnd, payment_request=bolt11), payment_hash)
        block, index, output = (int(part) for part in alias.split("x"))
        assert end.successes[0].scids[-1] == block << 40 | index << 16 | output
        assert end.fee_msat == our_fee(msat)
        web.until("LDK to have it", lambda: web.ldk.received_msat(payment_hash) == msat)
        self.earned(web, payment_hash, [msat])

    def test_lnd_to_ldk_in_parts(self, web: Web) -> None:
        """More than either of the two channels holds, so LND splits."""
        msat = 700_000_000
        bolt11 = web.ldk.invoice(msat, description="in parts")
        payment_hash = decode(bolt11).payment_hash.hex()
        end = paid(lnd_pays(web.lnd, payment_request=bolt11, max_parts=4), payment_hash)
        assert len({htlc.scids[0] for htlc in end.successes}) == 2
        web.until("LDK to have it", lambda: web.ldk.received_msat(payment_hash) == msat)
        self.earned(web, payment_hash, [htlc.amount_msat for htlc in end.successes])

    def test_ldk_to_both_lnds(self, web: Web) -> None:
        """LDK uses a channel when it has heard both ends of it: the far one through our relay."""
        for lnd in (web.lnd, web.far):
            msat = 30_000_000
            bolt11 = lnd.invoice(msat, description="from LDK")
            payment_hash = decode(bolt11).payment_hash.hex()
            web.until("LDK to find a route", lambda b=bolt11: ldk_begins(web, b), RELAY)
            end = web.until("LDK's payment to end", lambda h=payment_hash: web.ldk.call("payment", h))
            assert sha256(bytes.fromhex(end["preimage"])).hex() == payment_hash
            assert lnd.received_msat(payment_hash) == msat
            self.earned(web, payment_hash, [msat])

    def earned(self, web: Web, payment_hash: str, amounts: list[int]) -> None:
        """To the millisatoshi, in the books of both."""
        web.quiet()
        rows = web.forwards(payment_hash)
        assert sorted(row["out_msat"] for row in rows) == sorted(amounts)
        for row in rows:
            assert row["status"] == "settled"
            assert row["fee_msat"] == our_fee(row["out_msat"]) == row["in_msat"] - row["out_msat"]

    def test_the_refusal_of_the_last_node_reaches_lnd(self, web: Web) -> None:
        """It is wrapped by us, and LND reads in it who refused."""
        bolt11 = web.ldk.invoice(20_000_000, description="for its hint")
        read = decode(bolt11)
        end = lnd_pays(
            web.lnd,
            dest=b64(web.ldk.node_id),
            payment_hash=b64(secrets.token_hex(32)),
            payment_addr=b64(read.payment_secret.hex()),
            amt_msat="20000000",
            final_cltv_delta=40,
            dest_features=[9, 15, 17],
            route_hints=hints_for_lnd(hint_of(bolt11)),
        )
        assert end.reason == "FAILURE_REASON_INCORRECT_PAYMENT_DETAILS"
        assert [(htlc.code, htlc.at) for htlc in end.htlcs] == [("INCORRECT_OR_UNKNOWN_PAYMENT_DETAILS", 2)]

    @pytest.mark.parametrize(
        ("short", "code"), [({"fee": 1}, "FEE_INSUFFICIENT"), ({"delta": 1}, "INCORRECT_CLTV_EXPIRY")]
    )
    def test_lnd_reads_our_refusal_of_a_fee_or_delta_that_is_too_low(
        self, web: Web, short: dict[str, int], code: str
    ) -> None:
        """By one; and with our channel_update, without which LND cannot read such a failure at all."""
        made = lower(route(web.lnd, [web.our_id, web.far.node_id], 5_000_000, secrets.token_hex(32)), **short)
        failure = send_along(web.lnd, made)
        assert (failure["code"], failure["failure_source_index"]) == (code, 1)
        assert failure["channel_update"]["chan_id"] == web.chan_id(web.to_far)
        assert failure["channel_update"]["base_fee"] == DEFAULT_BASE

    def test_lnd_reads_that_we_do_not_know_the_next_channel(self, web: Web) -> None:
        made = route(web.lnd, [web.our_id, web.far.node_id], 5_000_000, secrets.token_hex(32))
        made["hops"][1]["chan_id"] = str(700_000 << 40 | 1 << 16)
        failure = send_along(web.lnd, made)
        assert (failure["code"], failure["failure_source_index"]) == ("UNKNOWN_NEXT_PEER", 1)

    def test_lnd_reads_that_our_channel_is_empty_and_goes_another_way(self, web: Web) -> None:
        """The straight channel to `third` holds too little on our side; the way over `far` is open."""
        web.quiet(web.ours, web.third)
        web.ours.call("xpay", web.our_invoice(web.third, 580_000_000)["bolt11"])
        made = web.our_invoice(web.third, 30_000_000, exposeprivatechannels=True)
        end = paid(lnd_pays(web.lnd, payment_request=made["bolt11"]), made["payment_hash"])
        refusals = [(htlc.code, htlc.at) for htlc in end.failures]
        assert refusals == [("TEMPORARY_CHANNEL_FAILURE", 1)]
        assert len(end.successes[0].scids) == 3
        web.third.call("xpay", web.our_invoice(web.ours, 500_000_000)["bolt11"])

    def test_lnd_takes_our_channel_update_from_the_failure_and_pays_the_new_fee(self, web: Web) -> None:
        """LND hears a few changes of a channel by gossip, then no more for an hour: then its picture is old."""
        scid, base = web.scid(web.to_third), DEFAULT_BASE

        def heard() -> bool:
            return policy(web.lnd, web, web.to_third, web.our_id).get("fee_base_msat") == str(base)

        for _ in range(8):
            base += 1000
            web.ours.call("setchannel", id=scid, feebase=base, enforcedelay=0)
            end = time.monotonic() + 3
            while not heard() and time.monotonic() < end:
                time.sleep(0.1)
            if not heard():
                break
        assert not heard(), "LND heard every change"
        made = web.our_invoice(web.third, 10_000_000)
        result = paid(lnd_pays(web.lnd, payment_request=made["bolt11"]), made["payment_hash"])
        first, second = result.htlcs
        assert (first.code, first.at, first.channel_update and first.channel_update["base_fee"]) == (
            "FEE_INSUFFICIENT",
            1,
            base,
        )
        assert second.code is None and second.fee_msat == our_fee(10_000_000, base)
        assert heard()
        web.ours.call("setchannel", id=scid, feebase=DEFAULT_BASE)

    def test_lnd_pays_the_new_fee_of_a_private_channel_whose_hint_is_old(self, web: Web) -> None:
        """The update in our failure names the alias that the hint named."""
        bolt11 = web.ldk.invoice(20_000_000, description="with an old hint")
        payment_hash = decode(bolt11).payment_hash.hex()
        web.ours.call("setchannel", id=web.scid(web.to_ldk), feebase=5000, enforcedelay=0)
        end = paid(lnd_pays(web.lnd, payment_request=bolt11), payment_hash)
        assert [(htlc.code, htlc.at) for htlc in end.failures] == [("FEE_INSUFFICIENT", 1)]
        assert end.fee_msat == our_fee(20_000_000, 5000)
        web.ours.call("setchannel", id=web.scid(web.to_ldk), feebase=DEFAULT_BASE)


def ldk_begins(web: Web, bolt11: str) -> bool:
    try:
        web.ldk.call("pay", bolt11)
    except PeerRefused as error:
        if "RouteNotFound" not in str(error):
            raise
        return False
    return True
