"""Invoices and incoming HTLCs over the bus: what is decided, said again, and saved."""

import asyncio
from typing import ClassVar

import pytest
from msgspec.structs import replace

from node.payments.receive import MIN_FINAL_CLTV_EXPIRY
from protocol.amounts import BlockHeight, Msat
from protocol.bolt4 import failure as failures
from protocol.bolt4 import payload as payloads
from protocol.bolt4.failure import FinalIncorrectHtlcAmount, IncorrectOrUnknownPaymentDetails, MppTimeout
from protocol.bolt4.payload import FinalPayload
from protocol.bolt11.decode import decode
from protocol.bus.messages.chain import TipChanged
from protocol.bus.messages.channel import (
    ChannelStateChanged,
    FailHtlc,
    FulfilHtlc,
    HtlcReceived,
    HtlcResolved,
)
from protocol.bus.messages.payments import CreateInvoice, InvoiceRow, ListInvoices, SignText, WaitInvoice
from protocol.bus.messages.routing import ChannelPolicy, PeerPolicy, PeerPolicyIs
from protocol.bus.messages.signer import InvoiceMade, NotNow, Refused
from protocol.bus.service import Service, handles
from protocol.errors import CommandRefused, ProtocolError
from protocol.hashes import sha256
from tests.node.payments.support import CHANNEL, HEIGHT, NOW, OUR_ID, PAYEE_ID, House, channel_info

INVOICES = "SELECT status, received_msat, paid_at, pay_index FROM invoices ORDER BY created"
EXPIRY = BlockHeight(HEIGHT + 30)
ASK = CreateInvoice(Msat(10_000), "breakfast", "two eggs")


def part(
    invoice: InvoiceRow,
    amount: int = 10_000,
    *,
    htlc_id: int = 0,
    total: int | None = None,
    secret: bytes | None = None,
    is_final: bool = True,
) -> HtlcReceived:
    payload = FinalPayload(
        Msat(amount), EXPIRY, secret or invoice.payment_secret, Msat(amount if total is None else total)
    )
    encoded = payloads.encode_final(payload)
    return HtlcReceived(CHANNEL, htlc_id, Msat(amount), invoice.payment_hash, EXPIRY, encoded, is_final)


async def receive(house: House, *htlcs: HtlcReceived) -> None:
    for htlc in htlcs:
        house.bus.publish(htlc)
    await house.settle()


def resolve(house: House, invoice: InvoiceRow, htlc_id: int = 0, *, fulfilled: bool = True) -> None:
    house.bus.publish(HtlcResolved(CHANNEL, htlc_id, invoice.payment_hash, fulfilled))


def fulfil(htlc_id: int = 0) -> FulfilHtlc:
    return FulfilHtlc(CHANNEL, htlc_id)


def details(amount: int = 10_000, htlc_id: int = 0) -> FailHtlc:
    return FailHtlc(CHANNEL, htlc_id, failures.encode(IncorrectOrUnknownPaymentDetails(Msat(amount), HEIGHT)))


async def one(house: House, request: ListInvoices | None = None) -> InvoiceRow:
    (row,) = (await house.ask(request or ListInvoices())).invoices
    return row


async def test_an_invoice_is_made_by_the_signer_and_saved_before_it_is_shown(house: House):
    row = await house.ask(ASK)
    read = decode(row.bolt11)
    assert (read.payee, read.amount_msat, read.description) == (OUR_ID, 10_000, "two eggs")
    assert (read.payment_hash, read.payment_secret) == (row.payment_hash, row.payment_secret)
    assert (row.status, row.expires_at) == ("unpaid", NOW + 604_800)
    assert house.rows("SELECT label, payment_hash, status FROM invoices") == [
        ("breakfast", row.payment_hash, "unpaid")
    ]


async def test_a_description_may_be_given_by_its_hash(house: House):
    row = await house.ask(
        CreateInvoice(None, "long", "a long story", description_hash=sha256(b"a long story"))
    )
    read = decode(row.bolt11)
    assert (read.description, read.description_hash, read.amount_msat) == (
        None,
        sha256(b"a long story"),
        None,
    )
    assert row.description == "a long story"


