"""Methods of payments across the network: what each asks of the payment service, and the answer's fields."""

import pytest
from msgspec.structs import replace

from node.rpc.catalogue import METHODS
from protocol.amounts import Msat
from protocol.bolt4.failure import FailureCode
from protocol.bus.messages.forwards import (
    Earned,
    Earnings,
    ForwardRow,
    Forwards,
    GetEarnings,
    ListForwards,
    SetPolicy,
)
from protocol.bus.messages.payments import (
    CancelHold,
    CreateInvoice,
    DeleteInvoice,
    HeldHtlc,
    Keysend,
    ListParts,
    PartRow,
    Parts,
    Pay,
    SendPart,
    SettleHold,
    WaitAnyInvoice,
    WaitPart,
)
from protocol.bus.messages.routing import ChannelPolicy, Policies, RouteHop
from protocol.errors import CommandRefused
from tests.node.payments.support import invoice_text
from tests.node.rpc.support import CHANNEL_ID, HASH, OUR_ID, PEER_ID, Gateway, invoice, payment

PEER = PEER_ID.hex()
SCID = "103x1x1"
PART = PartRow(3, HASH, 1, 2, PEER_ID, Msat(10_000), Msat(10_010), "pending", 1_700_000_000)


async def test_pay_takes_its_fee_in_percent_with_an_exemption(gateway: Gateway):
    gateway.payments.paid.set()
    text = invoice_text(amount=10_000_000)
    for given, expected in (
        ({"maxfeepercent": 1}, 100_000),
        ({"exemptfee": 70_000}, 70_000),
        ({"maxfeepercent": 0}, 5_000),
        ({"maxfee": "3sat"}, 3_000),
        ({}, None),
    ):
        await gateway.call("pay", {"bolt11": text, **given})
        assert gateway.payments.asked[-1].max_fee_msat == expected
    assert (await gateway.error("pay", {"bolt11": text, "maxfee": 1, "maxfeepercent": 1}))["code"] == -32602


async def test_xpay_refuses_layers_and_parts_paid_by_others(gateway: Gateway):
    for given in ({"layers": ["x"]}, {"partial_msat": 5}):
        assert (await gateway.error("xpay", {"invstring": "lnbcrt1", **given}))["code"] == -32602


async def test_pay_passes_on_what_must_be_avoided(gateway: Gateway):
    gateway.payments.paid.set()
    await gateway.call("pay", {"bolt11": "lnbcrt1", "exclude": ["103x1x1/1", PEER], "maxdelay": 500})
    assert gateway.payments.asked == [
        Pay(
            "lnbcrt1",
            max_delay=500,
            excluded=((103 << 40 | 1 << 16 | 1, 1),),
            excluded_nodes=(PEER_ID,),
        )
    ]


@pytest.mark.parametrize("method", ["keysend", "xkeysend"])
async def test_a_payment_without_invoice(gateway: Gateway, method: str):
    gateway.payments.answers[Keysend] = payment()
    result = await gateway.call(
        method,
        {"destination": PEER, "amount_msat": "1sat", "maxdelay": 300, "extratlvs": {"65537": "0102"}},
    )
    assert result["payment_preimage"] == "dd" * 32
    records = ((65537, b"\x01\x02"),)
    assert gateway.payments.asked == [Keysend(PEER_ID, Msat(1000), max_delay=300, records=records)]
    assert (await gateway.error(method, {"destination": PEER, "amount_msat": 1, "extratlvs": [1]}))[
        "code"
    ] == -32602


def test_parameter_order_is_what_clients_rely_on():
    order = {name: [param.name for param in method.params] for name, method in METHODS.items()}
    assert order["xkeysend"][:4] == ["destination", "amount_msat", "label", "maxfee"]
    assert order["keysend"][:5] == ["destination", "amount_msat", "label", "maxfeepercent", "retry_for"]
    assert order["sendpay"][:7] == [
        *("route", "payment_hash", "label", "amount_msat", "bolt11", "payment_secret", "partid"),
    ]
    assert order["waitsendpay"] == ["payment_hash", "timeout", "partid", "groupid"]
    assert order["setchannel"][:6] == ["id", "feebase", "feeppm", "htlcmin", "htlcmax", "enforcedelay"]
    assert order["listforwards"][:3] == ["status", "in_channel", "out_channel"]
    assert order["waitanyinvoice"] == ["lastpay_index", "timeout"]
    assert order["delinvoice"] == ["label", "status", "desconly"]


