"""Nothing on the node's side can spend: its files, its log and its messages hold no key and no unrevealed secret.

Two nodes run in this process with their signers as real processes, so that every message on their buses, to their
peers and to their signers can be written down. What the signers keep is read from their own files at the end.
"""

import asyncio
import base64
import json
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from zmq.utils import z85

from node import config, daemon, log
from node.demo.stack import PASSPHRASE, Node, RpcRefused, Stack
from node.signer_link.client import SignerClient
from protocol.amounts import Msat
from protocol.bitcoin import mnemonic
from protocol.bitcoin.keys import ExtendedKey
from protocol.bitcoin.network import REGTEST
from protocol.bolt11.encode import unsigned
from protocol.bolt11.invoice import InvoiceTerms
from protocol.bus.local import LocalBus
from protocol.bus.messages import signer as contract
from protocol.curve import sign_recoverable
from protocol.secret import Secret
from signer import channels, keystore
from signer.books import Books
from signer.initialise import open_keys
from signer.keys import PURPOSE, NodeKeys
from signer.service import DATABASE
from signer.storage import Storage
from tests.whole.secrets_search import find, forms_of
from tests.whole.support import ask, folder, open_channel, settled, until

AMOUNT = 21_000_000


class Tap:
    """Everything that was said, as msgpack and as Python would print it."""

    def __init__(self) -> None:
        self.places: dict[str, bytearray] = {
            "bus": bytearray(),
            "signer link": bytearray(),
            "rpc": bytearray(),
        }
        self.messages = 0

    def note(self, place: str, message: object) -> None:
        self.messages += 1
        raw = message if isinstance(message, bytes) else msgspec.msgpack.encode(message, enc_hook=_opened)
        self.places[place] += raw + b"\0"
        if not isinstance(message, bytes):
            self.places[place] += repr(message).encode() + b"\0"


def _opened(value: object) -> object:
    """What hides a secret from people does not hide it from this test."""
    return value.reveal() if isinstance(value, Secret) else str(value)


class TappedBus(LocalBus):
    tap: Tap

    async def request(self, service_name: str, message: object, *, deadline: float = 30.0) -> Any:
        self.tap.note("bus", message)
        answer = await super().request(service_name, message, deadline=deadline)
        self.tap.note("bus", answer)
        return answer

    def send(self, service_name: str, message: object) -> None:
        self.tap.note("bus", message)
        super().send(service_name, message)

    def publish(self, event: object) -> None:
        self.tap.note("bus", event)
        super().publish(event)


class TappedSigner(SignerClient):
    tap: Tap

    def _send(self, number: int, request: contract.Request, callback: Any, deadline: float) -> None:
        self.tap.note("signer link", contract.encode(request))
        super()._send(number, request, callback, deadline)

    def _on_frames(self, frames: list[bytes]) -> None:
        self.tap.note("signer link", b"".join(frames))
        super()._on_frames(frames)


