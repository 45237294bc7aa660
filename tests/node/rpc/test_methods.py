"""Each method: what it asks of the services, and the answer's fields as Core Lightning documents them."""

import pytest
from msgspec.structs import replace

from node.rpc.catalogue import METHODS
from protocol.bolt9 import OUR_INVOICE
from protocol.bus.messages.chain import GetFeerate, GetTip
from protocol.bus.messages.channel import CloseChannel, FundChannel
from protocol.bus.messages.forwards import GetFeesCollected
from protocol.bus.messages.payments import CreateInvoice, ListInvoices, ListPayments, Pay
from protocol.bus.messages.peer import Connect, Disconnect
from protocol.bus.messages.wallet import PlanSpend, ReleasePlan, SignAndSend
from protocol.errors import CommandRefused
from protocol.hashes import sha256
from tests.node.payments.support import invoice_text
from tests.node.rpc.support import (
    ADDRESS,
    CHANNEL_ID,
    HASH,
    ONION,
    OUR_ID,
    PEER_ID,
    STRANGER_ID,
    TXID_HEX,
    Gateway,
    GossipService,
    invoice,
)

PEER, CHANNEL_HEX = PEER_ID.hex(), CHANNEL_ID.hex()


async def test_getinfo(gateway: Gateway):
    info = await gateway.call("getinfo")
    assert info["id"] == OUR_ID.hex()
    assert (info["alias"], info["color"], info["network"]) == ("ALICE", "02468a", "regtest")
    assert (info["num_peers"], info["num_active_channels"], info["num_pending_channels"]) == (1, 1, 0)
    assert (info["blockheight"], info["num_inactive_channels"], info["fees_collected_msat"]) == (500, 0, 12)
    assert info["our_features"]["invoice"] == OUR_INVOICE.to_bytes().hex()
    assert "warning_bitcoind_sync" not in info


async def test_getinfo_tells_how_we_are_reached(gateway: Gateway):
    info = await gateway.call("getinfo")
    assert {"type": "torv3", "address": ONION, "port": 9735} in info["address"]
    assert info["roads"] == [
        {"name": "tor", "state": "up", "inbound": "reachable"},
        {"name": "tcp", "state": "up"},
    ]


async def test_getinfo_answers_before_the_chain_does(gateway: Gateway):
    gateway.chain.refuse[GetTip] = CommandRefused("no tip", what_to_do="Wait.")
    info = await gateway.call("getinfo")
    assert info["blockheight"] == 0
    assert "chain backend" in info["warning_bitcoind_sync"]


async def test_getinfo_tells_what_the_chain_backend_lacks(gateway: Gateway):
    expected = {
        "backend": "electrum.example",
        "synced": True,
        "cannot": ["packages"],
        "behind": "3 blocks late",
    }
    assert (await gateway.call("getinfo"))["chain"] == expected


async def test_getinfo_without_payments_tells_no_fees_rather_than_wrong_ones(gateway: Gateway):
    gateway.payments.refuse[GetFeesCollected] = CommandRefused("not yet", what_to_do="Wait.")
    assert "fees_collected_msat" not in await gateway.call("getinfo")


async def test_newaddr(gateway: Gateway):
    assert await gateway.call("newaddr", ["bech32"]) == {"bech32": ADDRESS}
    assert "bech32" in (await gateway.error("newaddr", ["p2tr"]))["message"]
    assert (await gateway.error("newaddr", ["p2sh"]))["code"] == -32602


async def test_listfunds_has_outputs_first(gateway: Gateway):
    funds = await gateway.call("listfunds")
    assert list(funds) == ["outputs", "channels"]
    first, second = funds["outputs"]
    assert (first["txid"], first["output"], first["amount_msat"]) == (TXID_HEX, 0, 50_000_000)
    assert (first["status"], first["blockheight"], first["reserved"]) == ("confirmed", 101, False)
    assert (second["status"], second["reserved"], "blockheight" in second) == ("unconfirmed", True, False)
    (channel,) = funds["channels"]
    assert (channel["our_amount_msat"], channel["amount_msat"]) == (60_000_000, 100_000_000)
    assert (channel["short_channel_id"], channel["funding_txid"]) == ("103x1x1", TXID_HEX)


async def test_listfunds_says_how_far_the_first_scan_is(gateway: Gateway):
    gateway.wallet.reading = (1373, 2008)
    assert "1373 of 2008" in (await gateway.call("listfunds"))["warning_rescan"]