async def test_sendpay_turns_a_route_into_hops(gateway: Gateway):
    gateway.payments.answers[SendPart] = PART
    hop = {"id": PEER, "channel": SCID, "amount_msat": "10000msat", "delay": 21}
    result = await gateway.call(
        "sendpay",
        {
            "route": [hop],
            "payment_hash": HASH.hex(),
            "amount_msat": 20_000,
            "partid": 2,
            "payment_secret": "55" * 32,
        },
    )
    side = 0 if OUR_ID < PEER_ID else 1
    hops = (RouteHop(PEER_ID, 103 << 40 | 1 << 16 | 1, side, Msat(10_000), 21),)
    assert gateway.payments.asked == [
        SendPart(HASH, hops, Msat(20_000), payment_secret=b"\x55" * 32, part_id=2)
    ]
    assert (result["status"], result["partid"], result["groupid"]) == ("pending", 2, 1)
    assert "waitsendpay" in result["message"]
    for wrong in ([], [{"id": PEER}], "no"):
        error = await gateway.error("sendpay", {"route": wrong, "payment_hash": HASH.hex()})
        assert error["code"] == -32602


async def test_waitsendpay_answers_the_preimage_or_where_it_failed(gateway: Gateway):
    gateway.payments.answers[WaitPart] = replace(PART, status="complete", preimage=b"\xdd" * 32)
    result = await gateway.call("waitsendpay", [HASH.hex(), 5, 2])
    assert (result["status"], result["payment_preimage"]) == ("complete", "dd" * 32)
    assert gateway.payments.asked == [WaitPart(HASH, 2, None)]
    failed = replace(PART, status="failed", error="no", hops=2)
    for row, code, extra in (
        (replace(failed, failed_at=1, failure_code=0x1007), 204, "WIRE_TEMPORARY_CHANNEL_FAILURE"),
        (replace(failed, failed_at=2, failure_code=0x400F), 203, "WIRE_INCORRECT_OR_UNKNOWN_PAYMENT_DETAILS"),
        (replace(failed, failed_at=-1), 202, None),
    ):
        gateway.payments.answers[WaitPart] = row
        error = await gateway.error("waitsendpay", [HASH.hex()])
        assert error["code"] == code
        assert error["data"].get("failcodename") == extra


async def test_listsendpays(gateway: Gateway):
    """checklist 39: with the hold times, where the nodes told any."""
    gateway.payments.answers[ListParts] = Parts((PART, replace(PART, hold_times=(15, 0))))
    row, told = (await gateway.call("listsendpays", [None, HASH.hex()]))["payments"]
    assert (row["id"], row["amount_sent_msat"], row["destination"]) == (3, 10_010, PEER)
    assert "hold_times_ms" not in row and told["hold_times_ms"] == [1_500, 0]
    assert gateway.payments.asked == [ListParts(HASH, None, None)]


async def test_listforwards_names_channels_by_their_short_ids(gateway: Gateway):
    row = ForwardRow(
        in_channel=CHANNEL_ID,
        in_htlc=5,
        in_msat=Msat(1010),
        payment_hash=HASH,
        status="local_failed",
        received=1_700_000_000.1234,
        out_scid=7 << 40,
        out_msat=Msat(1000),
        resolved=1_700_000_001.0,
        failure_code=FailureCode.UNKNOWN_NEXT_PEER,
        reason="unknown_next_peer",
    )
    gateway.payments.answers[ListForwards] = Forwards((row,))
    (shown,) = (await gateway.call("listforwards", ["local_failed", SCID]))["forwards"]
    assert (shown["in_channel"], shown["out_channel"], shown["failreason"]) == (
        SCID,
        "7x0x0",
        "WIRE_UNKNOWN_NEXT_PEER",
    )
    assert (shown["in_htlc_id"], shown["received_time"]) == (5, 1_700_000_000.123)
    assert gateway.payments.asked == [ListForwards("local_failed", CHANNEL_ID, None)]


