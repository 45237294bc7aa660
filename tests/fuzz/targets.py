"""Every decoder that takes bytes from outside, as one function of bytes each, with the errors that it declares.

A target is called with arbitrary bytes. It may return, or raise one of its declared errors; anything else is a bug.
The seeds are real encodings, so that a small change reaches the depths of a decoder.
"""

import base64
import contextlib
import hmac
import json
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from node import config
from node.chain import blocks
from node.chain.backend import BackendAway, BackendUnusable
from node.chain.json_rpc import JsonRpc
from node.chain.json_rpc import RpcError as ChainError
from node.cli.arguments import BadUsage
from node.cli.arguments import params as cli_params
from node.peer.events import LocalNode, StaticKeyNeeded
from node.peer.session import Session
from node.rpc.catalogue import METHODS
from node.rpc.errors import RpcError
from node.rpc.params import bind
from node.rpc.stream import JsonStream, NotJson, TooLarge
from protocol import curve, messages_signing
from protocol.amounts import BlockHeight, Msat, Sat, ShortChannelId, parse_scid
from protocol.bitcoin import address, base58, bech32, descriptor, mnemonic, psbt
from protocol.bitcoin.keys import ExtendedKey, parse_path
from protocol.bitcoin.network import REGTEST
from protocol.bitcoin.script import p2wpkh
from protocol.bitcoin.transaction import OutPoint, Reader, Transaction, TxIn, TxOut
from protocol.bolt4 import failure, failure_onion, payload, sphinx
from protocol.bolt8.ciphers import BrokenFrame, Decryptor, Encryptor
from protocol.bolt8.handshake import Initiator
from protocol.bolt8.static_key import mix_static
from protocol.bolt9 import OUR_INIT, ChannelType, FeatureSet, check_peer_init
from protocol.bolt11 import bech32 as bolt11_bech32
from protocol.bolt11.decode import decode as decode_invoice
from protocol.bus import registry, zmq_link
from protocol.bus.messages import chain, channel, node, payments, peer, signer_link, wallet
from protocol.bus.messages import signer as contract
from protocol.errors import CommandRefused, MalformedMessage, PeerViolation
from protocol.secret import Secret
from protocol.transport import LinkProfile, parse_host_port
from protocol.wire import Message, bolt1, bolt2_update, decode, encode, message_types
from protocol.wire.bolt2_open import OpenChannel
from protocol.wire.compiler import declared_fields
from protocol.wire.fields import Fixed
from signer import keystore
from signer.service import SignerService
from tests.signer.support import PASSPHRASE, Node, make_service

OURS, THEIRS = bytes([1]) * 32, bytes([2]) * 32
KEY = Secret(bytes([3]) * 32)
MODULES = (chain, channel, node, payments, peer, signer_link, wallet)
INVOICE = (  # BOLT 11, "Examples": a donation of any amount
    "lnbc1pvjluezsp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygspp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcy"
    "q5rqwzqfqypqdpl2pkx2ctnv5sxxmmwwd5kgetjypeh2ursdae8g6twvus8g6rfwvs8qun0dfjkxaq9qrsgq357wnc5r2ueh7ck6q93dj32dlqnls0"
    "87fxdwk8qakdyafkq3yap9us6v52vjjsrvywa6rt52cm9r9zqt8r2t7mlcwspyetp5h2tztugp9lfyql"
)


class Target(NamedTuple):
    run: Callable[[bytes], object]
    declared: tuple[type[Exception], ...]
    seeds: tuple[bytes, ...]


