"""Hold invoices."""

import pytest
from msgspec.structs import replace

from node.payments.receive import HOLD_MARGIN
from protocol.amounts import BlockHeight, Msat
from protocol.bolt4 import failure as failures
from protocol.bolt4 import payload as payloads
from protocol.bolt4.failure import IncorrectOrUnknownPaymentDetails
from protocol.bolt4.payload import FinalPayload
from protocol.bolt11.decode import decode
from protocol.bus.messages.chain import TipChanged
from protocol.bus.messages.channel import FailHtlc, FulfilHtlc, HtlcReceived, HtlcResolved
from protocol.bus.messages.payments import (
    CancelHold,
    CreateInvoice,
    InvoiceRow,
    ListInvoices,
    SettleHold,
)
from protocol.errors import CommandRefused
from protocol.hashes import sha256
from tests.node.payments.support import (
    CHANNEL,
    HEIGHT,
    OTHER_CHANNEL,
    PREIMAGE,
    House,
)

HASH = sha256(PREIMAGE)
EXPIRY = BlockHeight(HEIGHT + 60)
ASK = CreateInvoice(Msat(10_000), "bond", "a bond", hold_hash=HASH)
SETTLED = FulfilHtlc(CHANNEL, 0, PREIMAGE, promised=True)
STATUS = "SELECT status, received_msat, preimage FROM invoices"


def part(
    invoice: InvoiceRow,
    amount: int = 10_000,
    *,
    htlc_id: int = 0,
    channel: bytes = CHANNEL,
    expiry: int = EXPIRY,
) -> HtlcReceived:
    payload = FinalPayload(Msat(amount), EXPIRY, invoice.payment_secret, Msat(10_000))
    encoded = payloads.encode_final(payload)
    return HtlcReceived(channel, htlc_id, Msat(amount), invoice.payment_hash, expiry, encoded, True)


async def hear(house: House, *events: object) -> None:
    for event in events:
        house.bus.publish(event)
    await house.on_disk()


def details(
    amount: int = 10_000, htlc_id: int = 0, height: int = HEIGHT, channel: bytes = CHANNEL
) -> FailHtlc:
    failure = IncorrectOrUnknownPaymentDetails(Msat(amount), BlockHeight(height))
    return FailHtlc(channel, htlc_id, failures.encode(failure))


async def status_of(house: House) -> str:
    (row,) = (await house.ask(ListInvoices())).invoices
    return row.status


async def test_a_hold_invoice_has_the_hash_that_was_given_and_waits_for_the_preimage(house: House):
    invoice = await house.ask(ASK)
    assert decode(invoice.bolt11).payment_hash == HASH
    await hear(house, part(invoice))
    assert house.channel.decisions == []
    assert house.rows(STATUS) == [("accepted", 10_000, None)]
    (row,) = (await house.ask(ListInvoices())).invoices
    assert (row.status, row.htlcs[0].cltv_expiry) == ("accepted", EXPIRY)
    await house.ask(SettleHold(PREIMAGE))
    await house.on_disk()
    assert house.channel.decisions == [SETTLED]
    assert house.rows(STATUS) == [("claiming", 10_000, PREIMAGE)]
    await hear(house, HtlcResolved(CHANNEL, 0, HASH, True))
    assert await status_of(house) == "paid"


async def test_the_preimage_is_on_disk_before_it_can_leave_and_survives_a_restart(house: House):
    invoice = await house.ask(ASK)
    await hear(house, part(invoice))
    seen = []

    def told() -> None:
        saved = house.database.writer.submit([], now=True)
        saved.add_done_callback(lambda _: seen.extend(house.rows(STATUS)))

    house.channel.on_told = told
    await house.ask(SettleHold(PREIMAGE))
    await house.on_disk()
    assert seen == [("claiming", 10_000, PREIMAGE)]
    await house.restart()
    await hear(house, part(invoice))
    assert house.channel.decisions == [SETTLED]


async def test_an_accepted_hold_is_held_again_after_a_restart_though_it_expired_meanwhile(house: House):
    invoice = await house.ask(ASK)
    await hear(house, part(invoice))
    house.now += 10**7
    await house.restart()
    await hear(house, part(invoice))
    assert house.channel.decisions == []
    assert await status_of(house) == "accepted"
    await house.ask(SettleHold(PREIMAGE))
    await house.settle()
    assert house.channel.decisions == [SETTLED]


async def test_a_wrong_preimage_or_none_settles_nothing(house: House):
    invoice = await house.ask(ASK)
    with pytest.raises(CommandRefused, match="nothing is held"):
        await house.ask(SettleHold(PREIMAGE))
    await hear(house, part(invoice))
    with pytest.raises(CommandRefused, match="no hold invoice"):
        await house.ask(SettleHold(bytes(32)))
    with pytest.raises(CommandRefused, match="preimage"):
        await house.ask(SettleHold(payment_hash=HASH))
    assert house.channel.decisions == []