async def test_labels_are_unique_also_while_an_invoice_is_being_made(house: House):
    outcomes = await asyncio.gather(house.ask(ASK), house.ask(ASK), return_exceptions=True)
    (refusal,) = [outcome for outcome in outcomes if isinstance(outcome, CommandRefused)]
    assert refusal.code == 900
    with pytest.raises(CommandRefused) as again:
        await house.ask(ASK)
    assert again.value.code == 900


async def test_an_invoice_asks_for_as_many_blocks_as_its_maker_says(house: House):
    made = await house.ask(replace(ASK, cltv=MIN_FINAL_CLTV_EXPIRY))
    assert decode(made.bolt11).min_final_cltv_expiry_delta == MIN_FINAL_CLTV_EXPIRY


class GossipStandIn(Service):
    """Knows what every peer asks for."""

    name: ClassVar[str] = "gossip"

    @handles(PeerPolicy)
    def peer_policy(self, _request: PeerPolicy) -> PeerPolicyIs:
        return PeerPolicyIs(ChannelPolicy(Msat(1000), 10, 40, Msat(1), Msat(10**9)))


async def test_an_invoice_names_the_private_channels_as_they_are_now(house: House):
    """Nobody finds a way through one that is closed, nor to us where none was known at our start."""
    gossip = GossipStandIn(house.bus)
    await gossip.start()
    for alias in (7, 8):
        house.channel.channels = (replace(channel_info(), announce=False, alias_remote=alias),)
        house.bus.publish(ChannelStateChanged(CHANNEL, "", "CHANNELD_NORMAL", "", HEIGHT))
        await house.ask(replace(ASK, label=f"table {alias}"))
    assert [asked.route_hints for asked in house.signer.asked] == [
        (((PAYEE_ID, alias, 1000, 10, 40),),) for alias in (7, 8)
    ]
    await gossip.stop()


async def test_an_invoice_is_made_also_while_our_channels_cannot_be_listed(house: House):
    """Without hints then: who is to be paid now must not wait for another service."""
    await house.channel.stop()
    assert decode((await house.ask(ASK)).bolt11).route_hints == ()
    await house.channel.start()


async def test_two_hold_invoices_over_one_hash_at_a_time_are_not_both_made(house: House):
    """A shop that asks twice would stop the node: the second row cannot be written beside the first."""
    hold = replace(ASK, hold_hash=sha256(b"kept elsewhere"))
    asked = [house.asking(hold), house.asking(replace(hold, label="brunch"))]
    made, refusal = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 5)
    assert isinstance(made, InvoiceRow) and isinstance(refusal, CommandRefused)
    assert refusal.code == 900
    await house.on_disk()
    assert house.rows("SELECT label FROM invoices") == [("breakfast",)]
    with pytest.raises(CommandRefused) as again:
        await house.ask(replace(hold, label="supper"))
    assert again.value.code == 900
    assert len(house.rows(INVOICES)) == 1


@pytest.mark.parametrize(
    "request_",
    [
        CreateInvoice(Msat(0), "a", ""),
        CreateInvoice(Msat(1), "", ""),
        CreateInvoice(Msat(1), "a", "", expiry=0),
        CreateInvoice(Msat(1), "a", "", cltv=17),
    ],
)
async def test_an_invoice_that_could_not_be_paid_is_refused(house: House, request_: CreateInvoice):
    with pytest.raises(CommandRefused) as refused:
        await house.ask(request_)
    assert refused.value.code == -32602


async def test_a_signer_that_overlooks_the_hash_of_a_hold_invoice_makes_none(house: House):
    """As an older one would: whoever pays such an invoice pays for a preimage that the shop does not wait for."""
    house.signer.reply = InvoiceMade("lnbcrt1", sha256(b"its own preimage"), bytes(32))
    with pytest.raises(CommandRefused, match="same version"):
        await house.ask(replace(ASK, hold_hash=sha256(b"kept elsewhere")))
    assert house.rows("SELECT label FROM invoices") == []


