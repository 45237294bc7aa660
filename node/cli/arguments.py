"""From words of the command line to JSON, and where the daemon's socket is (as `lightning-cli` reads its arguments)."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from node.cli.client import SOCKET_NAME

_INTEGER = re.compile(r"-?[0-9]{1,18}")
_LITERALS: dict[str, Any] = {"null": None, "true": True, "false": False}


class BadUsage(Exception):
    pass


def value(word: str) -> Any:
    """Numbers, literals, lists and objects as JSON; everything else is text."""
    if word in _LITERALS:
        return _LITERALS[word]
    if _INTEGER.fullmatch(word):
        return int(word)
    if word[:1] in ("[", "{"):
        try:
            return json.loads(word)
        except (ValueError, RecursionError) as error:
            raise BadUsage(f"{word[:60]!r} starts like JSON but is not: {error}") from error
    return word


def params(words: Sequence[str], *, by_name: bool) -> list[Any] | dict[str, Any]:
    if not by_name:
        return [value(word) for word in words]
    named: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise BadUsage(f"with -k every argument is NAME=VALUE, not {word[:60]!r}")
        if name in named:
            raise BadUsage(f"{name} is given twice")
        named[name] = value(text)
    return named


def data_directory(given: str | None, environment: Mapping[str, str] = os.environ) -> Path:
    if given is not None:
        return Path(given).expanduser()
    base = (
        environment.get("XDG_DATA_HOME")
        or Path(environment.get("HOME", "~")).expanduser() / ".local" / "share"
    )
    return Path(base) / "lnp"


def socket_path(data_dir: Path, network: str | None) -> Path:
    """That of the network; without one, of the only network whose daemon has a socket."""
    if network is not None:
        return data_dir / network / SOCKET_NAME
    found = sorted(data_dir.glob(f"*/{SOCKET_NAME}"))
    if len(found) > 1:
        names = ", ".join(path.parent.name for path in found)
        raise BadUsage(f"there are daemons for several networks ({names}): give --network")
    return found[0] if found else data_dir / "regtest" / SOCKET_NAME