async def test_a_hold_invoice_of_the_signer_is_settled_by_its_hash(house: House):
    invoice = await house.ask(replace(ASK, hold_hash=None, hold=True))
    await hear(house, part(invoice))
    assert house.channel.decisions == []
    await house.ask(SettleHold(payment_hash=invoice.payment_hash))
    await house.settle()
    assert house.channel.decisions == [FulfilHtlc(CHANNEL, 0, promised=True)]


async def test_a_cancelled_hold_gives_everything_back_as_if_it_were_unknown(house: House):
    """checklist 36"""
    invoice = await house.ask(ASK)
    await hear(house, part(invoice, 4000), part(invoice, 6000, htlc_id=1, channel=OTHER_CHANNEL))
    await house.ask(CancelHold(HASH))
    await hear(house, part(invoice, htlc_id=2))
    assert house.channel.decisions == [
        details(4000),
        details(6000, 1, channel=OTHER_CHANNEL),
        details(htlc_id=2),
    ]
    assert await status_of(house) == "cancelled"
    await hear(house, HtlcResolved(CHANNEL, 0, HASH, False))
    assert await status_of(house) == "cancelled"
    with pytest.raises(CommandRefused):
        await house.ask(SettleHold(PREIMAGE))


async def test_a_settled_hold_cannot_be_cancelled(house: House):
    invoice = await house.ask(ASK)
    await hear(house, part(invoice))
    await house.ask(SettleHold(PREIMAGE))
    with pytest.raises(CommandRefused, match="settled already"):
        await house.ask(CancelHold(HASH))
    assert (await house.ask(SettleHold(PREIMAGE))).status == "claiming"
    await house.settle()
    assert house.channel.decisions == [SETTLED]


async def test_a_hold_is_cancelled_before_its_deadline_could_close_the_channel(house: House):
    invoice = await house.ask(ASK)
    await hear(house, part(invoice))
    await hear(house, TipChanged(BlockHeight(EXPIRY - HOLD_MARGIN - 1), bytes(32), 0))
    assert house.channel.decisions == []
    last = EXPIRY - HOLD_MARGIN
    await hear(house, TipChanged(BlockHeight(last), bytes(32), 0))
    assert house.channel.decisions == [details(height=last)]
    assert await status_of(house) == "cancelled"


async def test_the_first_part_to_expire_decides_when_a_hold_is_cancelled(house: House):
    """checklist 37: later, it could be taken back while we claim the others."""
    invoice = await house.ask(ASK)
    await hear(house, part(invoice, 4000, expiry=EXPIRY + 100), part(invoice, 6000, htlc_id=1))
    last = EXPIRY - HOLD_MARGIN
    await hear(house, TipChanged(BlockHeight(last), bytes(32), 0))
    assert house.channel.decisions == [details(4000, height=last), details(6000, 1, height=last)]


async def test_a_settled_hold_is_not_cancelled_by_its_deadline(house: House):
    """The preimage may be out: what is failed now could be claimed from us further on."""
    invoice = await house.ask(ASK)
    await hear(house, part(invoice))
    await house.ask(SettleHold(PREIMAGE))
    await hear(house, TipChanged(EXPIRY, bytes(32), 0))
    assert house.channel.decisions == [SETTLED, SETTLED]
    assert house.rows(STATUS) == [("claiming", 10_000, PREIMAGE)]


async def test_what_was_settled_is_said_at_each_block_until_it_is_paid(house: House):
    """checklist 43: whoever settled it has handed over the goods. The channel must know that it was promised when the
    HTLC comes near its expiry, also if a cut of the line has taken the word back."""
    invoice = await house.ask(ASK)
    await hear(house, part(invoice), TipChanged(HEIGHT, bytes(32), 0))
    assert house.channel.decisions == []
    await house.ask(SettleHold(PREIMAGE))
    await hear(
        house,
        TipChanged(BlockHeight(HEIGHT + 1), bytes(32), 0),
        TipChanged(BlockHeight(HEIGHT + 2), bytes(32), 0),
    )
    assert house.channel.decisions == [SETTLED] * 3
    await hear(house, HtlcResolved(CHANNEL, 0, HASH, True), TipChanged(BlockHeight(HEIGHT + 3), bytes(32), 0))
    assert house.channel.decisions == [SETTLED] * 3


async def test_only_hold_invoices_are_cancelled(house: House):
    """Parts of an ordinary one wait for the others, whatever their expiry."""
    invoice = await house.ask(replace(ASK, hold_hash=None))
    await hear(house, part(invoice, 4000))
    await hear(house, TipChanged(BlockHeight(EXPIRY - HOLD_MARGIN), bytes(32), 0))
    with pytest.raises(CommandRefused, match="no hold invoice"):
        await house.ask(CancelHold(invoice.payment_hash))
    assert house.channel.decisions == []


async def test_a_part_of_a_held_set_that_is_said_again_is_still_held(house: House):
    invoice = await house.ask(ASK)
    await hear(house, part(invoice), part(invoice))
    assert house.channel.decisions == []
    await house.ask(SettleHold(PREIMAGE))
    await house.settle()
    assert house.channel.decisions == [SETTLED]


