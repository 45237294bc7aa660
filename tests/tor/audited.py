"""Runs a program of ours and writes down each try to reach somebody: `python -m tests.tor.audited FILE node run …`.

The hook sits in the interpreter itself, below every library: a connection, a datagram or a look-up by Python
code cannot pass it by. Each line of the file is a JSON list: the event, and its arguments as text.
"""

import json
import os
import runpy
import socket
import sys
from typing import Any

_BY_A_SOCKET = frozenset({"socket.connect", "socket.sendto", "socket.sendmsg"})
_LOOK_UPS = frozenset(
    {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"}
)


def _worth_writing(event: str, arguments: tuple[Any, ...]) -> list[str] | None:
    if event in _BY_A_SOCKET:
        return [event, *map(str, arguments[1:])]  # the first is the socket itself
    if event in _LOOK_UPS:
        return [event, *map(str, arguments)]
    if event == "socket.__new__":
        _, family, kind, _ = arguments
        if family != socket.AF_UNIX and kind & 0xF != socket.SOCK_STREAM:
            return [event, f"family {family}", f"type {kind}"]
    return None


def watch(path: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith("socket.") and (said := _worth_writing(event, arguments)) is not None:
            os.write(descriptor, (json.dumps(said) + "\n").encode())

    sys.addaudithook(hook)


def main() -> None:
    path, module = sys.argv[1], sys.argv[2]
    sys.argv = [module, *sys.argv[3:]]
    watch(path)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