async def test_withdraw_plans_signs_and_sends(gateway: Gateway):
    sent = await gateway.call("withdraw", [ADDRESS, "20000sat", "500perkb", 3])
    assert sent == {"tx": "020001", "txid": TXID_HEX}
    plan, send = gateway.wallet.asked
    assert isinstance(plan, PlanSpend)
    assert (plan.value, plan.feerate_per_kw, plan.minconf) == (20_000, 125, 3)
    assert plan.script.hex() == "0014751e76e8199196d454941c45d1b3a323f1433bd6"
    assert send == SignAndSend(plan.purpose)
    await gateway.call("withdraw", [ADDRESS, "all"])
    assert gateway.wallet.asked[2].value is None
    assert gateway.wallet.asked[2].purpose != plan.purpose


async def test_withdraw_gives_the_coins_back_when_signing_is_refused(gateway: Gateway):
    gateway.wallet.refuse[SignAndSend] = CommandRefused("the signer refused", what_to_do="Approve it.")
    assert "the signer refused" in (await gateway.error("withdraw", [ADDRESS, 20_000]))["message"]
    assert gateway.wallet.asked[-1] == ReleasePlan(gateway.wallet.asked[0].purpose)


async def test_withdraw_without_enough_coins_is_301(gateway: Gateway):
    gateway.wallet.refuse[PlanSpend] = CommandRefused("not enough", what_to_do="Send coins.", code=301)
    assert (await gateway.error("withdraw", [ADDRESS, 20_000]))["code"] == 301


@pytest.mark.parametrize("address", ["nonsense", "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4", ""])
async def test_withdraw_to_no_address_of_this_network_is_refused(gateway: Gateway, address: str):
    assert (await gateway.error("withdraw", [address, 20_000]))["code"] == -32602
    assert gateway.wallet.asked == []


async def test_feerates_in_both_styles_never_below_the_floor(gateway: Gateway):
    perkw = (await gateway.call("feerates", ["perkw"]))["perkw"]
    perkb = (await gateway.call("feerates", {"style": "perkb"}))["perkb"]
    assert (perkw["opening"], perkb["opening"], perkw["floor"]) == (2500, 10_000, 253)
    assert [one["feerate"] for one in perkw["estimates"]] == [5000, 2500, 1000, 253]


async def test_feerates_without_an_estimate_warn(gateway: Gateway):
    gateway.chain.refuse[GetFeerate] = CommandRefused("no estimate", what_to_do="Wait.")
    result = await gateway.call("feerates", ["perkw"])
    assert result["perkw"]["estimates"] == []
    assert "warning_missing_feerates" in result


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ([f"{PEER}@127.0.0.1:9736"], "127.0.0.1:9736"),
        ([f"{PEER}@example.com"], "example.com:9735"),
        ([f"{PEER}@[::1]:9736"], "[::1]:9736"),
        ([f"{PEER}@::1"], "[::1]:9735"),
        ([PEER, "127.0.0.1", 9736], "127.0.0.1:9736"),
        ([PEER, "127.0.0.1:9736"], "127.0.0.1:9736"),
        ([PEER, "127.0.0.1", "9736"], "127.0.0.1:9736"),
        ([PEER, None, None], None),
    ],
)
async def test_connect_reads_every_form_of_an_address(
    gateway: Gateway, given: list[object], address: str | None
):
    result = await gateway.call("connect", given)
    assert gateway.peer.asked == [Connect(PEER_ID, address)]
    assert (result["id"], result["direction"], result["features"]) == (PEER, "out", "0802")
    assert result["address"] == {"type": "ipv4", "address": "127.0.0.1", "port": 9736}


@pytest.mark.parametrize(
    "given", [["zz@127.0.0.1"], [f"{PEER}@"], [f"{PEER}@h:0"], [f"{PEER}@h:x"], [f"{PEER}@h", "i"]]
)
async def test_connect_refuses_what_is_no_address(gateway: Gateway, given: list[object]):
    assert (await gateway.error("connect", given))["code"] == -32602


@pytest.mark.parametrize(("code", "told"), [(400, 400), (401, 401), (402, 402), (-1, 401)])
async def test_connect_keeps_the_numbers_that_clients_know(gateway: Gateway, code: int, told: int):
    gateway.peer.refuse[Connect] = CommandRefused("no", what_to_do="x", code=code)
    assert (await gateway.error("connect", [PEER]))["code"] == told


async def test_disconnect(gateway: Gateway):
    assert await gateway.call("disconnect", [PEER, True]) == {}
    assert gateway.peer.asked == [Disconnect(PEER_ID, True)]


