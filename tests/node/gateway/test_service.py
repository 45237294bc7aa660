"""The gateway admits what stands in its table, from paired programs, and nothing else from anybody."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
import zmq

from node.gateway import bus as gate
from node.gateway import keys
from node.gateway import service as subject
from node.gateway.bus import ADMITTED, GATEWAY
from node.gateway.service import GatewayService
from protocol.amounts import Msat
from protocol.bus import registry
from protocol.bus.bus import OutcomeUnknown
from protocol.bus.local import LocalBus
from protocol.bus.messages import chain, channel, events, payments, peer, rpc, signer_link, wallet
from protocol.bus.service import Service, handles, hears
from protocol.bus.zmq_link import Answer, Ask, Event, Here, Refusal, Tell
from protocol.errors import CommandRefused
from protocol.pairing import Pairing
from tests.node.gateway.attacker import Attacker
from tui.line import NodeLine, RpcRefused

INTERNAL: tuple[tuple[str, Any], ...] = (
    ("channel", channel.FulfilHtlc(bytes(32), 1)),
    ("channel", channel.FailHtlc(bytes(32), 1, b"\x20\x02")),
    ("channel", channel.OfferHtlc(bytes(32), Msat(1), bytes(32), 500, bytes(1366), "x/0")),
    ("channel", channel.FundChannel(b"\x02" + bytes(32), None)),
    ("channel", channel.CloseChannel("00" * 32, 1)),
    ("channel", channel.LiveOrigins()),
    ("payments", payments.Pay("lnbcrt1")),
    ("payments", channel.HtlcReceived(bytes(32), 1, Msat(1), bytes(32), 1, b"", True)),
    ("payments", channel.HtlcFulfilled("x/0", bytes(32), 1, bytes(32))),
    ("peer", peer.ToPeer(b"\x02" + bytes(32), 1, (b"\x00\x11",))),
    ("peer", peer.DropPeer(b"\x02" + bytes(32), 1, "mine")),
    ("channel", peer.FromPeer(b"\x02" + bytes(32), 1, b"\x00\x11")),
    ("wallet", wallet.PlanSpend("theft", b"\x00\x14" + bytes(20), None, None)),
    ("wallet", wallet.SignAndSend("theft")),
    ("chain", chain.Broadcast(b"\x02")),
    ("chain", chain.WatchScript(b"\x00")),
)
PUBLISHED: tuple[Any, ...] = (
    signer_link.SignerLink(True, ""),
    peer.PeerUp(b"\x02" + bytes(32), 1, b""),
    chain.OutpointSpent(bytes(32), 0, b"", 1, 1),  # type: ignore[arg-type]
    chain.TipChanged(9_999_999, bytes(32), 0),  # type: ignore[arg-type]
    events.EventPage(b"", (), 7),
)


class Victim(Service):
    """Stands for every service inside; whatever reaches it is a hole."""

    name: ClassVar[str] = "channel"

    def __init__(self, bus: LocalBus) -> None:
        super().__init__(bus)
        self.reached: list[object] = []

    @handles(*{type(message) for _, message in INTERNAL})
    def asked(self, request: object) -> None:
        self.reached.append(request)

    @hears(*{type(message) for _, message in INTERNAL}, *{type(message) for message in PUBLISHED})
    def told(self, message: object) -> None:
        self.reached.append(message)


class PaymentsVictim(Victim):
    name: ClassVar[str] = "payments"


class PeerVictim(Victim):
    name: ClassVar[str] = "peer"


class WalletVictim(Victim):
    name: ClassVar[str] = "wallet"


class ChainVictim(Victim):
    name: ClassVar[str] = "chain"


class Inside(Service):
    """Answers what the table admits."""

    name: ClassVar[str] = "rpc"

    def __init__(self, bus: LocalBus) -> None:
        super().__init__(bus)
        self.ran: list[rpc.RunRpc] = []
        self.hold: asyncio.Event | None = None

    @handles(rpc.RunRpc)
    async def run_rpc(self, request: rpc.RunRpc) -> rpc.RpcDone | rpc.RpcFailed:
        self.ran.append(request)
        if self.hold is not None:
            await self.hold.wait()
        if request.method == "fails":
            return rpc.RpcFailed(200, "on its way", True)
        return rpc.RpcDone(b'{"ok":true}')

    @handles(rpc.ListMethods)
    def list_methods(self, _request: rpc.ListMethods) -> rpc.MethodTable:
        return rpc.MethodTable((rpc.MethodInfo("getinfo", "getinfo", "Who we are.", False),))


class House:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bus = LocalBus()
        self.inside = Inside(self.bus)
        self.victims = [
            kind(self.bus) for kind in (Victim, PaymentsVictim, PeerVictim, WalletVictim, ChainVictim)
        ]
        listen = ("tcp://127.0.0.1:*",)
        self.gateway = GatewayService(self.bus, directory=directory, network="regtest", listen=listen)

    def pairing(self, name: str = "test") -> Pairing:
        return keys.pair(self.directory, self.gateway.listening[0], "regtest", name)

    def reached(self) -> list[object]:
        return [message for victim in self.victims for message in victim.reached]


async def until(seen: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not seen():  # noqa: ASYNC110 - another thread of ZeroMQ is awaited
            await asyncio.sleep(0.005)


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(subject, "LOOK_SECONDS", 0.02)
    made = House(tmp_path)
    for service in (made.inside, *made.victims, made.gateway):
        await service.start()
    yield made
    for service in (made.gateway, made.inside, *made.victims):
        await service.stop()


@pytest.fixture
async def paired(house: House) -> Pairing:
    """Known to the gateway, which has opened its door anew for it."""
    pairing = house.pairing()
    key = pairing.client_public.encode()
    await until(lambda: key in house.gateway._clients)
    return msgspec.structs.replace(pairing, endpoint=house.gateway.listening[0])


async def test_a_paired_program_runs_methods(house: House, paired: Pairing) -> None:
    line = NodeLine(paired)
    await asyncio.wait_for(line.wait_up(), 10)
    assert await line.rpc("getinfo", ["a"], confirmed=True) == {"ok": True}
    assert house.inside.ran == [rpc.RunRpc("getinfo", b'["a"]', True)]
    assert [method.name for method in await line.methods()] == ["getinfo"]
    with pytest.raises(RpcRefused, match="on its way") as caught:
        await line.rpc("fails")
    assert caught.value.unknown and caught.value.code == 200
    line.close()


@pytest.mark.parametrize(("service", "message"), INTERNAL, ids=lambda one: type(one).__name__)
async def test_no_internal_request_passes(house: House, paired: Pairing, service: str, message: Any) -> None:
    """Even one whose name this process knows, which the gateway alone never registers."""
    registry.register(type(message))
    tag, body = registry.pack(message)
    with Attacker(paired) as attacker:
        for number, to in enumerate((service, GATEWAY, "events", "rpc"), 1):
            await attacker.send(Tell(to, tag, body), Ask(number, to, 5_000, tag, body))
            answer = await attacker.answer_to(number)
            assert isinstance(answer, Refusal), answer
            assert "not one of the gateway's" in answer.sentence
    assert house.reached() == []


async def test_no_event_passes(house: House, paired: Pairing) -> None:
    with Attacker(paired) as attacker, Attacker(paired) as other:
        await other.send(Here([], [registry.tag_of(registry.register(type(m))) or "" for m in PUBLISHED]))
        for message in PUBLISHED:
            await attacker.send(Event(*registry.pack(message)))
        await attacker.send(Ask(1, GATEWAY, 5_000, *registry.pack(rpc.ListMethods())))
        assert isinstance(await attacker.answer_to(1), Answer), "the line still stands"
        assert not [frame for frame in other.heard if isinstance(frame, Event)], "nor to other programs"
    assert house.reached() == []


async def test_a_program_cannot_take_the_place_of_a_service(house: House, paired: Pairing) -> None:
    with Attacker(paired) as attacker, Attacker(paired) as other:
        names = ["gateway", "channel", "signer", "events", "wallet", "new"]
        await attacker.send(Here(names, ["chain.tip_changed"]))
        await other.send(Here([], []), Ask(1, GATEWAY, 5_000, *registry.pack(rpc.ListMethods())))
        answer = await other.answer_to(1)
        assert isinstance(answer, Answer), answer
        seen = [frame.services for frame in other.heard if isinstance(frame, Here)]
        assert {name for names in seen for name in names} == {GATEWAY}
        assert not [frame for frame in attacker.heard if isinstance(frame, Ask)], "nobody is sent to it"
    assert "new" not in house.bus._ports and house.bus._ports["channel"] is house.victims[0]._inbox


@pytest.mark.parametrize(
    "raw",
    [b"", b"\x00", b"\x81", b"\xff" * 40, msgspec.msgpack.encode([1, 2]), msgspec.msgpack.encode([99, 1, 2])],
)
async def test_rubbish_on_the_line_does_no_harm(house: House, paired: Pairing, raw: bytes) -> None:
    with Attacker(paired) as attacker:
        unknown = Ask(1, GATEWAY, 5_000, "no.such.tag", b"\x80")
        await attacker.send(raw, Ask(2, GATEWAY, 5_000, "rpc.run", b"\xc1rubbish"), unknown)
        assert not isinstance(await attacker.answer_to(1), Answer)
        assert not isinstance(await attacker.answer_to(2), Answer)
        await attacker.send(Ask(3, GATEWAY, -1 << 40, *registry.pack(rpc.ListMethods())))
        await attacker.answer_to(3)
        await attacker.send(Ask(4, GATEWAY, 5_000, *registry.pack(rpc.ListMethods())))
        assert isinstance(await attacker.answer_to(4), Answer)
    assert house.inside.ran == []


async def test_open_requests_are_bounded(
    house: House, paired: Pairing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "MAX_OPEN", 3)
    house.inside.hold = asyncio.Event()
    with Attacker(paired) as attacker:
        ask = registry.pack(rpc.RunRpc("getinfo"))
        await attacker.send(*(Ask(number, GATEWAY, 60_000, *ask) for number in range(1, 5)))
        refused = await attacker.answer_to(4)
        assert isinstance(refused, Refusal) and "wait already" in refused.sentence
        house.inside.hold.set()
        assert isinstance(await attacker.answer_to(1), Answer)
        await attacker.send(Ask(5, GATEWAY, 60_000, *ask))
        assert isinstance(await attacker.answer_to(5), Answer), "room again"


async def test_a_stranger_is_not_let_in(house: House, paired: Pairing) -> None:
    public, secret = (key.decode() for key in zmq.curve_keypair())
    stranger = msgspec.structs.replace(paired, client_public=public, client_secret=secret)
    with Attacker(stranger) as attacker:
        await attacker.send(Ask(1, GATEWAY, 1_000, *registry.pack(rpc.RunRpc("getinfo"))))
        assert await attacker.hears_nothing_within(0.5)
    assert house.inside.ran == []


async def test_who_was_refused_comes_in_once_it_is_paired(
    house: House, paired: Pairing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tui.line.ANEW_SECONDS", 0.2)
    public, secret = (key.decode() for key in zmq.curve_keypair())
    endpoint = f"ipc://{house.directory / 's'}"
    house.gateway._wanted = (endpoint,)
    house.pairing("opens the new door")
    await until(lambda: house.gateway.listening == (endpoint,))
    line = NodeLine(Pairing(endpoint, paired.server_key, public, secret, "regtest"))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(line.wait_up(), 0.5)
    keys.add_client(house.directory, public.encode(), "late")
    await asyncio.wait_for(line.wait_up(), 10)
    assert await line.rpc("getinfo") == {"ok": True}
    line.close()


async def test_who_is_taken_off_the_list_is_cut_off(house: House, paired: Pairing) -> None:
    other = house.pairing("other")
    await until(lambda: other.client_public.encode() in house.gateway._clients)
    line = NodeLine(msgspec.structs.replace(paired, endpoint=house.gateway.listening[0]))
    await asyncio.wait_for(line.wait_up(), 10)
    assert keys.remove_client(house.directory, "test") == 1
    await until(lambda: not line.up)
    with pytest.raises(RpcRefused):
        await line.rpc("getinfo")
    line.close()


@pytest.mark.parametrize("trouble", ["not UTF-8", "not a file"])
async def test_who_is_taken_off_a_list_that_could_not_be_read_for_a_while_is_cut_off(
    house: House, paired: Pairing, trouble: str
) -> None:
    """An editor may leave anything there; the next look is a second later."""
    line = NodeLine(paired)
    await asyncio.wait_for(line.wait_up(), 10)
    path, seen = house.directory / keys.CLIENTS_FILE, []
    kept, read = path.read_bytes(), keys.clients

    def counted(directory: Path) -> dict[bytes, str]:
        seen.append(directory)
        return read(directory)

    if trouble == "not UTF-8":
        path.write_bytes(b"\xff\xfe " + b"\n" + kept)
    else:
        path.unlink()
        path.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keys, "clients", counted)
        await until(lambda: len(seen) >= 3)
    if trouble == "not a file":
        path.rmdir()
    path.write_bytes(kept)
    assert keys.remove_client(house.directory, "test") == 1
    await until(lambda: not line.up)
    line.close()


async def test_what_was_asked_goes_on_when_the_program_is_gone(house: House, paired: Pairing) -> None:
    """A payment is not undone because a screen was closed, and nobody is told that it was."""
    house.inside.hold = asyncio.Event()
    line = NodeLine(paired)
    await asyncio.wait_for(line.wait_up(), 10)
    asked = asyncio.create_task(line.rpc("xpay", confirmed=True))
    await until(lambda: house.inside.ran)
    house.gateway._hang_up()
    with pytest.raises(RpcRefused) as caught:
        await asked
    assert caught.value.unknown
    running = len(house.inside._tasks)
    house.inside.hold.set()
    assert running == 1, "the method itself was not cancelled"
    line.close()


def test_every_admitted_message_is_asked_for_by_the_interface() -> None:
    assert set(ADMITTED) == {events.EventsSince, events.GetSnapshot, rpc.ListMethods, rpc.RunRpc}
    assert set(ADMITTED.values()) == {"events", "rpc"}


async def test_the_bus_of_the_gateway_refuses_by_itself() -> None:
    outer = gate.GateBus()
    with pytest.raises(CommandRefused):
        await outer.request("channel", rpc.ListMethods())
    with pytest.raises((CommandRefused, OutcomeUnknown)):
        await outer.request(GATEWAY, rpc.ListMethods())


def test_a_pairing_string_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = keys.pair(tmp_path, "tcp://10.0.0.1:9737", "signet", "phone")
    assert Pairing.read(made.text()) == made
    broken = "\n ".join(made.text()[n : n + 40] for n in range(0, len(made.text()), 40))
    assert Pairing.read(broken) == made, "as a terminal broke it"
    assert made.client_secret not in repr(made)
    assert keys.clients(tmp_path) == {made.client_public.encode(): "phone"}


@pytest.mark.parametrize(
    "text", ["", "lnp-pair1:", "lnp-pair1:AAAA", "lnbc1qq", "lnp-pair1:é", "lnp-pair2:AAAA"]
)
def test_what_is_no_pairing_string_is_refused_in_words(text: str) -> None:
    with pytest.raises(CommandRefused, match="Copy the whole line"):
        Pairing.read(text)


def test_keys_are_for_our_eyes_only(tmp_path: Path) -> None:
    keys.keep_local(tmp_path, "ipc:///x", "regtest")
    for name in (keys.KEY_FILE, keys.CLIENTS_FILE, keys.LOCAL_FILE):
        assert os.stat(tmp_path / name).st_mode & 0o077 == 0, name


def test_the_local_pairing_is_made_once_and_again_when_it_no_longer_fits(tmp_path: Path) -> None:
    first = keys.keep_local(tmp_path, "ipc:///x", "regtest").read_text()
    assert keys.keep_local(tmp_path, "ipc:///x", "regtest").read_text() == first
    moved = keys.keep_local(tmp_path, "ipc:///y", "regtest").read_text()
    assert Pairing.read(moved).endpoint == "ipc:///y"
    assert list(keys.clients(tmp_path).values()) == [keys.LOCAL_NAME], "the older one is out"


def test_a_line_of_the_list_that_cannot_be_read_lets_nobody_in(tmp_path: Path) -> None:
    made = keys.pair(tmp_path, "ipc:///x", "regtest", "mine")
    path = tmp_path / keys.CLIENTS_FILE
    path.write_text(f"short name\n{'é' * 40} x\n{path.read_text()}\n{'~' * 40} y\n")
    assert list(keys.clients(tmp_path)) == [made.client_public.encode()]
    with pytest.raises(CommandRefused, match="40 characters"):
        keys.add_client(tmp_path, b"no key", "x")


def test_a_damaged_own_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / keys.KEY_FILE).write_text("half")
    with pytest.raises(CommandRefused, match="damaged"):
        keys.own_key(tmp_path)


async def test_a_bad_address_leaves_the_node_running(tmp_path: Path) -> None:
    house = House(tmp_path)
    gateway = GatewayService(
        house.bus, directory=tmp_path, network="regtest", listen=("tcp://nowhere.invalid:x",)
    )
    await gateway.start()
    assert gateway.listening == ()
    await gateway.stop()