async def test_a_signer_that_refuses_is_busy_or_is_away_is_quoted(house: House):
    house.signer.reply = Refused("t", "invoices are off", "", "", "Ask the admin.")
    with pytest.raises(CommandRefused, match=r"invoices are off\. Ask the admin"):
        await house.ask(ASK)
    house.signer.reply = NotNow("locked")
    with pytest.raises(CommandRefused, match="locked"):
        await house.ask(ASK)
    house.signer.reply = ProtocolError("its socket is closed")
    with pytest.raises(CommandRefused, match=r"its socket is closed\. Start it"):
        await house.ask(ASK)
    house.signer.reply = None
    assert (await house.ask(ASK)).status == "unpaid"  # the label was not used up


async def test_a_payment_is_fulfilled_and_the_invoice_paid_once_the_htlc_is_gone(house: House):
    invoice = await house.ask(ASK)
    await receive(house, part(invoice))
    assert house.channel.decisions == [fulfil()]
    assert (await one(house)).status == "unpaid"
    house.now += 5
    resolve(house, invoice)
    await house.on_disk()
    assert house.rows(INVOICES) == [("paid", 10_000, NOW + 5, 1)]
    row = await one(house)
    assert (row.status, row.received_msat, row.paid_at, row.pay_index) == ("paid", 10_000, NOW + 5, 1)


async def test_the_claim_is_on_disk_before_the_fulfil_can_leave(house: House):
    seen = []
    invoice = await house.ask(ASK)

    def told() -> None:
        saved = house.database.writer.submit([], now=True)
        saved.add_done_callback(lambda _: seen.extend(house.rows(INVOICES)))

    house.channel.on_told = told
    await receive(house, part(invoice))
    await house.on_disk()
    assert seen == [("claiming", 10_000, None, None)]


async def test_pay_index_rises_with_each_paid_invoice_also_over_a_restart(house: House):
    for number in (1, 2):
        invoice = await house.ask(CreateInvoice(Msat(1000), f"invoice {number}", ""))
        await receive(house, part(invoice, 1000, htlc_id=number))
        resolve(house, invoice, number)
        await house.on_disk()
        await house.restart()
        assert (await one(house, ListInvoices(label=f"invoice {number}"))).pay_index == number


async def test_the_second_payer_of_an_invoice_gets_the_money_back(house: House):
    """checklist 37"""
    invoice = await house.ask(ASK)
    await receive(house, part(invoice), part(invoice, htlc_id=1))
    assert house.channel.decisions == [fulfil(), details(htlc_id=1)]
    resolve(house, invoice, 1, fulfilled=False)
    await house.settle()
    assert (await one(house)).status == "unpaid"
    resolve(house, invoice)
    await receive(house, part(invoice, htlc_id=2))
    assert house.channel.decisions[-1] == details(htlc_id=2)
    await house.on_disk()
    assert house.rows(INVOICES)[0][:2] == ("paid", 10_000)


async def test_htlcs_that_pay_nothing_of_ours_are_failed(house: House):
    invoice = await house.ask(ASK)
    unknown = InvoiceRow("", bytes(32), bytes(32), "", None, "", 0, "unpaid")
    await receive(
        house, part(unknown), part(invoice, htlc_id=1, secret=bytes(32)), part(invoice, 9_999, htlc_id=2)
    )
    assert house.channel.decisions == [details(), details(htlc_id=1), details(9_999, htlc_id=2)]
    assert (await one(house)).status == "unpaid"


async def test_the_height_of_a_failure_is_the_newest(house: House):
    invoice = await house.ask(ASK)
    house.bus.publish(TipChanged(BlockHeight(HEIGHT + 13), bytes(32), 0))
    await receive(house, part(invoice))
    expected = IncorrectOrUnknownPaymentDetails(Msat(10_000), BlockHeight(HEIGHT + 13))
    assert house.channel.decisions == [FailHtlc(CHANNEL, 0, failures.encode(expected))]


