"""`why` over the RPC socket, and its rendering in a terminal (issue 4, item 5)."""

import io
from typing import Any, ClassVar

import pytest
from rich.console import Console

from node.cli.render import render
from node.rpc.errors import RpcError
from node.rpc.methods import why
from node.rpc.params import bind
from node.rpc.table import Context, NodeFacts
from protocol.amounts import BlockHeight, Msat
from protocol.bitcoin.network import REGTEST
from protocol.bus.local import LocalBus
from protocol.bus.messages.chain import GetTip, Tip
from protocol.bus.messages.channel import Channels, ListChannels
from protocol.bus.messages.payments import (
    InvoiceRow,
    Invoices,
    ListInvoices,
    ListParts,
    ListPayments,
    PartRow,
    Parts,
    PaymentRow,
    Payments,
)
from protocol.bus.messages.why import (
    BECAUSE,
    HAPPENED,
    NEXT,
    YOU,
    Answer,
    Line,
    ListWarnings,
    Warned,
    Warnings,
    Why,
)
from protocol.bus.service import Service, handles

CHANNEL, HASH = "aa" * 32, "bb" * 32
STORY = Answer(
    "channel",
    CHANNEL,
    f"channel {CHANNEL}: AWAITING_UNILATERAL",
    (
        Line(HAPPENED, "our own commitment was published", 100, 1_700_000_000),
        Line(BECAUSE, "the peer said: \x1b[2Jno"),
        Line(NEXT, "the node takes it", 244, 1_700_086_400),
        Line(YOU, "Nothing: keep node and signer running."),
    ),
)


class ChannelService(Service):
    name: ClassVar[str] = "channel"

    @handles(Why)
    def why(self, request: Why) -> Answer | None:
        return STORY if request.selector == CHANNEL else None

    @handles(ListWarnings)
    def warnings(self, _request: ListWarnings) -> Warnings:
        return Warnings((Warned("deadline", b"", "an HTLC runs out", "Connect the peer.", BlockHeight(9)),))

    @handles(ListChannels)
    def channels(self, _request: ListChannels) -> Channels:
        return Channels(())


class PaymentsService(Service):
    name: ClassVar[str] = "payments"
    sent: tuple[PaymentRow, ...] = ()
    made: tuple[InvoiceRow, ...] = ()
    parts: tuple[PartRow, ...] = ()

    @handles(ListPayments)
    def payments(self, _request: ListPayments) -> Payments:
        return Payments(self.sent)

    @handles(ListInvoices)
    def invoices(self, _request: ListInvoices) -> Invoices:
        return Invoices(self.made)

    @handles(ListParts)
    def list_parts(self, _request: ListParts) -> Parts:
        return Parts(self.parts)


class ChainService(Service):
    name: ClassVar[str] = "chain"

    @handles(GetTip)
    def tip(self, _request: GetTip) -> Tip:
        return Tip(BlockHeight(100), b"", True)


class Asker:
    def __init__(self) -> None:
        self.bus = LocalBus()
        self.services = (ChannelService(self.bus), PaymentsService(self.bus), ChainService(self.bus))
        facts = NodeFacts(bytes(33), "A", bytes(3), REGTEST, "/", "1")
        self.context = Context(self.bus, facts, {}, lambda: None)

    async def ask(self, *words: str) -> dict[str, Any]:
        for service in self.services:
            await service.start()
        (method,) = why.METHODS
        try:
            return await why.why(self.context, bind("why", method.params, list(words)))
        finally:
            for service in self.services:
                await service.stop()


def payment(status: str, error: str | None = None) -> PaymentRow:
    done = None if status == "pending" else 1_700_000_100
    return PaymentRow(
        "p1", bytes.fromhex(HASH), "lnbc", bytes(33), Msat(5000), Msat(5007), status, 1_700_000_000, done, None, error,
        None, 1,
    )  # fmt: skip


async def test_a_channel_is_explained_as_the_channel_service_tells_it() -> None:
    found = await Asker().ask(CHANNEL.upper())
    assert (found["kind"], found["subject"]) == ("channel", CHANNEL)
    assert found["lines"][2] == {
        "about": "next",
        "text": "the node takes it",
        "blockheight": 244,
        "time": 1_700_086_400,
    }
    assert "next: the node takes it (block 244, about 20" in found["text"]


async def test_a_failed_payment_tells_its_cause_and_each_part() -> None:
    asker = Asker()
    asker.services[1].sent = (payment("failed", "no route to the node"),)
    asker.services[1].parts = (
        PartRow(3, bytes.fromhex(HASH), 1, 0, bytes(33), Msat(5000), Msat(5007), "failed", 1_700_000_001, error="fee"),
        PartRow(4, bytes.fromhex(HASH), 1, 0, bytes(33), Msat(5000), Msat(5007), "failed", 1_700_000_002, error="no",
                hold_times=(15, 2)),
    )  # fmt: skip
    found = await asker.ask(HASH)
    because = [line["text"] for line in found["lines"] if line["about"] == "because"]
    assert because == [
        "no route to the node",
        "part 3 of 5000 msat for a fee of 7 msat: failed: fee",
        "part 4 of 5000 msat for a fee of 7 msat: failed: no; its nodes say that they held it for 1.5 s, 0.2 s",
    ]
    assert any(
        "nothing can be paid twice" in line["text"] for line in found["lines"] if line["about"] == "you"
    )


@pytest.mark.parametrize(("status", "words"), [("complete", "a fee of 7 msat"), ("pending", "not known yet")])
async def test_other_payments_tell_how_they_stand(status: str, words: str) -> None:
    asker = Asker()
    asker.services[1].sent = (payment(status),)
    assert words in (await asker.ask(HASH))["text"]


async def test_an_expired_invoice_tells_that_nobody_paid_it() -> None:
    asker = Asker()
    row = InvoiceRow("coffee", bytes.fromhex(HASH), b"", "lnbc", Msat(1), "", 1_700_000_000, "expired")
    asker.services[1].made = (row,)
    found = await asker.ask(HASH)
    assert "nobody paid it" in found["text"] and "payment" in found["title"]


@pytest.mark.parametrize("selector", ["cc" * 32, "nonsense", "103x1x0"])
async def test_what_is_not_ours_is_refused_with_where_to_look(selector: str) -> None:
    with pytest.raises(RpcError, match="listpeerchannels"):
        await Asker().ask(selector)


async def test_warnings_come_to_getinfo() -> None:
    asker = Asker()
    for service in asker.services:
        await service.start()
    (warned,) = await why.warnings(asker.context)
    assert warned.sentence == "an HTLC runs out"
    await asker.services[0].stop()
    assert await why.warnings(asker.context) == ()
    for service in asker.services[1:]:
        await service.stop()


async def test_a_terminal_shows_it_in_the_order_of_the_questions() -> None:
    screen = io.StringIO()
    render("why", await Asker().ask(CHANNEL), Console(file=screen, width=100))
    text = screen.getvalue()
    places = [text.index(w) for w in ("What happened", "Why", "What the node will do", "What you can do")]
    assert places == sorted(places)
    assert "block 244" in text and "\x1b" not in text
