"""The bus inside one process."""

import asyncio
import gc
from typing import Any, ClassVar

import msgspec
import pytest
from structlog.testing import capture_logs

from protocol.bus.bus import OutcomeUnknown, ServiceFailed
from protocol.bus.local import LocalBus
from protocol.bus.service import Service, handles, hears
from protocol.errors import CommandRefused


class Add(msgspec.Struct, frozen=True):
    left: int
    right: int


class SlowAdd(msgspec.Struct, frozen=True):
    left: int
    right: int


class Break(msgspec.Struct, frozen=True):
    pass


class Note(msgspec.Struct, frozen=True):
    text: str


class Adder(Service):
    name: ClassVar[str] = "adder"

    def __init__(self, bus: Any) -> None:
        super().__init__(bus)
        self.heard: list[Note] = []
        self.turns: list[int] = []
        self.gate = asyncio.Event()
        self.cancelled = 0

    @handles(Add)
    def add(self, request: Add) -> int:
        if request.left < 0:
            raise CommandRefused("only natural numbers", what_to_do="Leave the sign out.", code=7)
        return request.left + request.right

    @handles(SlowAdd)
    async def slow_add(self, request: SlowAdd) -> int:
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return request.left + request.right

    @handles(Break)
    def broken(self, request: Break) -> int:
        return 1 // 0

    @hears(Note)
    def note(self, event: Note) -> None:
        if event.text == "poison":
            raise ValueError("poisoned")
        self.heard.append(event)

    def after_turn(self) -> None:
        self.turns.append(len(self.heard))


class Reader(Service):
    name: ClassVar[str] = "reader"

    def __init__(self, bus: Any) -> None:
        super().__init__(bus)
        self.heard: list[Note] = []

    @hears(Note)
    def note(self, event: Note) -> None:
        self.heard.append(event)


@pytest.fixture
async def adder() -> Any:
    service = Adder(LocalBus())
    await service.start()
    yield service
    await service.stop()