async def test_an_htlc_said_again_gets_the_same_decision(house: House):
    invoice = await house.ask(ASK)
    htlc = part(invoice)
    await receive(house, htlc, htlc)
    house.now += 700_000  # expired by now, but the preimage may be out
    await receive(house, htlc)
    assert house.channel.decisions == [fulfil()] * 3


async def test_an_expired_invoice_is_paid_no_more_and_a_block_forgets_no_other(house: House):
    """checklist 36"""
    short, long = [
        await house.ask(CreateInvoice(Msat(10_000), str(expiry), "", expiry=expiry)) for expiry in (60, 600)
    ]
    house.now += 60
    await receive(house, part(short))
    house.bus.publish(TipChanged(BlockHeight(HEIGHT), bytes(32), 0))
    await receive(house, part(short, htlc_id=1), part(long, htlc_id=2))
    assert house.channel.decisions == [details(), details(htlc_id=1), fulfil(2)]


async def test_an_htlc_with_less_than_its_onion_says_is_no_payment(house: House):
    """checklist 36: the last hop keeps a part for itself."""
    invoice = await house.ask(ASK)
    await receive(house, replace(part(invoice), amount_msat=Msat(9_999)))
    assert house.channel.decisions == [
        FailHtlc(CHANNEL, 0, failures.encode(FinalIncorrectHtlcAmount(Msat(9_999))))
    ]


async def test_a_restart_in_the_middle_of_a_claim_fulfils_for_nobody_without_the_secret(house: House):
    """checklist 36: nor does such an HTLC end the claim, though it is gone before the real one is said again."""
    invoice = await house.ask(ASK)
    await receive(house, part(invoice))
    house.now += 700_000  # a claim that had ended would find the invoice expired
    await house.restart()
    await receive(house, part(invoice, htlc_id=1, secret=bytes(32)))
    resolve(house, invoice, 1, fulfilled=False)
    await receive(house, part(invoice))
    assert house.channel.decisions == [details(htlc_id=1), fulfil()]


async def test_after_a_restart_in_the_middle_of_a_claim_it_is_fulfilled_again(house: House):
    invoice = await house.ask(ASK)
    await receive(house, part(invoice))
    house.now += 700_000
    await house.restart()
    await receive(house, part(invoice))
    assert house.channel.decisions == [fulfil()]
    assert (await one(house)).status == "unpaid"
    resolve(house, invoice)
    await house.on_disk()
    assert house.rows(INVOICES)[0][:2] == ("paid", 10_000)


async def test_a_payment_that_settled_just_before_a_crash_is_known_as_paid_after_it(house: House):
    """The channel had saved the end of the HTLC; our own row was lost with the last, lazy commit."""
    invoice = await house.ask(ASK)
    await receive(house, part(invoice))
    house.channel.settled = ((invoice.payment_hash, Msat(10_000)),)
    await house.restart()
    await house.on_disk()
    assert house.rows(INVOICES)[0][:2] == ("paid", 10_000)


async def test_less_than_was_claimed_does_not_count_as_paid_after_a_crash(house: House):
    invoice = await house.ask(ASK)
    await receive(house, part(invoice))
    house.channel.settled = ((invoice.payment_hash, Msat(9_999)),)
    await house.restart()
    await house.on_disk()
    assert house.rows(INVOICES)[0][0] == "claiming"


async def test_a_claimed_htlc_that_ended_otherwise_leaves_the_invoice_unpaid(house: House):
    """The signer refused the preimage, or the channel closed first."""
    invoice = await house.ask(ASK)
    await receive(house, part(invoice))
    resolve(house, invoice, fulfilled=False)
    await house.on_disk()
    assert house.rows(INVOICES) == [("unpaid", None, None, None)]
    await receive(house, part(invoice, htlc_id=1))
    assert house.channel.decisions[-1] == fulfil(1)