async def test_listpeers(gateway: Gateway):
    assert await gateway.call("listpeers") == {
        "peers": [
            {
                "id": PEER,
                "connected": True,
                "num_channels": 1,
                "netaddr": ["127.0.0.1:9736"],
                "features": "0802",
                "road": "tcp",
            }
        ]
    }
    assert await gateway.call("listpeers", [STRANGER_ID.hex()]) == {"peers": []}


async def test_listpeerchannels(gateway: Gateway):
    (channel,) = (await gateway.call("listpeerchannels"))["channels"]
    expected = {
        "peer_id": PEER,
        "state": "CHANNELD_NORMAL",
        "short_channel_id": "103x1x1",
        "channel_id": CHANNEL_HEX,
        "funding_txid": TXID_HEX,
        "opener": "local",
        "to_us_msat": 60_000_000,
        "total_msat": 100_000_000,
        "spendable_msat": 58_000_000,
        "our_reserve_msat": 1_000_000,
        "channel_type": {
            "bits": [12, 22, 46],
            "names": ["static_remotekey/even", "anchors/even", "scid_alias/even"],
        },
        "private": True,
        "alias": {"local": "5000000x1x1", "remote": "9x8x7"},
        "feerate": {"perkw": 2500, "perkb": 10_000},
        "status": ["ready"],
    }
    assert {key: channel[key] for key in expected} == expected
    assert channel["htlcs"] == [
        {
            "direction": "out",
            "id": 3,
            "amount_msat": 1000,
            "expiry": 600,
            "payment_hash": HASH.hex(),
            "state": "SENT_ADD_ACK_REVOCATION",
        }
    ]


async def test_listpeerchannels_tells_what_each_side_asks_for_forwarding(gateway: Gateway):
    (alone,) = (await gateway.call("listpeerchannels"))["channels"]
    assert (alone["fee_base_msat"], alone["fee_proportional_millionths"]) == (1000, 10)
    assert set(alone["updates"]) == {"local"}
    routing = GossipService(gateway.bus)
    await routing.start()
    (channel,) = (await gateway.call("listpeerchannels"))["channels"]
    await routing.stop()
    assert channel["updates"] == {
        "local": {
            "htlc_minimum_msat": 1,
            "htlc_maximum_msat": 99_000_000,
            "cltv_expiry_delta": 80,
            "fee_base_msat": 1000,
            "fee_proportional_millionths": 10,
        },
        "remote": {
            "htlc_minimum_msat": 1000,
            "htlc_maximum_msat": 90_000_000,
            "cltv_expiry_delta": 40,
            "fee_base_msat": 500,
            "fee_proportional_millionths": 20,
        },
    }


async def test_listpeerchannels_can_be_narrowed(gateway: Gateway):
    ours = ({"short_channel_id": "103x1x1"}, {"short_channel_id": "5000000x1x1"})
    for given in ({"id": PEER}, *ours, {"channel_id": CHANNEL_HEX}):
        assert len((await gateway.call("listpeerchannels", given))["channels"]) == 1
    for given in ({"id": STRANGER_ID.hex()}, {"short_channel_id": "103x1x0"}, {"channel_id": "00" * 32}):
        assert (await gateway.call("listpeerchannels", given))["channels"] == []


async def test_fundchannel_by_position_as_clients_send_it(gateway: Gateway):
    result = await gateway.call("fundchannel", [PEER, 100_000, "2000perkb"])
    assert result["txid"] == TXID_HEX
    assert (result["outnum"], result["channel_id"], result["channel_type"]["bits"]) == (
        1,
        CHANNEL_HEX,
        [12, 22],
    )
    assert gateway.channel.asked == [FundChannel(PEER_ID, 100_000, 500)]


async def test_fundchannel_with_words(gateway: Gateway):
    request = {
        "id": PEER,
        "amount": "all",
        "feerate": "urgent",
        "push_msat": "5sat",
        "channel_type": [12, 50, 46],
        "announce": "false",
        "mindepth": 0,
        "minconf": 2,
    }
    result = await gateway.call("fundchannel", request)
    kind = (12, 46, 50)
    assert gateway.channel.asked == [
        FundChannel(PEER_ID, None, 5000, 5000, minconf=2, announce=False, mindepth=0, channel_type=kind)
    ]
    names = ["static_remotekey/even", "scid_alias/even", "zeroconf/even"]
    assert result["channel_type"] == {"bits": list(kind), "names": names}