def text_of(data: bytes) -> str:
    """Every text that a client or a file may bring."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def of_text(run: Callable[[str], object]) -> Callable[[bytes], object]:
    return lambda data: run(text_of(data))


# Peers.


def wire(data: bytes) -> None:
    message = decode(data)
    if isinstance(message, Message):
        assert encode(decode(encode(message))) == encode(message)


def init_message(data: bytes) -> None:
    message = decode(data)
    if isinstance(message, bolt1.Init):
        check_peer_init(OUR_INIT, FeatureSet.from_bytes(message.features))


def frames(data: bytes) -> None:
    decryptor = Decryptor(KEY, KEY)
    half = len(data) // 2
    decryptor.feed(data[:half])
    decryptor.feed(data[half:])


def _session() -> Session:
    local = LocalNode(curve.point_of(OURS), OUR_INIT, REGTEST.chain_hash)
    return Session.accept(local, ephemeral=KEY, profile=LinkProfile(latency=0.001), now=0.0)


def handshake(data: bytes) -> None:
    """A stranger's bytes from the first one on: the session raises nothing, whatever they are."""
    session = _session()
    for event in session.receive(data, 0.0):
        if isinstance(event, StaticKeyNeeded):
            request = event.request
            mixed = mix_static(OURS, request.chaining_key.reveal(), request.remote_ephemeral)
            session.static_key_mixed(*mixed, 0.0)
            session.receive(data, 0.0)


def live_session(data: bytes) -> None:
    """The bytes as a message of a peer whose handshake and init were good."""
    session, caller = _session(), Initiator(Secret(THEIRS), curve.point_of(OURS), curve.point_of(THEIRS))
    (event,) = session.receive(caller.act_one(), 0.0)
    assert isinstance(event, StaticKeyNeeded)
    mixed = mix_static(OURS, event.request.chaining_key.reveal(), event.request.remote_ephemeral)
    session.static_key_mixed(*mixed, 0.0)
    caller.receive_act_two(session.take_output())
    request = caller.static_request
    assert request is not None
    act_three, keys = caller.finish(
        mix_static(THEIRS, request.chaining_key.reveal(), request.remote_ephemeral)
    )
    encrypt = Encryptor(keys.sending_key, keys.chaining_key).encrypt
    session.receive(act_three, 0.0)
    hello = encode(bolt1.Init(b"", OUR_INIT.to_bytes(), bolt1.InitTlvs()))
    session.receive(encrypt(hello) + encrypt(data[:65_535]), 0.0)


def onion(data: bytes) -> None:
    sphinx.peel(Secret(OURS), data, bytes(32))


def failures(data: bytes) -> None:
    failure.decode(data)
    failure_onion.unwrap([Secret(OURS), Secret(THEIRS)], data)


def failure_of_hop(data: bytes) -> None:
    """A body that the failing hop wrote itself, well encrypted."""
    size = len(data).to_bytes(2, "big")
    keys = failure_onion.failure_keys(Secret(OURS))
    body = size + data + bytes(2)
    packet = hmac.digest(keys.um.reveal(), body, "sha256") + body
    found = failure_onion.unwrap([Secret(OURS)], failure_onion.wrap(keys, packet))
    assert found is not None and found.hop_index == 0


# The chain and the wallet.


def transaction(data: bytes) -> None:
    tx = Transaction.parse(data)
    assert Transaction.parse(tx.serialize()) == tx


def block(data: bytes) -> None:
    blocks.header_of(data)
    blocks.transactions_of(data)


def reader(data: bytes) -> None:
    one = Reader(data)
    one.compact()
    one.var_bytes()
    one.transaction()


def psbt_work(data: bytes) -> None:
    """Parsed, and then everything that a signer does with it before it decides."""
    parsed = psbt.parse(data)
    assert psbt.parse(parsed.serialize()).tx == parsed.tx
    for index in range(len(parsed.inputs)):
        psbt.input_to_sign(parsed, index)
    with contextlib.suppress(ValueError):  # the one word for "not signed yet"
        psbt.finalize(parsed)


def backend(data: bytes) -> None:
    one = JsonRpc("http://127.0.0.1:1", lambda: "")
    for status in (200, 500):
        one._result(status, data)


# Signer, bus, RPC, files.


@cache
def _signer() -> tuple[SignerService, Node]:
    service = make_service(Path(tempfile.mkdtemp(prefix="lnp-fuzz-")))
    return service, Node(service)


