"""The event service: what others publish becomes numbered events, rows and snapshots."""

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec.structs import replace

from node.events import service as subject
from node.events.service import EventService
from protocol.amounts import BlockHeight, Msat, Sat
from protocol.bus.local import LocalBus
from protocol.bus.messages.chain import ChainAway, ChainBack, ScriptPaid, TipChanged
from protocol.bus.messages.channel import ChannelStateChanged, ChannelsTouched
from protocol.bus.messages.events import (
    BlockNow,
    ChainLink,
    ChannelMoved,
    ChannelRow,
    CoinSeen,
    EventPage,
    EventsSince,
    ForwardNow,
    GetSnapshot,
    Happening,
    InvoiceNow,
    LogLine,
    PaymentNow,
    PeerRow,
    SignerRow,
    Snapshot,
    WalletNow,
)
from protocol.bus.messages.forwards import ForwardChanged, ForwardRow
from protocol.bus.messages.payments import InvoiceChanged, PaymentChanged
from protocol.bus.messages.peer import PeerDown, PeerUp
from protocol.bus.messages.signer_link import SignerLink
from protocol.bus.messages.wallet import WalletChanged
from protocol.errors import CommandRefused
from tests.node.events import support
from tests.node.rpc.support import CHANNEL_ID, HASH, PEER_ID

RUN = b"run"


class House:
    def __init__(self) -> None:
        self.bus = LocalBus()
        self.channel = support.ChannelService(self.bus)
        self.others = support.Others(self.bus)
        self.wallet = support.WalletService(self.bus)
        self.peer = support.PeerService(self.bus)
        self.chain = support.ChainService(self.bus)
        self.rpc = support.RpcService(self.bus)
        self.signer = support.SIGNER
        self.events = EventService(
            self.bus, signer=lambda: self.signer, clock=lambda: 1_000.0, run=RUN, capacity=50
        )
        self.seq = 0

    @property
    def services(self) -> tuple[Any, ...]:
        return (self.channel, self.others, self.wallet, self.peer, self.chain, self.rpc, self.events)

    async def since(self, seq: int, wait: float = 0.0) -> EventPage:
        page: EventPage = await self.bus.request("events", EventsSince(RUN, seq, wait))
        return page

    async def snapshot(self) -> Snapshot:
        shot: Snapshot = await self.bus.request("events", GetSnapshot())
        return shot

    async def next(self, kind: type) -> Any:
        """The next event of this kind."""
        async with asyncio.timeout(10):
            while True:
                page = await self.since(self.seq, 5.0)
                assert not page.gap
                for event in page.events:
                    self.seq = event.seq
                    if isinstance(event.what, kind):
                        return event.what