@pytest.mark.parametrize("bits", [[], [22], [12, 23], [12, 22, 44], ["12"], [12, -1], "12", [12, 1 << 70]])
async def test_fundchannel_takes_only_the_channel_types_that_there_are(gateway: Gateway, bits: object):
    error = await gateway.error("fundchannel", {"id": PEER, "amount": 100_000, "channel_type": bits})
    assert error["code"] == -32602
    assert "channel_type" in error["message"]
    assert gateway.channel.asked == []


async def test_closes_pay_to_the_cold_descriptor_and_nowhere_else(gateway: Gateway):
    for method, given in (
        ("close", {"id": PEER, "destination": ADDRESS}),
        ("fundchannel", {"id": PEER, "amount": 1, "close_to": ADDRESS}),
    ):
        error = await gateway.error(method, given)
        assert error["code"] == -32602
        assert "cold descriptor" in error["message"]
    assert gateway.channel.asked == []


@pytest.mark.parametrize("selector", [PEER, CHANNEL_HEX, "103x1x1", CHANNEL_HEX.upper()])
async def test_close_by_peer_channel_id_or_short_channel_id(gateway: Gateway, selector: str):
    result = await gateway.call("close", [selector, 30])
    assert result == {"type": "mutual", "tx": "0200", "txid": TXID_HEX, "txs": ["0200"], "txids": [TXID_HEX]}
    assert gateway.channel.asked == [CloseChannel(selector.lower(), 30)]


async def test_close_at_a_feerate_replaces_the_one_that_is_out(gateway: Gateway):
    await gateway.call("close", {"id": CHANNEL_HEX, "feerate": "5000perkw"})
    assert gateway.channel.asked[-1].feerate_per_kw == 5000


async def test_close_of_something_else_is_refused(gateway: Gateway):
    assert (await gateway.error("close", ["everything"]))["code"] == -32602


async def test_invoice_by_position_with_nulls_as_clients_send_it(gateway: Gateway):
    result = await gateway.call("invoice", ["10000msat", 5, "two eggs", 60, None, None, False, None, True])
    assert result == {
        "bolt11": "lnbcrt1",
        "payment_hash": HASH.hex(),
        "payment_secret": "bb" * 32,
        "expires_at": 1_700_604_800,
    }
    assert gateway.payments.asked == [
        CreateInvoice(10_000, "5", "two eggs", 60, sha256(b"two eggs"), None, False)
    ]


async def test_invoice_says_what_it_cannot_do(gateway: Gateway):
    gateway.payments.invoice = replace(invoice(), bolt11=invoice_text(), amount_msat=60_000)
    result = await gateway.call(
        "invoice", {"amount_msat": "any", "label": "a", "description": "b", "exposeprivatechannels": True}
    )
    assert "no private channel" in result["warning_private_unused"]
    assert result["warning_capacity"] == "50000 msat can come in now: the peers have no more"
    error = await gateway.error(
        "invoice", {"amount_msat": 1, "label": "a", "description": "b", "preimage": "00" * 32}
    )
    assert "the signer draws the preimage" in error["message"]
    gateway.payments.refuse[CreateInvoice] = CommandRefused("label", what_to_do="x", code=900)
    assert (await gateway.error("invoice", [1, "a", "b"]))["code"] == 900


async def test_listinvoices(gateway: Gateway):
    gateway.payments.invoice = invoice("paid")
    (row,) = (await gateway.call("listinvoices", [None, None, HASH.hex()]))["invoices"]
    assert row == {
        "label": "breakfast",
        "bolt11": "lnbcrt1",
        "payment_hash": HASH.hex(),
        "description": "two eggs",
        "status": "paid",
        "expires_at": 1_700_604_800,
        "amount_msat": 10_000,
        "pay_index": 7,
        "amount_received_msat": 10_000,
        "paid_at": 1_700_000_100,
    }
    assert gateway.payments.asked == [ListInvoices(payment_hash=HASH)]
    assert (await gateway.error("listinvoices", ["a", "b"]))["code"] == -32602


async def test_waitinvoice_answers_paid_and_fails_with_903_when_expired(gateway: Gateway):
    gateway.payments.paid.set()
    gateway.payments.invoice = invoice("paid")
    assert (await gateway.call("waitinvoice", ["breakfast"]))["pay_index"] == 7
    gateway.payments.invoice = invoice("expired")
    assert (await gateway.error("waitinvoice", ["breakfast"]))["code"] == 903


