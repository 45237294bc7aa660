"""Keeps the store fed: a snapshot, then what happens since, a few times a second at most; again after a loss."""

import asyncio

import structlog

from protocol.bus.bus import OutcomeUnknown
from protocol.errors import CommandRefused
from tui.line import Line
from tui.store import Store

log = structlog.get_logger()
WAIT_SECONDS = 5.0
"""A line that is quiet for so long answers an empty page, so the age of the data is never a guess."""
PAGE_SECONDS = 0.25
RETRY_SECONDS = 1.0


async def feed(line: Line, store: Store) -> None:
    while True:
        if not line.up:
            store.lost("the node does not answer; it is tried again all the time")
        await line.wait_up()
        try:
            store.replace(await line.snapshot())
            await _follow(line, store)
        except (CommandRefused, OutcomeUnknown) as error:
            store.lost(str(error))
        await asyncio.sleep(RETRY_SECONDS)


async def _follow(line: Line, store: Store) -> None:
    """Until there is a gap; then the caller takes a snapshot."""
    while True:
        page = await line.since(store.run, store.seq, WAIT_SECONDS)
        if page.gap:
            return
        store.apply(page.events, page.last)
        await asyncio.sleep(PAGE_SECONDS)