def signer_request(data: bytes) -> None:
    """Whatever a request says, the answer is a decision, and never the trace of a bug."""
    call = contract.decode_call(data)
    service, asking = _signer()
    if not isinstance(call.request, contract.Hello):
        call = msgspec.structs.replace(call, session=asking.session, deadline_ms=1000)
    (reply,) = service.handle_batch([call])
    assert "internal" not in getattr(reply.reply, "tag", ""), reply
    if isinstance(reply.reply, contract.Welcome):
        asking.session = reply.reply.session


def bus_message(data: bytes) -> None:
    """The first byte picks the type."""
    tags = _tags()
    registry.unpack(tags[data[0] % len(tags)] if data else "", data[1:])


@cache
def _tags() -> tuple[str, ...]:
    for module in MODULES:
        registry.register_module(module)
    return ("", *sorted(registry._types), "no.such.tag")


def json_stream(data: bytes) -> None:
    """As the RPC's connection does it, in two pieces."""
    stream, half = JsonStream(), len(data) // 2
    for text in [*stream.feed(data[:half]), *stream.feed(data[half:])]:
        msgspec.json.decode(text)


def rpc_params(data: bytes) -> None:
    """Any JSON as the parameters of every method."""
    given = msgspec.json.decode(data)
    for method in METHODS.values():
        for params in (given, [given], {param.name: given for param in method.params}):
            try:
                bind(method.name, method.params, params)
            except RpcError as error:
                msgspec.json.encode(error.to_json())


def command_line(data: bytes) -> None:
    words = text_of(data).split()
    cli_params(words, by_name="=" in words[0] if words else False)


def settings(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name) / "regtest"
        directory.mkdir()
        (directory / config.FILE).write_bytes(data)
        config.load(directory)


def sealed_keys(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / keystore.FILE_NAME).write_bytes(data)
        keystore.unlock(Path(name), PASSPHRASE)


# Seeds.


def _default(field: Any) -> Any:
    if isinstance(field, Fixed) and field.form == "int":
        return 1
    if isinstance(field, Fixed):
        value = curve.point_of(OURS) if field.form == "point" else bytes([7]) * field.size
        return Secret(value) if field.form == "secret" else value
    return None


def _plain_messages() -> Iterator[bytes]:
    """One of each message that has only fields of fixed size, beside those that are written out."""
    yield encode(bolt1.Init(b"", OUR_INIT.to_bytes(), bolt1.InitTlvs(networks=(REGTEST.chain_hash,))))
    yield encode(bolt1.Error(bytes(32), b"text"))
    yield encode(bolt1.Ping(4, b"12"))
    yield encode(bolt2_update.CommitmentSigned(bytes(32), bytes(64), (bytes(64), bytes(64))))
    yield encode(bolt2_update.UpdateAddHtlc(bytes(32), 1, Msat(2), bytes(32), 700, bytes(1366)))
    for kind in message_types().values():
        fields = {
            name: _default(field) for name, field in declared_fields(kind) if not isinstance(field, type)
        }
        if fields and None not in fields.values():
            yield encode(kind(**fields))
    assert OpenChannel.TYPE in message_types()


def _tx() -> Transaction:
    script = p2wpkh(curve.point_of(OURS))
    coin = TxIn(OutPoint(bytes([9]) * 32, 1), b"", 0xFFFFFFFD, (bytes(71), curve.point_of(OURS)))
    return Transaction(2, (coin,), (TxOut(Sat(1000), script), TxOut(Sat(0), b"\x6a\x01x")), 5)


def _psbt() -> bytes:
    tx = _tx()
    bare = Transaction(2, tuple(TxIn(i.outpoint, b"", i.sequence) for i in tx.inputs), tx.outputs, 5)
    return psbt.create(bare, [TxOut(Sat(2000), p2wpkh(curve.point_of(OURS)))])


def _onion() -> bytes:
    final = payload.encode_final(
        payload.FinalPayload(
            amt_to_forward=1000, outgoing_cltv_value=700, payment_secret=bytes(32), total_msat=1000
        )
    )
    return sphinx.build(KEY, [(curve.point_of(OURS), final)], bytes(32)).packet


