"""The log of the daemon: one line an event, key=value, and never a secret (STYLE, section 6)."""

import logging
import sys
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any, TextIO

import structlog

from protocol.secret import Secret

MAX_TAPPED = 500
_OWN_FIELDS = frozenset({"at", "level", "event", "exception"})
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
HIDDEN = frozenset(
    {"secret", "password", "passphrase", "preimage", "session_key", "seed", "mnemonic", "xprv"}
)


def set_up(level: str = "info", path: Path | None = None) -> None:
    """Logs to `path`, or to standard error. Names that sound like a secret are hidden whatever they hold."""
    stream: TextIO = sys.stderr if path is None else path.open("a", buffering=1, encoding="utf-8")
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
            structlog.processors.format_exc_info,
            plain,
            _to_tap,
            structlog.processors.LogfmtRenderer(key_order=["at", "level", "event"], bool_as_flag=False),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=False,
    )
    # What libraries say (asyncio above all) goes to the same place.
    logging.basicConfig(
        stream=stream,
        level=logging.WARNING,
        force=True,
        format="at=%(asctime)s level=%(levelname)s %(message)r",
    )


Tap = Callable[[str, str, str], None]
_taps: list[Tap] = []


def tap(hear: Tap) -> None:
    """From here on `hear(level, event, fields as text)` gets each line of the level `info` and above, from any
    thread. It must not log."""
    _taps.append(hear)


def untap(hear: Tap) -> None:
    if hear in _taps:
        _taps.remove(hear)


def _to_tap(_logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if _taps and method != "debug":
        fields = " ".join(f"{key}={value}" for key, value in event.items() if key not in _OWN_FIELDS)
        for hear in tuple(_taps):
            hear(method, str(event.get("event", "")), fields[:MAX_TAPPED])
    return event


def plain(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Bytes as hex, everything else as text; secrets as "hidden"."""
    for key, value in event.items():
        if key in HIDDEN or isinstance(value, Secret):
            event[key] = "hidden"
        elif isinstance(value, bytes):
            event[key] = value.hex()
    return event
