"""Which transports a node has: onion only, unless it is on regtest or somebody wrote otherwise."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from node import config as settings
from node.config import Config
from node.peer import roads
from protocol.errors import CommandRefused
from tests.support import ROOT

ONION_ONLY = ("signet", "testnet", "testnet4")


def config(network: str = "signet", **more: Any) -> Config:
    document: dict[str, Any] = {
        "network": network,
        "signer": {"endpoint": "ipc:///s", "server_key": "k"},
        "bitcoind": {"url": "http://127.0.0.1:1", "cookie": "c"},
        **more,
    }
    document = {name: value for name, value in document.items() if value is not None}
    return settings.parse(document, "lnp.toml")


@pytest.mark.parametrize("network", ONION_ONLY)
def test_every_network_but_regtest_has_the_tor_road_alone(network: str):
    wanted = roads.wanted(config(network))
    assert list(wanted) == ["tor"]
    assert (wanted["tor"].settings["mode"], wanted["tor"].settings["clear"]) == ("managed", "tor")


def test_regtest_is_clear():
    assert list(roads.wanted(config("regtest"))) == ["tcp"]
    assert list(roads.wanted(config("regtest", tor={"mode": "system"}))) == ["tor", "tcp"]


def test_a_clear_dialer_has_to_be_asked_for_by_name():
    assert list(roads.wanted(config(tor={"clear": "direct"}))) == ["tor", "tcp"]
    assert list(roads.wanted(config(tor={"clear": "direct", "mode": "off"}))) == ["tcp"]
    assert list(roads.wanted(config(tor={"clear": "off"}))) == ["tor"]


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("tcp", "transports.tcp:TcpTransport"),
        ("tor", "somebody.else:Tor"),
        ("pigeon", "transports.tcp:TcpTransport"),
    ],
)
def test_no_other_table_brings_a_clear_dialer_back(name: str, place: str):
    with pytest.raises(CommandRefused, match="table tor decides"):
        roads.wanted(config(transports={name: place}))


@pytest.mark.parametrize(
    ("table", "value", "setting"),
    [
        ("bitcoind", {"url": "http://localhost:1"}, "bitcoind.url"),
        ("bitcoind", {"url": "http://127.0.0.1:1", "zmq": "tcp://node:2"}, "bitcoind.zmq"),
        ("signer", {"endpoint": "tcp://signer.example:3", "server_key": "k"}, "signer.endpoint"),
    ],
)
def test_a_name_that_would_have_to_be_resolved_is_refused(table: str, value: dict[str, str], setting: str):
    with pytest.raises(CommandRefused, match=f"{setting} names the host"):
        roads.wanted(config(**{table: value}))
    assert roads.wanted(config(**{table: value}, tor={"clear": "direct"}))


def test_an_electrum_server_of_strangers_is_reached_through_tor_or_not_at_all():
    def wanted(url: str, tor: dict[str, str] | None = None, **more: str):
        return roads.wanted(config(bitcoind=None, electrum={"url": url, **more}, tor=tor or {}))

    with pytest.raises(CommandRefused, match="would be dialled from this machine"):
        wanted("ssl://1.1.1.1:50002")
    with pytest.raises(CommandRefused, match=r"electrum\.url names the host"):
        wanted("ssl://server.example:50002")
    assert wanted("ssl://server.example:50002", socks="127.0.0.1:9050")
    assert wanted("ssl://1.1.1.1:50002", {"clear": "direct"})
    assert wanted("tcp://127.0.0.1:50001")


def test_no_road_at_all_is_refused():
    with pytest.raises(CommandRefused, match="no road to any peer"):
        roads.wanted(config(tor={"mode": "off", "clear": "off"}))


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"mode": "on"}, "tor.mode cannot be 'on'"),
        ({"clear": "yes"}, "tor.clear cannot be 'yes'"),
        ({"mode": "off"}, "cannot go through Tor"),
        ({"sox": "x"}, "no setting tor.sox"),
    ],
)
def test_a_wrong_tor_setting_is_named(table: dict[str, str], words: str):
    with pytest.raises(CommandRefused, match=words):
        config(tor=table)


def test_tor_settings_are_saved_and_read_again(tmp_path: Path):
    directory = tmp_path / "signet"
    directory.mkdir()
    made = config(tor={"mode": "system", "password": "p", "onion_port": 80, "options": []})
    settings.save(directory, made)
    assert settings.load(directory) == made
    assert "socks" not in (directory / settings.FILE).read_text()


LOADED = """
import sys
from pathlib import Path
from node import daemon
from node.peer import roads, transports
from tests.node.peer.test_roads import config
made = transports.load(roads.wanted(config({network!r}, **{more!r})), Path({folder!r}))
print(" ".join(made))
print("transports.tcp" in sys.modules)
"""


def loaded(folder: Path, network: str, **more: Any) -> tuple[str, str]:
    """In a process of its own: which transports the daemon makes, and if the clear dialer's code is there."""
    code = LOADED.format(network=network, more=more, folder=str(folder))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60, cwd=ROOT
    )
    names, has_tcp = done.stdout.split("\n")[:2]
    return names, has_tcp


def test_an_onion_only_process_has_no_code_for_a_clear_dial(tmp_path: Path):
    assert loaded(tmp_path, "signet") == ("tor", "False")


def test_this_guard_sees_a_clear_dialer_that_is_put_back(tmp_path: Path):
    assert loaded(tmp_path, "signet", tor={"clear": "direct"}) == ("tor tcp", "True")