class Held:
    """What one signer holds: `hidden` may never be found; `revealed` must be, or the search is wrong."""

    def __init__(self, node: Node) -> None:
        network, contents = keystore.unlock(node.signer_dir, Secret(PASSPHRASE))
        assert network == REGTEST.name
        words = contents.mnemonic.reveal().decode()
        seed = mnemonic.seed_of(contents.mnemonic)
        master = ExtendedKey.from_seed(seed, REGTEST)
        keys = open_keys(REGTEST, contents)
        self.node_secret = keys.node_secret.reveal()
        self.hidden: dict[str, bytes] = {
            "words": words.encode(),
            "entropy": mnemonic.entropy_of(contents.mnemonic).reveal(),
            "seed": seed.reveal(),
            "passphrase": PASSPHRASE,
            "CURVE secret": contents.curve_secret.reveal(),
            "node secret": self.node_secret,
            "invoice secret": keys.invoice_secret.reveal(),
            **_extended("master", master),
            **_extended("purpose", master.derive((PURPOSE + (1 << 31),))),
            **_extended("wallet account", master.derive(keys.wallet_path)),
        }
        for branch in range(3):
            for index in range(4):
                self.hidden[f"wallet key {branch}/{index}"] = keys.wallet_secret(branch, index).reveal()
        self.revealed: dict[str, bytes] = {}
        storage = Storage(node.signer_dir / DATABASE)
        try:
            self._channels(storage, keys)
            self._invoices(storage, keys)
        finally:
            storage.close()

    def _channels(self, storage: Storage, keys: NodeKeys) -> None:
        found = channels.load(storage, keys)
        assert found, "the signer knows no channel: nothing was tested"
        for channel in found.values():
            for name in ("funding", "payment", "delayed_payment", "revocation", "htlc", "commitment_seed"):
                self.hidden[f"channel {name}"] = getattr(channel.secrets, name).reveal()
            assert channel.state is not None
            revoked = channel.state.holder_revoked
            assert revoked >= 4, "too few commitments were revoked to test anything"
            for number in range(revoked, revoked + 4):
                self.hidden[f"commitment secret {number}"] = channel.secret(number)
            for point in channel.state.points.values():
                self.hidden[f"htlc key at {point.hex()[:8]}"] = channel.htlc_secret(point)
            for number in range(revoked):
                self.revealed[f"commitment secret {number}"] = channel.secret(number)

    def _invoices(self, storage: Storage, keys: NodeKeys) -> None:
        books = Books(storage, keys)
        for (payment_hash,) in storage.all("SELECT payment_hash FROM invoice"):
            released = storage.one("SELECT 1 FROM release WHERE payment_hash = ?", (payment_hash,))
            one = books.invoice(bytes(payment_hash), bytes(16))
            assert one is not None
            kind = self.hidden if released is None else self.revealed
            kind[f"preimage of {bytes(payment_hash).hex()[:8]}"] = one.preimage.reveal()


def _extended(name: str, key: ExtendedKey) -> dict[str, bytes]:
    return {f"{name} key": key.secret().reveal(), f"{name} xprv": key.to_private_string().reveal()}


def files_below(*directories: Path) -> Iterator[tuple[str, bytes]]:
    for directory in directories:
        for path in sorted(directory.rglob("*")):
            if path.is_file():
                yield (
                    path.name if path.parent == directory else f"{directory.name}/{path.name}",
                    path.read_bytes(),
                )


def values_of(database: Path) -> bytes:
    """Every value of every table: in the file itself a long one is cut into pages."""
    found = bytearray()
    db = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for row in db.execute(f'SELECT * FROM "{table}"'):
                for value in row:
                    found += (value if isinstance(value, bytes) else str(value).encode()) + b"\0"
    finally:
        db.close()
    return bytes(found)


@pytest_asyncio.fixture
async def life(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[list[Held], dict[str, bytes]]]:
    """A whole life of a channel; what the signers hold, and every place of the node's side."""
    tap = Tap()
    TappedBus.tap = TappedSigner.tap = tap
    monkeypatch.setattr(daemon, "LocalBus", TappedBus)
    monkeypatch.setattr(daemon, "SignerClient", TappedSigner)
    with folder() as place, Stack(place) as stack:
        nodes = list(stack.nodes.values())
        log.set_up("debug", place / "debug.log")
        try:
            await asyncio.to_thread(stack.chain.start)
            running = []
            for node in nodes:
                await asyncio.to_thread(node.init)
                directory = node.datadir / REGTEST.name
                settings = config.load(directory)
                running.append(asyncio.create_task(daemon.run(directory, settings)))
                await until(f"{node.name} to answer", lambda node=node: node.try_call("getinfo"))
            await _live(stack, tap)
            places = {name: data for node in nodes for name, data in files_below(node.datadir)}
            for node in nodes:
                await ask(node, "stop")
            for task in running:
                assert await asyncio.wait_for(task, 30) == 0
            for node in nodes:
                node.signer.stop()
                places |= {f"{node.name} {name} at rest": data for name, data in files_below(node.datadir)}
                places[f"{node.name} values"] = values_of(node.datadir / REGTEST.name / daemon.DATABASE)
            places["debug.log"] = (place / "debug.log").read_bytes()
            places |= {name: bytes(data) for name, data in tap.places.items()}
            yield [Held(node) for node in nodes], places
        finally:
            log.set_up("warning")