async def test_parts_are_held_until_they_reach_the_total_and_fulfilled_together(house: House):
    """checklist 37"""
    invoice = await house.ask(ASK)
    await receive(house, part(invoice, 4_000, total=10_000))
    assert house.channel.decisions == []
    await receive(house, part(invoice, 6_000, total=10_000, htlc_id=1))
    assert house.channel.decisions == [fulfil(0), fulfil(1)]
    resolve(house, invoice, 0)
    await house.on_disk()
    assert house.rows(INVOICES)[0][0] == "claiming"
    resolve(house, invoice, 1)
    await house.on_disk()
    assert house.rows(INVOICES)[0][:2] == ("paid", 10_000)


async def test_parts_that_stay_alone_for_a_minute_are_failed_with_mpp_timeout(house: House):
    """checklist 37"""
    invoice = await house.ask(ASK)
    await receive(house, part(invoice, 4_000, total=10_000), part(invoice, 5_000, total=10_000, htlc_id=1))
    ((seconds, give_up),) = house.timers
    assert seconds == 60
    give_up()
    await house.settle()
    timeout = failures.encode(MppTimeout())
    assert house.channel.decisions == [FailHtlc(CHANNEL, 0, timeout), FailHtlc(CHANNEL, 1, timeout)]


async def test_the_timer_does_nothing_to_a_set_that_was_claimed(house: House):
    invoice = await house.ask(ASK)
    await receive(house, part(invoice, 4_000, total=10_000), part(invoice, 6_000, total=10_000, htlc_id=1))
    house.timers[0][1]()
    await house.settle()
    assert house.channel.decisions == [fulfil(0), fulfil(1)]


async def test_the_timer_of_a_set_that_is_gone_leaves_the_next_one_alone(house: House):
    """checklist 37"""
    invoice = await house.ask(ASK)
    await receive(house, part(invoice, 4_000, total=10_000))
    resolve(house, invoice, fulfilled=False)  # its channel went on chain
    await receive(house, part(invoice, 4_000, total=10_000, htlc_id=1))
    house.timers[0][1]()
    await receive(house, part(invoice, 6_000, total=10_000, htlc_id=2))
    assert house.channel.decisions == [fulfil(1), fulfil(2)]


async def test_parts_that_disagree_on_the_total_fail_the_set(house: House):
    """checklist 36"""
    invoice = await house.ask(ASK)
    await receive(house, part(invoice, 4_000, total=10_000), part(invoice, 6_000, total=11_000, htlc_id=1))
    assert house.channel.decisions == [details(4_000), details(6_000, htlc_id=1)]


async def test_waiting_ends_when_the_invoice_is_paid(house: House):
    invoice = await house.ask(ASK)
    waiting = house.asking(WaitInvoice("breakfast"))
    await receive(house, part(invoice))
    assert not waiting.done()
    resolve(house, invoice)
    row = await waiting
    assert (row.status, row.pay_index) == ("paid", 1)
    assert house.rows(INVOICES)[0][0] == "paid"
    assert (await house.ask(WaitInvoice("breakfast"))).pay_index == 1


async def test_waiting_for_an_expired_or_unknown_invoice_ends_at_once(house: House):
    await house.ask(ASK)
    house.now += 604_800
    assert (await house.ask(WaitInvoice("breakfast"))).status == "expired"
    assert (await one(house)).status == "expired"
    with pytest.raises(CommandRefused, match="no invoice with the label"):
        await house.ask(WaitInvoice("lunch"))


async def test_invoices_are_listed_by_label_hash_and_text(house: House):
    first = await house.ask(ASK)
    await house.ask(CreateInvoice(None, "lunch", ""))
    for request in (
        ListInvoices(label="breakfast"),
        ListInvoices(payment_hash=first.payment_hash),
        ListInvoices(bolt11=f"lightning:{first.bolt11}"),
    ):
        assert await one(house, request) == first
    assert len((await house.ask(ListInvoices())).invoices) == 2
    assert (await house.ask(ListInvoices(label="dinner"))).invoices == ()


async def test_a_text_is_signed_by_the_signer(house: House):
    assert (await house.ask(SignText("hello"))).zbase == "zbase"
