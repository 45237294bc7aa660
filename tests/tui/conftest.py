"""The interface in a terminal of a fixed size, and its pictures (SVG), made without chance and without a clock."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from tests.tui.world import Clock, FakeLine
from tui import feed as feeding
from tui.app import LnpTui

SNAPSHOTS = Path(__file__).parent / "snapshots"
ANSWERED = frozenset({"look", "invoice", "make", "run", "connect", "disconnect"})
"""Groups of workers that end by themselves, as soon as the line has answered."""
SIZES = ((80, 24), (120, 40), (200, 60))


def screen_text(app: LnpTui) -> str:
    return "\n".join(strip.text.rstrip() for strip in app.screen._compositor.render_strips())


class Run:
    """The app, its pilot, its line and its clock."""

    def __init__(self, app: LnpTui, pilot: "Pilot[None]", line: FakeLine, clock: Clock) -> None:
        self.app = app
        self.pilot = pilot
        self.line = line
        self.clock = clock

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.settle()

    async def type(self, text: str) -> None:
        """All at once, as a paste does."""
        entry = self.app.focused
        assert isinstance(entry, Input), f"nothing to type into: {entry}"
        entry.insert_text_at_cursor(text)
        await self.settle()

    async def settle(self) -> None:
        """Until nothing more is painted: what was asked is answered, and what was answered is on the screen."""
        before = ""
        async with asyncio.timeout(20):
            for _ in range(50):
                self.app.store.changed.add("all")
                self.app.paint()
                await self.pilot.pause()
                asked = [worker for worker in self.app.workers if worker.group in ANSWERED]
                await asyncio.gather(*(worker.wait() for worker in asked), return_exceptions=True)
                now = self.text()
                if now == before:
                    return
                before = now

    async def until(self, seen: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not seen():
                await self.settle()

    def text(self) -> str:
        """What stands on the screen, line by line."""
        return screen_text(self.app)

    def matches(self, name: str) -> None:
        """Compares with the picture that is kept; LNP_UPDATE_SNAPSHOTS=1 keeps the new one instead."""
        size = self.app.size
        path = SNAPSHOTS / f"{name}-{size.width}x{size.height}.svg"
        made = self.app.export_screenshot(title=name)
        if os.environ.get("LNP_UPDATE_SNAPSHOTS") == "1":
            path.parent.mkdir(exist_ok=True)
            path.write_text(made)
            return
        assert path.exists(), f"there is no {path.name}: run once with LNP_UPDATE_SNAPSHOTS=1, and look at it"
        if made != path.read_text():
            new = path.with_suffix(".new.svg")
            new.write_text(made)
            raise AssertionError(
                f"the screen differs from {path.name}; {new.name} is beside it, the text is:\n{self.text()}"
            )


Running = Callable[..., AbstractAsyncContextManager[Run]]


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> Running:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    monkeypatch.setenv("TEXTUAL_ANIMATIONS", "none")
    monkeypatch.setattr(feeding, "PAGE_SECONDS", 0)
    monkeypatch.setattr(feeding, "RETRY_SECONDS", 0.01)

    @asynccontextmanager
    async def run(
        size: tuple[int, int] = (120, 40), line: FakeLine | None = None, *, wait: bool = True
    ) -> AsyncIterator[Run]:
        used, clock = line or FakeLine(), Clock()
        app = LnpTui(lambda: used, clock=clock, paint_seconds=3_600)
        app.animation_level = "none"
        async with app.run_test(size=size) as pilot:
            run = Run(app, pilot, used, clock)
            await run.until(lambda: app.store.ready or not wait)
            await run.settle()
            yield run

    return run
