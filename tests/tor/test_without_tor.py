"""A node whose tor is not there: it runs, says what to do, and goes on trying."""

import json
import socket
from collections.abc import Iterator

import pytest

from node.demo.stack import Node, RpcRefused, Stack, free_port, wait_for
from tests.transports.tor.fakes import ONION

STRANGER = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
SOCKS, CONTROL = free_port(), free_port()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with Stack(tmp_path_factory.mktemp("n"), names=("carol",)) as stack:
        carol = stack.nodes["carol"]
        carol.use_tor(SOCKS, CONTROL)
        stack.start()
        yield carol


def test_it_runs_and_says_what_to_install_or_set(node: Node) -> None:
    def down() -> object:
        (road,) = node.call("getinfo")["roads"]
        return road if road["state"] == "down" else None

    road = wait_for("the node to see that there is no tor", down, seconds=30)
    for words in (f"127.0.0.1:{SOCKS}", f"127.0.0.1:{CONTROL}", "apt-get install tor", "tor.mode = managed"):
        assert words in road["what"], json.dumps(road)


def test_a_dial_is_refused_with_the_reason(node: Node) -> None:
    with pytest.raises(
        RpcRefused, match=rf"SOCKS port 127.0.0.1:{SOCKS} does not answer .* is tor running\?"
    ):
        node.call("connect", f"{STRANGER}@{ONION}:9735")


def test_a_clear_address_is_not_dialled_instead(node: Node) -> None:
    with pytest.raises(
        RpcRefused, match=r"is a clear address, and tor\.clear does not send those through Tor"
    ):
        node.call("connect", f"{STRANGER}@8.8.8.8:9735")


def test_it_goes_on_trying(node: Node) -> None:
    assert node.daemon.log.read_text().count("event=tor_trouble") == 1  # said once, not at each try
    with socket.create_server(("127.0.0.1", CONTROL)) as server:
        server.settimeout(45)
        visitor, _ = server.accept()
        visitor.close()