def _final() -> bytes:
    return sphinx.peel(Secret(OURS), _onion(), bytes(32)).payload


def _calls() -> tuple[bytes, ...]:
    asked: tuple[contract.Request, ...] = (
        contract.Hello("regtest"),
        contract.StaticKeyStep(bytes(32), curve.point_of(THEIRS)),
        contract.PeelOnions((contract.OnionToPeel(_onion(), bytes(32)),)),
        contract.ChannelRequest(bytes(16), (contract.RevokeHolder(0), contract.LearnPreimage(bytes(32)))),
        contract.SignMessage("text"),
        contract.SignPsbt(_psbt()),
        contract.ChannelNumbers(),
    )
    return tuple(contract.encode(contract.SignerCall(n, 1, 1000, one)) for n, one in enumerate(asked))


def _replies() -> tuple[bytes, ...]:
    said: tuple[contract.Reply, ...] = (
        contract.NotNow("later"),
        contract.StaticKeyStepped(bytes(32), bytes(32)),
        contract.ChannelAnswer((contract.Validated(), contract.Revoked(bytes(32), bytes(33))), None),
        contract.Refused("tag", "rule", "seen", "limit", "next"),
    )
    return tuple(contract.encode(contract.SignerReply(n, one)) for n, one in enumerate(said))


@cache
def _keystore() -> bytes:
    with tempfile.TemporaryDirectory() as name:
        make_service(Path(name)).close()
        return (Path(name) / keystore.FILE_NAME).read_bytes()


def _block() -> bytes:
    return bytes(80) + b"\x02" + _tx().serialize() * 2


_SETTINGS = b"""network = "regtest"
alias = "a"
listen = ["127.0.0.1:0"]
[signer]
endpoint = "ipc:///x"
server_key = "k"
[bitcoind]
url = "http://127.0.0.1:1"
cookie = "c"
"""
_XPUB = (
    "tpubD6NzVbkrYhZ4XHndKkuB8FifXm8r5FQHwrN6oZuWCz13qb93rtgKvD4P"
    "QsqC4HP4yhV3tA2fqr2RbY5mNXfM7RxXUoeABoDtsFUq2zJq6YK"
)
_DESCRIPTOR = f"wpkh([d34db33f/84h/1h/0h]{_XPUB}/<0;1>/*)"
_WORDS = b"abandon " * 11 + b"about"
_BAD = (MalformedMessage,)
_MSGPACK = (msgspec.MsgspecError, ValueError, RecursionError)
"""What msgspec raises for bytes that are no message: a text that is no UTF-8 is a ValueError of its own."""
_OUTGOING = Encryptor(KEY, KEY)