async def test_decode(gateway: Gateway):
    result = await gateway.call("decode", [f"lightning:{invoice_text()}"])
    assert (result["type"], result["valid"], result["currency"]) == ("bolt11 invoice", True, "bcrt")
    assert (result["amount_msat"], result["description"], result["payee"]) == (10_000, "coffee", PEER)
    assert (result["features"], result["min_final_cltv_expiry"]) == ("4100", 18)
    assert (await gateway.error("decode", ["lnbcrt1qqqq"]))["code"] == -32602


async def test_xpay_and_pay(gateway: Gateway):
    gateway.payments.paid.set()
    assert await gateway.call("xpay", ["lnbcrt1", None, 5000]) == {
        "payment_preimage": "dd" * 32,
        "failed_parts": 0,
        "successful_parts": 1,
        "amount_msat": 10_000,
        "amount_sent_msat": 10_000,
    }
    paid = await gateway.call("pay", {"bolt11": "lnbcrt1", "label": "lunch", "amount_msat": 1})
    assert (paid["status"], paid["destination"], paid["payment_hash"]) == ("complete", PEER, HASH.hex())
    assert (paid["payment_preimage"], paid["parts"], paid["created_at"]) == ("dd" * 32, 1, 1_700_000_000)
    assert gateway.payments.asked == [Pay("lnbcrt1", None, 5000), Pay("lnbcrt1", 1, None, "lunch")]


async def test_a_payment_that_takes_longer_than_retry_for_is_in_progress(gateway: Gateway):
    error = await gateway.error("xpay", {"invstring": "lnbcrt1", "retry_for": 1})
    assert error["code"] == 200
    assert error["data"] == {"outcome": "unknown"}
    assert "never pays twice" in error["message"]


async def test_listpays(gateway: Gateway):
    (row,) = (await gateway.call("listpays", [None, HASH.hex(), "complete"]))["pays"]
    assert (row["status"], row["preimage"], row["amount_sent_msat"]) == ("complete", "dd" * 32, 10_000)
    assert (row["created_at"], row["completed_at"], row["label"]) == (1_700_000_000, 1_700_000_001, "lunch")
    assert gateway.payments.asked == [ListPayments(None, HASH, "complete")]


async def test_a_signed_message_is_checked_with_and_without_the_key(gateway: Gateway):
    signed = await gateway.call("signmessage", ["hello"])
    assert len(signed["zbase"]) == 104
    assert len(signed["recid"]) == 2
    assert await gateway.call("checkmessage", ["hello", signed["zbase"]]) == {
        "verified": True,
        "pubkey": OUR_ID.hex(),
    }
    given = await gateway.call("checkmessage", ["hello", signed["zbase"], PEER])
    assert given == {"verified": False, "pubkey": OUR_ID.hex()}
    changed = await gateway.error("checkmessage", ["hellO", signed["zbase"]])
    assert changed["code"] == 1301
    assert (await gateway.error("checkmessage", ["hello", "zz"]))["code"] == -32602


async def test_help_lists_every_method_or_one(gateway: Gateway):
    assert len((await gateway.call("help"))["help"]) == len(METHODS)
    (one,) = (await gateway.call("help", ["invoice"]))["help"]
    assert one["command"].startswith("invoice amount_msat label description [expiry]")
    assert "[deschashonly]" in one["command"]
    assert (await gateway.error("help", ["invoices"]))["code"] == -32601


def test_parameter_order_is_what_clients_rely_on():
    order = {name: [param.name for param in method.params] for name, method in METHODS.items()}
    assert order["invoice"] == [
        *("amount_msat", "label", "description", "expiry", "fallbacks", "preimage"),
        *("exposeprivatechannels", "cltv", "deschashonly"),
    ]
    assert order["xpay"][:5] == ["invstring", "amount_msat", "maxfee", "layers", "retry_for"]
    assert order["pay"][:6] == ["bolt11", "amount_msat", "label", "riskfactor", "maxfeepercent", "retry_for"]
    assert order["fundchannel"][:6] == ["id", "amount", "feerate", "announce", "minconf", "push_msat"]
    assert order["listpays"][:3] == ["bolt11", "payment_hash", "status"]
    assert order["listinvoices"][:3] == ["label", "invstring", "payment_hash"]
    assert order["close"][:3] == ["id", "unilateraltimeout", "destination"]
    assert order["withdraw"] == ["destination", "satoshi", "feerate", "minconf", "utxos"]
    assert order["connect"] == ["id", "host", "port"]
    assert order["checkmessage"] == ["message", "zbase", "pubkey"]