async def _live(stack: Stack, tap: Tap) -> None:
    """Open, pay both ways, fail, ask this and that, close."""
    alice, bob = stack.nodes["alice"], stack.nodes["bob"]

    async def said(node: Node, method: str, *positional: Any, **named: Any) -> dict[str, Any]:
        answer = await ask(node, method, *positional, **named)
        tap.note("rpc", json.dumps(answer).encode())
        return answer

    await asyncio.to_thread(open_channel, stack, push_msat=500_000_000)
    for payer, payee, label in ((alice, bob, "there"), (bob, alice, "back"), (alice, bob, "again")):
        invoice = await said(payee, "invoice", AMOUNT, label, label)
        await said(payer, "xpay", invoice["bolt11"])
    await said(bob, "invoice", AMOUNT, "never paid", "unpaid")
    with pytest.raises(RpcRefused):
        await said(alice, "xpay", _unknown_to(bob))
    for node in (alice, bob):
        await said(node, "signmessage", "hello")
        for method in (
            "getinfo",
            "listpays",
            "listinvoices",
            "listpeerchannels",
            "listfunds",
            "listpeers",
            "help",
        ):
            await said(node, method)
    await until("quiet channels", lambda: settled(alice, bob))
    (channel,) = (await said(alice, "listpeerchannels"))["channels"]
    await said(alice, "close", channel["channel_id"])
    stack.chain.mine(1)
    await until("the money", lambda: len(alice.call("listfunds")["outputs"]) >= 2)


def _unknown_to(node: Node) -> str:
    """A genuine invoice of this node for a payment that it does not know: the HTLC goes there and comes back."""
    _, contents = keystore.unlock(node.signer_dir, Secret(PASSPHRASE))
    terms = InvoiceTerms(
        prefix="bcrt",
        amount_msat=Msat(AMOUNT),
        timestamp=int(time.time()),
        payment_hash=bytes(range(32)),
        payment_secret=bytes(range(32)),
        description="unknown",
        features=frozenset({8, 14}),
    )
    made = unsigned(terms)
    return made.with_signature(
        *sign_recoverable(open_keys(REGTEST, contents).node_secret.reveal(), made.digest)
    )


async def test_no_file_log_or_message_of_the_node_holds_what_can_spend(
    life: tuple[list[Held], dict[str, bytes]],
) -> None:
    held, places = life
    assert len(places["bus"]) > 50_000 and len(places["signer link"]) > 20_000
    assert any(name.endswith("node.db") for name in places) and any("node.db-wal" in name for name in places)
    assert b"event=htlc_refused" in places["debug.log"], "no HTLC was failed"
    found = []
    for one in held:
        assert len(one.hidden) >= 30
        found += find(one.hidden, places)
    assert not found, "\n".join(found)
    # What was revealed on purpose is found by the same search: it looks where such bytes go.
    for one in held:
        for name, secret in one.revealed.items():
            raw = [place for place, data in places.items() if secret in data]
            assert "signer link" in raw, name
            assert "bus" in raw, name
    # And a leak would be found: any secret, in any form, in any place.
    secret = held[0].hidden["channel funding"]
    for encoding, pattern in forms_of(secret):
        leak = {**places, "debug.log": places["debug.log"][:1000] + pattern + places["debug.log"][1000:2000]}
        assert any("debug.log" in line for line in find({"funding": secret}, leak)), encoding


@pytest.mark.parametrize("at", range(6))
def test_the_search_finds_a_planted_secret_at_any_place_of_an_encoding(at: int) -> None:
    secret = bytes(range(100, 132))
    data = bytes([7]) * at + secret + bytes([9]) * (8 - at) + bytes(2 * 20)
    for encode in (bytes, base64.b64encode, base64.urlsafe_b64encode, base64.b32encode, z85.encode):
        text = encode(data)
        assert find({"one": secret}, {"here": b"before" + text + b"after"}), encode
    assert find({"one": secret}, {"here": json.dumps(list(data)).encode()})
    assert find({"one": secret}, {"here": str(int.from_bytes(secret, "little")).encode()})
    assert not find({"one": secret}, {"here": bytes(reversed(range(100, 131))) * 3})


def test_the_search_finds_a_part_of_a_mnemonic() -> None:
    words = "legal winner thank year wave sausage worth useful legal winner thank yellow"
    assert find({"words": words.encode()}, {"log": b"x sausage worth useful legal x"})
    assert not find({"words": words.encode()}, {"log": b"wave sausage, worth; useful"})
