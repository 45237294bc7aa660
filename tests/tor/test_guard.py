"""The guard of the onion-only node: it dials Tor alone, and the guard sees it when a clear dialer is put back."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.tor.stacks import strays
from tests.transports.tor.fakes import ONION

SOCKS, CONTROL = 9, 10
"""Ports of loopback at which nothing listens."""
ONION_ONLY = {"mode": "system", "socks": f"127.0.0.1:{SOCKS}", "control": f"127.0.0.1:{CONTROL}"}
ADDRESSES = (f"{ONION}:9735", "node.invalid:9735", "127.0.0.1:1", "localhost:1", "[::1]:1")


def what_is_dialled(folder: Path, table: dict[str, str]) -> list[list[str]]:
    audit = folder / "audit"
    subprocess.run(
        [
            *(sys.executable, "-m", "tests.tor.audited", str(audit)),
            *("tests.tor.dials", json.dumps(table), *ADDRESSES),
        ],
        check=True,
        timeout=60,
        cwd=ROOT,
    )
    return [json.loads(line) for line in audit.read_text().splitlines()]


@pytest.mark.parametrize("clear", ["tor", "off"])
def test_onion_only_dials_the_socks_port_alone_and_resolves_nothing(tmp_path: Path, clear: str) -> None:
    seen = what_is_dialled(tmp_path, {**ONION_ONLY, "clear": clear})
    assert seen, "the onion address goes to the SOCKS port at least"
    assert strays(seen, {SOCKS, CONTROL}) == []


def test_a_clear_dialer_that_is_put_back_is_seen(tmp_path: Path) -> None:
    found = strays(what_is_dialled(tmp_path, {**ONION_ONLY, "clear": "direct"}), {SOCKS, CONTROL})
    assert ["socket.connect", "('127.0.0.1', 1)"] in found
    assert any(event == "socket.getaddrinfo" and name == "node.invalid" for event, name, *_ in found)


@pytest.mark.parametrize(
    "entry",
    [
        ["socket.connect", "('127.0.0.1', 2)"],
        ["socket.connect", "('192.0.2.1', 1)"],
        ["socket.getaddrinfo", "node.example", "9735"],
        ["socket.sendto", "('192.0.2.1', 53)"],
        ["socket.__new__", "family 2", "type 2"],
    ],
)
def test_what_goes_anywhere_else_is_a_stray(entry: list[str]) -> None:
    assert strays([["socket.connect", "('127.0.0.1', 1)"], entry], {1}) == [entry]