TARGETS: dict[str, Target] = {
    "wire message": Target(wire, _BAD, tuple(_plain_messages())),
    "init": Target(init_message, (MalformedMessage, PeerViolation), tuple(_plain_messages())[:1]),
    "feature bits": Target(FeatureSet.from_bytes, (), (OUR_INIT.to_bytes(),)),
    "channel type": Target(ChannelType.parse, (), (b"\x10\x00", b"\x40\x10\x00")),
    "BOLT 8 frames": Target(frames, (BrokenFrame,), (_OUTGOING.encrypt(b"one") + _OUTGOING.encrypt(b"two"),)),
    "BOLT 8 handshake": Target(
        handshake, (), (Initiator(KEY, curve.point_of(OURS), curve.point_of(THEIRS)).act_one(),)
    ),
    "peer session": Target(live_session, (), tuple(_plain_messages())),
    "onion": Target(onion, (sphinx.OnionError,), (_onion(),)),
    "final payload": Target(payload.decode_final, (sphinx.OnionError,), (_final(),)),
    "forward payload": Target(
        payload.decode_forward,
        (sphinx.OnionError,),
        (payload.encode_forward(payload.ForwardPayload(ShortChannelId(77), Msat(1000), BlockHeight(700))),),
    ),
    "failure": Target(failures, _BAD, (failure.encode(failure.FinalIncorrectHtlcAmount(Msat(5))),)),
    "failure of a hop": Target(failure_of_hop, (), (failure.encode(failure.MppTimeout()),)),
    "invoice": Target(of_text(decode_invoice), _BAD, (INVOICE.encode(), INVOICE.upper().encode())),
    "invoice bech32": Target(of_text(bolt11_bech32.decode), _BAD, (INVOICE.encode(),)),
    "PSBT": Target(psbt_work, _BAD, (_psbt(),)),
    "PSBT base64": Target(of_text(psbt.parse), _BAD, (base64.b64encode(_psbt()),)),
    "address": Target(
        of_text(lambda text: address.script_pubkey_of(text, REGTEST)),
        _BAD,
        (b"bcrt1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqdku202", b"mipcBbFg9gMiCh81Kj8tqqdgoZub1ZJRfn"),
    ),
    "bech32": Target(of_text(bech32.decode), _BAD, (b"bcrt1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqdku202",)),
    "base58check": Target(of_text(base58.decode_check), _BAD, (b"mipcBbFg9gMiCh81Kj8tqqdgoZub1ZJRfn",)),
    "extended key": Target(
        of_text(lambda text: ExtendedKey.from_string(text, REGTEST)),
        (*_BAD, curve.InvalidKey),
        (_XPUB.encode(),),
    ),
    "derivation path": Target(of_text(parse_path), _BAD, (b"m/84h/1'/0/2147483647",)),
    "descriptor": Target(
        of_text(lambda text: descriptor.parse(text, REGTEST)),
        _BAD,
        (_DESCRIPTOR.encode(), descriptor.with_checksum(_DESCRIPTOR).encode()),
    ),
    "mnemonic": Target(lambda data: mnemonic.entropy_of(Secret(data)), _BAD, (_WORDS,)),
    "transaction": Target(transaction, _BAD, (_tx().serialize(), _tx().serialize(witness=False))),
    "block": Target(block, _BAD, (_block(),)),
    "reader": Target(reader, _BAD, (b"\x01\x00" + _tx().serialize(),)),
    "bitcoind's answer": Target(
        backend,
        (ChainError, BackendAway, BackendUnusable),
        (b'{"result": {"a": 1}, "error": null, "id": 1}', b'{"error": {"code": -5, "message": "no"}}'),
    ),
    "signed message": Target(
        of_text(lambda text: messages_signing.signer_of(b"text", text)),
        _BAD,
        (messages_signing.encode(bytes(range(64)), 1).encode(),),
    ),
    "short channel id": Target(of_text(parse_scid), (ValueError,), (b"700000x1x0",)),
    "host and port": Target(of_text(parse_host_port), (ValueError,), (b"127.0.0.1:9735", b"[::1]:1")),
    "signer's requests": Target(signer_request, _MSGPACK, _calls()),
    "signer's replies": Target(contract.decode_reply, _MSGPACK, _replies()),
    "signer's keystore": Target(sealed_keys, (CommandRefused,), (_keystore(),)),
    "bus message": Target(bus_message, _BAD, (b"\x03\x81\xa4type\xa1x", b"\x01\x80")),
    "bus frame": Target(zmq_link._decode, _MSGPACK, (msgspec.msgpack.encode(zmq_link.Tell("a", "b", b"c")),)),
    "JSON-RPC stream": Target(
        json_stream,
        (NotJson, TooLarge, msgspec.DecodeError, RecursionError, UnicodeDecodeError),
        (b'{"id": 1, "method": "getinfo"}\n{"id": "2", "params": ["\\"}"]}',),
    ),
    "RPC parameters": Target(
        rpc_params,
        (msgspec.DecodeError, RecursionError, UnicodeDecodeError),
        tuple(json.dumps(one).encode() for one in ("1000msat", -1, 1.5, [None], {"a": "0.1btc"}, "1" * 30)),
    ),
    "command line": Target(command_line, (BadUsage,), (b"lbl=1 [1,2] {} 5", b"a=[1] b=null")),
    "settings": Target(settings, (CommandRefused,), (_SETTINGS,)),
}