@pytest.fixture
async def house(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(subject, "FLUSH_SECONDS", 0.01)
    monkeypatch.setattr(subject, "SIGNER_SECONDS", 0.01)
    made = House()
    for service in made.services:
        await service.start()
    yield made
    for service in made.services:
        await service.stop()


ONCE: tuple[tuple[object, Happening], ...] = (
    (TipChanged(BlockHeight(102), b"\1" * 32, 7), BlockNow(BlockHeight(102), b"\1" * 32, 7)),
    (ChainAway("no answer"), ChainLink(False, "no answer")),
    (ChainBack(), ChainLink(True)),
    (
        ScriptPaid(b"\0", b"\2" * 32, 1, Sat(500), BlockHeight(9), False),
        CoinSeen(b"\2" * 32, 1, Sat(500), BlockHeight(9)),
    ),
    (
        ChannelStateChanged(b"\3" * 32, "CHANNELD_NORMAL", "CLOSED", "you asked", BlockHeight(9)),
        ChannelMoved(b"\3" * 32, "CHANNELD_NORMAL", "CLOSED", "you asked", BlockHeight(9)),
    ),
    (SignerLink(True, ""), support.SIGNER),
    (
        ForwardChanged(
            ForwardRow(
                *(b"\4" * 32, 7, Msat(5000), b"\5" * 32, "settled", 1.0),
                *(b"\6" * 32, 9, 8, Msat(4000), Msat(1000), 2.0),
            )
        ),
        ForwardNow(
            b"\4" * 32, 7, Msat(5000), b"\6" * 32, Msat(4000), Msat(1000), b"\5" * 32, "settled", 1.0, 2.0
        ),
    ),
)


@pytest.mark.parametrize(("said", "told"), ONCE)
async def test_what_is_published_is_an_event(house: House, said: object, told: Happening) -> None:
    house.bus.publish(said)
    assert await house.next(type(told)) == told


async def test_a_payment_on_its_way_says_until_when_its_outcome_is_open(house: House) -> None:
    house.bus.publish(PaymentChanged(support.payment(), 144))
    began: PaymentNow = await house.next(PaymentNow)
    assert (began.status, began.unknown_until, began.fee_msat) == ("pending", 144, 0)
    ended = support.payment("complete", amount_sent_msat=Msat(5_003), completed=102, preimage=b"\7" * 32)
    house.bus.publish(PaymentChanged(ended, None))
    done: PaymentNow = await house.next(PaymentNow)
    assert (done.status, done.unknown_until, done.fee_msat) == ("complete", None, 3)


async def test_no_preimage_and_no_secret_is_in_the_stream(house: House) -> None:
    house.bus.publish(PaymentChanged(support.payment("complete", preimage=b"\7" * 32), None))
    house.bus.publish(InvoiceChanged(support.invoice("paid", preimage=b"\7" * 32, payment_secret=b"\7" * 32)))
    seen = [await house.next(PaymentNow), await house.next(InvoiceNow)]
    assert b"\7" * 32 not in [getattr(row, name) for row in seen for name in row.__struct_fields__]


async def test_a_touched_channel_is_told_as_it_is_then(house: House) -> None:
    house.channel.change(to_us_msat=Msat(123_000))
    house.bus.publish(ChannelsTouched((CHANNEL_ID,)))
    row: ChannelRow = await house.next(ChannelRow)
    assert row.to_us_msat == 123_000
    assert house.channel.asked[-1].channel_ids == (CHANNEL_ID,)


async def test_many_touches_are_one_question(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "FLUSH_SECONDS", 0.05)
    await house.since(0)
    for _ in range(1_000):
        house.bus.publish(ChannelsTouched((CHANNEL_ID,)))
    await house.next(ChannelRow)
    assert len(house.channel.asked) == 1


async def test_a_row_that_did_not_change_is_not_told_again(house: House) -> None:
    house.bus.publish(ChannelsTouched((CHANNEL_ID,)))
    await house.next(ChannelRow)
    house.bus.publish(ChannelsTouched((CHANNEL_ID,)))
    house.bus.publish(WalletChanged())
    await house.next(WalletNow)
    rows = [event for event in (await house.since(0)).events if isinstance(event.what, ChannelRow)]
    assert len(rows) == 1


async def test_nobody_is_asked_while_nobody_watches(house: House) -> None:
    house.bus.publish(ChannelsTouched((CHANNEL_ID,)))
    house.bus.publish(WalletChanged())
    for _ in range(50):
        await asyncio.sleep(0)
    assert house.channel.asked == []
    assert isinstance(await house.next(ChannelRow), ChannelRow), "the first watcher learns it"
    assert isinstance(await house.next(WalletNow), WalletNow)


async def test_a_question_that_was_refused_is_asked_again(house: House) -> None:
    house.channel.refuse = True
    house.bus.publish(ChannelsTouched((CHANNEL_ID,)))
    await house.since(0, 0.1)
    house.channel.refuse = False
    assert (await house.next(ChannelRow)).channel_id == CHANNEL_ID


async def test_htlcs_are_counted_and_the_first_to_expire_stand_first(house: House) -> None:
    (htlc,) = house.channel.rows[CHANNEL_ID].htlcs[:1]
    many = tuple(replace(htlc, id=n, offered=n % 2 == 0, cltv_expiry=500 - n) for n in range(40))
    house.channel.change(htlcs=many)
    house.bus.publish(ChannelsTouched((CHANNEL_ID,)))
    row: ChannelRow = await house.next(ChannelRow)
    assert (row.offered_htlcs, row.received_htlcs, row.next_expiry) == (20, 20, 461)
    assert [shown.id for shown in row.htlcs] == list(range(39, 23, -1))


async def test_peers_come_and_go_with_the_reason(house: House) -> None:
    house.bus.publish(PeerUp(PEER_ID, 1, b""))
    assert (await house.next(PeerRow)).connected
    house.peer.rows[PEER_ID] = replace(house.peer.rows[PEER_ID], connected=False)
    house.bus.publish(PeerDown(PEER_ID, 1, "no pong came"))
    assert (await house.next(PeerRow)).reason == "no pong came"
    stranger = b"\x03" + bytes(32)
    house.bus.publish(PeerDown(stranger, 2, "bad init"))
    assert await house.next(PeerRow) == PeerRow(stranger, False, False, "", "", 1_000, "bad init")


async def test_the_signers_counters_are_told_while_somebody_watches(house: House) -> None:
    await house.next(SignerRow)
    house.signer = replace(house.signer, requests=8)
    assert (await house.next(SignerRow)).requests == 8


async def test_log_lines_come_from_any_thread(house: House) -> None:
    thread = threading.Thread(target=house.events.log_line, args=("error", "save_failed", "disk=full"))
    thread.start()
    thread.join()
    assert await house.next(LogLine) == LogLine("error", "save_failed", "disk=full")


async def test_a_flood_of_log_lines_costs_only_lines(house: House) -> None:
    for number in range(10_000):
        house.events.log_line("info", f"line {number}", "")
    await asyncio.sleep(0.01)
    page = await house.since(0)
    assert page.gap and page.last <= subject.MAX_LOG_QUEUE + 5, (
        "the oldest were dropped before they were numbered"
    )
    newest = [event.what for event in (await house.since(page.last - 5)).events]
    assert LogLine("info", "line 9999", "") in newest


async def test_a_watcher_waits_for_news_and_no_longer_than_it_said(house: House) -> None:
    house.bus.publish(ChainBack())
    start = (await house.since(0)).last
    waiting = asyncio.create_task(house.since(start, 10.0))
    await asyncio.sleep(0)
    assert not waiting.done()
    house.bus.publish(ChainAway("gone"))
    page = await asyncio.wait_for(waiting, 5)
    assert any(event.what == ChainLink(False, "gone") for event in page.events) or page.events
    quiet = await house.since(10_000, 0.0)
    assert quiet.gap


async def test_only_so_many_may_wait(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "MAX_WATCHERS", 2)
    monkeypatch.setattr(subject, "SIGNER_SECONDS", 3_600)
    await house.next(SignerRow)
    waiting = [asyncio.create_task(house.since(house.seq, 5.0)) for _ in range(2)]
    await asyncio.sleep(0.01)
    with pytest.raises(CommandRefused, match="watch this node already"):
        await house.since(house.seq, 5.0)
    house.bus.publish(ChainBack())
    assert all(page.events for page in await asyncio.gather(*waiting))


async def test_a_snapshot_has_everything_as_of_its_number(house: House) -> None:
    house.others.payments = [support.payment()]
    house.others.invoices = [support.invoice()]
    (htlc,) = house.channel.rows[CHANNEL_ID].htlcs[:1]
    house.channel.change(htlcs=(replace(htlc, payment_hash=HASH, offered=True, cltv_expiry=777),))
    house.bus.publish(ChainBack())
    await house.next(ChainLink)
    shot = await house.snapshot()
    assert (shot.run, shot.getinfo, shot.block.height, shot.synced) == (RUN, b'{"alias":"test"}', 101, True)
    assert [row.channel_id for row in shot.channels] == [CHANNEL_ID]
    assert shot.payments[0].unknown_until == 777, "the HTLC on its way says so"
    assert [row.label for row in shot.invoices] == ["tea"]
    assert [row.node_id for row in shot.peers] == [PEER_ID]
    assert house.others.limits == [subject.ROWS_SHOWN] * 2, "a long history is not read for a screen"
    assert shot.seq >= house.seq - 1
    house.bus.publish(ChainAway("after"))
    page = await house.since(shot.seq, 1.0)
    assert not page.gap and page.events