async def test_setchannel(gateway: Gateway):
    policy = ChannelPolicy(Msat(5), 6, 40, Msat(1), Msat(1000))
    gateway.payments.answers[SetPolicy] = Policies(((CHANNEL_ID, policy),))
    for name in (SCID, CHANNEL_ID.hex(), PEER, "all"):
        (shown,) = (await gateway.call("setchannel", [name, 5, 6]))["channels"]
        assert (shown["fee_base_msat"], shown["fee_proportional_millionths"]) == (5, 6)
        assert shown["short_channel_id"] == SCID
    assert gateway.payments.asked[0] == SetPolicy((CHANNEL_ID,), Msat(5), 6)
    assert "no open channel" in (await gateway.error("setchannel", ["9x9x9"]))["message"]


async def test_earnings_have_a_row_for_each_span(gateway: Gateway):
    gateway.payments.answers[GetEarnings] = Earnings(())
    await gateway.call("earnings", ["hour", 3])
    (asked,) = gateway.payments.asked
    assert asked.until - asked.since == 3 * 3600
    from node.rpc.methods.forwards import _Names, earnings_object

    earned = (Earned(100, CHANNEL_ID, 2, Msat(5000), Msat(7)),)
    found = earnings_object(earned, 0, 100, 2, _Names(()))
    assert [(span["start"], span["forwards"], span["fee_msat"]) for span in found["earnings"]] == [
        (0, 0, 0),
        (100, 2, 7),
    ]
    assert found["total_fee_msat"] == 7


async def test_waitanyinvoice_and_delinvoice(gateway: Gateway):
    gateway.payments.answers[WaitAnyInvoice] = invoice("paid")
    assert (await gateway.call("waitanyinvoice", [6, 1]))["pay_index"] == 7
    gateway.payments.answers[DeleteInvoice] = invoice()
    assert (await gateway.call("delinvoice", ["breakfast", "unpaid"]))["status"] == "unpaid"
    assert gateway.payments.asked == [WaitAnyInvoice(6, 1.0), DeleteInvoice("breakfast", "unpaid")]
    gateway.payments.refuse[DeleteInvoice] = CommandRefused("no", what_to_do="x", code=906)
    assert (await gateway.error("delinvoice", ["breakfast", "paid"]))["code"] == 906


async def test_receivable_says_what_limits_it(gateway: Gateway):
    assert await gateway.call("receivable") == {
        "receivable_msat": 50_000,
        "largest_msat": 30_000,
        "reason": "the peers have no more",
    }


async def test_hold_invoices(gateway: Gateway):
    held = replace(invoice(), hold=2, status="accepted", htlcs=(HeldHtlc(CHANNEL_ID, 1, Msat(10_000), 600),))
    gateway.payments.invoice = held
    await gateway.call("holdinvoice", [HASH.hex(), 10_000, "bond"])
    (asked,) = gateway.payments.asked
    assert isinstance(asked, CreateInvoice)
    assert (asked.hold_hash, asked.amount_msat, asked.description) == (HASH, 10_000, "bond")
    (shown,) = (await gateway.call("listholdinvoices"))["holdinvoices"]
    assert (shown["state"], shown["htlcs"][0]["cltv_expiry"]) == ("accepted", 600)
    gateway.payments.answers[SettleHold] = replace(held, status="claiming")
    assert (await gateway.call("settleholdinvoice", ["dd" * 32]))["state"] == "settling"
    gateway.payments.answers[CancelHold] = replace(held, status="cancelled")
    assert (await gateway.call("cancelholdinvoice", [HASH.hex()]))["state"] == "cancelled"
    assert (await gateway.error("settleholdinvoice"))["code"] == -32602
    (listed,) = (await gateway.call("listinvoices"))["invoices"]
    assert listed["status"] == "unpaid"  # in Core Lightning's three words
