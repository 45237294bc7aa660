"""watch: the event stream over the socket, one reply an event (DESIGN, "The outside face")."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec

from node.rpc.errors import Code, RpcError
from node.rpc.params import Arguments, Param, integer
from node.rpc.table import Context, Method, Result
from protocol.bus.bus import OutcomeUnknown
from protocol.bus.messages.events import MAX_WAIT_SECONDS, Event, EventPage, EventsSince
from protocol.errors import CommandRefused

SLACK_SECONDS = 10.0
"""Beyond the wait itself, for a node that is busy."""
BEYOND_ALL = 2**62
"""No event has this number, so the answer is where the stream stands."""


async def watch(context: Context, arguments: Arguments) -> AsyncIterator[Result]:
    return _stream(context, arguments["since"])


async def _stream(context: Context, since: int | None) -> AsyncIterator[Result]:
    """From now on, or after event `since`. Where events are lost, one reply of the kind "gap" says how far."""
    page = await _ask(context, b"", BEYOND_ALL if since is None else since, wait=0.0)
    run, seq = page.run, page.last if since is None or page.gap else since
    if since is not None and page.gap:
        yield {"kind": "gap", "seq": seq}
    while True:
        page = await _ask(context, run, seq, wait=MAX_WAIT_SECONDS)
        if page.gap:
            seq = page.last
            yield {"kind": "gap", "seq": seq}
            continue
        for event in page.events:
            yield event_object(event)
        seq = page.last


async def _ask(context: Context, run: bytes, seq: int, *, wait: float) -> EventPage:
    deadline = MAX_WAIT_SECONDS + SLACK_SECONDS
    try:
        page: EventPage = await context.bus.request("events", EventsSince(run, seq, wait), deadline=deadline)
    except (CommandRefused, OutcomeUnknown) as error:
        raise RpcError(Code.GENERIC, f"the stream ends: {error}") from error
    return page


def event_object(event: Event) -> Result:
    """The row as JSON: bytes in hex, and the kind, number and time before all else."""
    row: dict[str, Any] = _plain(msgspec.structs.asdict(event.what))
    kind = event.what.__struct_config__.tag
    return {"kind": kind, "seq": event.seq, "time": event.time, **row}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, msgspec.Struct):
        return _plain(msgspec.structs.asdict(value))
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(inner) for inner in value]
    return value


METHODS = (
    Method(
        "watch",
        (Param("since", integer(0), None),),
        watch,
        "What happens, as it happens: one reply an event, until you hang up.",
        "utility",
        waits=True,
    ),
)
