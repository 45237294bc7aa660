"""Bytes that once brought out an error that nobody had declared, each with the module that it hit."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from node.chain.backend import BackendUnusable
from node.chain.json_rpc import JsonRpc
from node.cli.arguments import BadUsage
from node.cli.arguments import value as command_line_value
from protocol.bitcoin.keys import parse_path
from protocol.bus.messages import signer as contract
from protocol.errors import CommandRefused, MalformedMessage
from signer import keystore
from signer.link import Link
from tests.signer.support import PASSPHRASE, make_service


def test_text_of_a_chain_backend_that_is_no_utf8_is_an_answer_that_cannot_be_used() -> None:
    with pytest.raises(BackendUnusable):
        JsonRpc("http://127.0.0.1:1", lambda: "")._result(200, b'{"result":"\x80"}')


def test_child_number_with_more_digits_than_python_converts_is_malformed() -> None:
    with pytest.raises(MalformedMessage):
        parse_path("9" * 20_000)


def test_argument_that_nests_without_end_is_bad_usage() -> None:
    with pytest.raises(BadUsage):
        command_line_value("[" * 20_000)


class Wire:
    """In place of the signer's socket: what waits in it, and what was sent."""

    def __init__(self, *waiting: bytes) -> None:
        self.waiting = list(waiting)
        self.sent: list[contract.SignerReply] = []

    def recv_multipart(self, _flags: int) -> list[bytes]:
        if not self.waiting:
            raise zmq.Again
        return [b"node", self.waiting.pop(0)]

    def send_multipart(self, frames: list[bytes], _flags: int) -> None:
        self.sent.append(contract.decode_reply(frames[1]))


@pytest.mark.parametrize(
    "request_body",
    [
        contract.encode(contract.SignMessage("abc")).replace(b"abc", b"\xff\xfe\xff"),
        b"\x82\xa4type\xa7message\xa1x" + b"\x91" * 100_000,
    ],
    ids=["no UTF-8", "endless nesting"],
)
def test_bytes_of_a_paired_node_do_not_end_the_signer(tmp_path: Path, request_body: bytes) -> None:
    service = make_service(tmp_path)
    bad = b"\x94\x07\x01\xcd\x27\x10" + request_body
    hello = contract.encode(contract.SignerCall(8, 0, 10_000, contract.Hello("regtest")))
    wire = Wire(bad, hello)
    link = Link.__new__(Link)
    vars(link).update(_service=service, _socket=wire)
    link._turn()
    answers = {reply.id: reply.reply for reply in wire.sent}
    assert isinstance(answers[8], contract.Welcome)
    assert 7 not in answers or isinstance(answers[7], contract.Refused)


@pytest.mark.parametrize("change", [{"scrypt_cost": 3}, {"nonce": b""}, {"network": b"\xff"}])
def test_damaged_keystore_is_refused_with_what_to_do(tmp_path: Path, change: dict[str, Any]) -> None:
    make_service(tmp_path).close()
    path = tmp_path / keystore.FILE_NAME
    document = msgspec.msgpack.decode(path.read_bytes())
    raw = msgspec.msgpack.encode({**document, **change})
    path.write_bytes(raw.replace(b"\xc4\x01\xff", b"\xa1\xff"))
    with pytest.raises(CommandRefused, match="damaged"):
        keystore.unlock(tmp_path, PASSPHRASE)