async def test_after_a_restart_blocks_and_words_wait_until_the_whole_set_is_said_again(house: House):
    """checklist 37: what has not come back may be gone, and the preimage is not sold for a part."""
    invoice = await house.ask(ASK)
    first, second = part(invoice, 4000), part(invoice, 6000, channel=OTHER_CHANNEL)
    await hear(house, first, second)
    house.now += 10**7
    await house.restart()
    await hear(house, TipChanged(HEIGHT, bytes(32), 0))
    for said_again in ((), (first,)):
        await hear(house, *said_again)
        with pytest.raises(CommandRefused, match="nothing is held"):
            await house.ask(SettleHold(PREIMAGE))
    await hear(house, second)
    assert house.channel.decisions == []
    await house.ask(SettleHold(PREIMAGE))
    await house.settle()
    assert len(house.channel.decisions) == 2


async def test_a_held_set_that_lost_a_part_is_given_back_and_cannot_be_settled(house: House):
    """checklist 37: a part below the dust limit ends with its channel, and the preimage is not sold for the others."""
    invoice = await house.ask(ASK)
    await hear(
        house, part(invoice, 4000), part(invoice, 6000, channel=OTHER_CHANNEL), part(invoice, htlc_id=1)
    )
    await hear(house, HtlcResolved(CHANNEL, 1, HASH, False))  # a second payer's: nothing to us
    assert await status_of(house) == "accepted"
    await hear(house, HtlcResolved(OTHER_CHANNEL, 0, HASH, False))
    with pytest.raises(CommandRefused):
        await house.ask(SettleHold(PREIMAGE))
    await house.settle()
    assert house.channel.decisions == [details(htlc_id=1), details(4000)]


async def test_a_second_payer_of_a_held_invoice_gets_the_money_back(house: House):
    """checklist 37: never a second set while one is held or claimed."""
    invoice = await house.ask(ASK)
    await hear(house, part(invoice), part(invoice, htlc_id=1))
    assert house.channel.decisions == [details(htlc_id=1)]


async def test_a_payment_hash_is_used_once(house: House):
    await house.ask(ASK)
    with pytest.raises(CommandRefused) as refused:
        await house.ask(replace(ASK, label="another"))
    assert refused.value.code == 900


async def test_a_set_may_come_over_several_channels(house: House):
    """checklist 37: all are fulfilled or none."""
    invoice = await house.ask(ASK)
    await hear(house, part(invoice, 4000), part(invoice, 6000, channel=OTHER_CHANNEL))
    await house.ask(SettleHold(PREIMAGE))
    await house.settle()
    assert house.channel.decisions == [
        SETTLED,
        replace(SETTLED, channel_id=OTHER_CHANNEL),
    ]


def both(first: int = 0, second: int = 0) -> list[FulfilHtlc]:
    return [
        FulfilHtlc(CHANNEL, first, None, ((OTHER_CHANNEL, (second,)),)),
        FulfilHtlc(OTHER_CHANNEL, second, None, ((CHANNEL, (first,)),)),
    ]


async def test_each_channel_of_a_set_is_told_what_stands_in_the_others(house: House):
    """checklist 37: the signer releases its preimage for the whole set only."""
    invoice = await house.ask(CreateInvoice(Msat(10_000), "x", ""))
    await hear(house, part(invoice, 4000), part(invoice, 6000, channel=OTHER_CHANNEL))
    assert house.channel.decisions == both()


async def test_after_a_restart_all_parts_are_asked_for_together_as_they_are_told_again(house: House):
    """checklist 29, 37: whether the signer had released anything before is not known."""
    invoice = await house.ask(CreateInvoice(Msat(10_000), "x", ""))
    parts = part(invoice, 4000), part(invoice, 6000, channel=OTHER_CHANNEL)
    await hear(house, *parts)
    await house.restart()
    house.channel.decisions.clear()
    await hear(house, *parts)
    assert house.channel.decisions == [FulfilHtlc(CHANNEL, 0), *both()]
    await hear(house, HtlcResolved(CHANNEL, 0, invoice.payment_hash, True))
    await hear(house, HtlcResolved(OTHER_CHANNEL, 0, invoice.payment_hash, True))
    (row,) = (await house.ask(ListInvoices())).invoices
    assert (row.status, row.received_msat) == ("paid", 10_000)


async def test_when_one_channel_has_paid_the_others_are_reminded(house: House):
    """The signer may have refused one of them for the sake of another, and nobody else would ask it again."""
    invoice = await house.ask(CreateInvoice(Msat(10_000), "x", ""))
    await hear(house, part(invoice, 4000), part(invoice, 6000, channel=OTHER_CHANNEL))
    house.channel.decisions.clear()
    await hear(house, HtlcResolved(CHANNEL, 0, invoice.payment_hash, True))
    assert house.channel.decisions == [both()[1]]