async def turn() -> None:
    """Everything that waits is handled within two rounds of the loop."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_a_request_gets_the_reply_of_its_handler(adder: Adder) -> None:
    assert await adder.bus.request("adder", Add(2, 3)) == 5


async def test_a_refusal_of_the_handler_is_raised_at_the_caller(adder: Adder) -> None:
    with pytest.raises(CommandRefused, match="natural") as caught:
        await adder.bus.request("adder", Add(-1, 3))
    assert caught.value.code == 7


async def test_an_async_handler_does_not_hold_up_the_others(adder: Adder) -> None:
    slow = asyncio.ensure_future(adder.bus.request("adder", SlowAdd(1, 1)))
    await turn()
    assert await adder.bus.request("adder", Add(2, 3)) == 5
    assert not slow.done()
    adder.gate.set()
    assert await slow == 2


async def test_a_late_answer_means_that_the_outcome_is_unknown(adder: Adder) -> None:
    with pytest.raises(OutcomeUnknown, match="SlowAdd within"):
        await adder.bus.request("adder", SlowAdd(1, 1), deadline=0.01)
    assert adder.cancelled == 0, "the work goes on: only the answer is no longer awaited"


async def test_an_unknown_service_and_an_unknown_request_are_refused(adder: Adder) -> None:
    with pytest.raises(CommandRefused, match="subtractor is not running"):
        await adder.bus.request("subtractor", Add(1, 1))
    with pytest.raises(CommandRefused, match="does not know the request Note"):
        await adder.bus.request("adder", Note("?"))


async def test_sends_arrive_in_order_and_share_one_turn(adder: Adder) -> None:
    await turn()
    adder.turns.clear()
    notes = [Note(str(number)) for number in range(5)]
    for note in notes:
        adder.bus.send("adder", note)
    assert adder.heard == [], "nothing is handled inside send"
    await turn()
    assert adder.heard == notes
    assert all(got is sent for got, sent in zip(adder.heard, notes, strict=True)), "handed over by reference"
    assert adder.turns == [5]


async def test_a_published_event_reaches_everybody_who_hears_its_type(adder: Adder) -> None:
    reader = Reader(adder.bus)
    await reader.start()
    adder.bus.publish(Note("news"))
    adder.bus.publish(Add(1, 1))
    await turn()
    assert adder.heard == reader.heard == [Note("news")]
    await reader.stop()
    adder.bus.publish(Note("later"))
    await turn()
    assert reader.heard == [Note("news")]


async def test_a_bug_in_a_handler_is_logged_and_does_not_stop_the_service(adder: Adder) -> None:
    with capture_logs() as logs:
        adder.bus.send("adder", Note("poison"))
        adder.bus.send("adder", Note("fine"))
        await turn()
        with pytest.raises(ServiceFailed, match="ZeroDivisionError"):
            await adder.bus.request("adder", Break())
    assert adder.heard == [Note("fine")]
    bugs = [(line["service"], line["message"]) for line in logs if line["event"] == "bug"]
    assert bugs == [("adder", "Note"), ("adder", "Break")]


async def test_a_message_to_nobody_is_lost_with_a_line_in_the_log(adder: Adder) -> None:
    with capture_logs() as logs:
        adder.bus.send("subtractor", Note("?"))
        adder.bus.send("adder", Add(1, 1))
        await turn()
    assert [line["event"] for line in logs] == ["message_lost", "message_not_heard"]


async def test_messages_wait_until_the_service_is_started() -> None:
    bus = LocalBus()
    service = Adder(bus)
    bus.send("adder", Note("early"))
    answer = asyncio.ensure_future(bus.request("adder", Add(1, 2)))
    await turn()
    assert service.heard == []
    await service.start()
    assert await answer == 3
    assert service.heard == [Note("early")]
    await service.stop()


async def test_stop_refuses_what_was_not_begun_and_leaves_the_rest_unknown(adder: Adder) -> None:
    begun = asyncio.ensure_future(adder.bus.request("adder", SlowAdd(1, 1)))
    await turn()
    waiting = asyncio.ensure_future(adder.bus.request("adder", Add(1, 1)))
    await asyncio.sleep(0)
    adder._inbox.close()
    await adder.stop()
    with pytest.raises(OutcomeUnknown):
        await begun
    with pytest.raises(CommandRefused, match="not running"):
        await waiting
    assert adder.cancelled == 1


async def test_wake_gives_one_turn_without_a_message(adder: Adder) -> None:
    await turn()
    adder.turns.clear()
    adder.wake()
    adder.wake()
    await turn()
    assert adder.turns == [0]


async def test_two_services_of_one_name_and_two_methods_for_one_request_are_mistakes(adder: Adder) -> None:
    with pytest.raises(ValueError, match="already"):
        Adder(adder.bus)
    with pytest.raises(TypeError, match="two methods"):

        class Twice(Service):
            name: ClassVar[str] = "twice"

            @handles(Add)
            def one(self, request: Add) -> None: ...

            @handles(Add)
            def two(self, request: Add) -> None: ...

    with pytest.raises(TypeError, match="plain method"):

        @hears(Note)
        async def late(event: Note) -> None: ...


async def test_a_message_costs_few_microseconds(adder: Adder) -> None:
    """DESIGN, Throughput: no task per message. Ten times what is measured on a quiet machine still passes."""
    loop = asyncio.get_running_loop()
    note, send = Note("x"), adder.bus.send
    begin = loop.time()
    for _ in range(20_000):
        send("adder", note)
    await turn()
    assert len(adder.heard) == 20_000
    assert (loop.time() - begin) / 20_000 < 10e-6


async def test_a_task_that_never_began_ends_quietly_with_its_service(
    recwarn: pytest.WarningsRecorder,
) -> None:
    adder = Adder(LocalBus())
    await adder.start()
    adder.run(adder.gate.wait())
    await adder.stop()
    await asyncio.sleep(0)
    gc.collect()
    assert not recwarn.list
