"""reserve and tower, as whoever asks for them reads the answer."""

from typing import Any, ClassVar

import pytest

from node.rpc.catalogue import METHODS
from node.rpc.errors import RpcError
from node.rpc.params import bind
from node.rpc.table import Context, NodeFacts
from protocol.amounts import Sat
from protocol.bitcoin.network import REGTEST
from protocol.bus.local import LocalBus
from protocol.bus.messages import reserve as said
from protocol.bus.messages.tower import GetTowerStatus, TowerStatus
from protocol.bus.service import Service, handles

FACTS = NodeFacts(b"\x02" * 33, "alice", b"\0\0\0", REGTEST, "", "1")
REPORT = said.ReserveReport(
    "enforce", Sat(15_580), Sat(9_210), Sat(6_370), Sat(0), 1, 1, 0, 0, Sat(9_210), Sat(0), Sat(0), 1,
    "bcrt1address", "Run `lnp reserve topup`, or send 6370 sat to bcrt1address.",
)  # fmt: skip


class Keeper(Service):
    name: ClassVar[str] = "reserve"

    def __init__(self, bus: LocalBus) -> None:
        super().__init__(bus)
        self.asked: list[object] = []

    @handles(said.GetReserve)
    def report(self, _request: said.GetReserve) -> said.ReserveReport:
        return REPORT

    @handles(said.TopUpReserve, said.ReturnReserve)
    def move(self, request: object) -> said.ReserveMoved:
        self.asked.append(request)
        return said.ReserveMoved(Sat(7_000), Sat(150), b"\x01\x02", bytes(31) + b"\x09")


class Tower(Service):
    name: ClassVar[str] = "tower"
    answer = TowerStatus("", 0, 0, 0, None, "")

    @handles(GetTowerStatus)
    def status(self, _request: GetTowerStatus) -> TowerStatus:
        return self.answer


class World:
    def __init__(self) -> None:
        self.bus = LocalBus()
        self.keeper, self.tower = Keeper(self.bus), Tower(self.bus)

    async def call(self, name: str, *given: Any) -> Any:
        method = METHODS[name]
        for service in (self.keeper, self.tower):
            await service.start()
        context = Context(self.bus, FACTS, METHODS, lambda: None)
        try:
            return await method.handler(context, bind(name, method.params, list(given)))
        finally:
            for service in (self.keeper, self.tower):
                await service.stop()


async def test_reserve_says_what_is_lacking_and_where_to_send_it() -> None:
    found = await World().call("reserve")
    assert (found["mode"], found["needed_msat"], found["short_msat"]) == ("enforce", 15_580_000, 6_370_000)
    assert (found["channels"], found["htlcs"], found["address"]) == (1, 1, "bcrt1address")
    assert "lnp reserve topup" in found["what_to_do"]


@pytest.mark.parametrize(
    ("given", "request_made"),
    [
        (("topup",), said.TopUpReserve(None)),
        (("topup", 7000), said.TopUpReserve(Sat(7_000))),
        (("return",), said.ReturnReserve()),
    ],
)
async def test_reserve_is_filled_and_emptied(given: tuple[Any, ...], request_made: object) -> None:
    world = World()
    moved = await world.call("reserve", *given)
    assert world.keeper.asked == [request_made]
    assert (moved["amount_msat"], moved["fee_msat"], moved["tx"]) == (7_000_000, 150_000, "0102")
    assert moved["txid"].startswith("09")


@pytest.mark.parametrize("given", [("return", 7000), ("status", 7000), ("empty",), ("topup", "all")])
async def test_reserve_refuses_what_it_does_not_understand(given: tuple[Any, ...]) -> None:
    world = World()
    with pytest.raises(RpcError):
        await world.call("reserve", *given)
    assert not world.keeper.asked


async def test_tower_says_how_to_have_one() -> None:
    off = await World().call("tower")
    assert off["enabled"] is False and "[tower]" in off["what_to_do"]


async def test_tower_says_what_waits_and_why() -> None:
    world = World()
    world.tower.answer = TowerStatus("/usb/tower", 900, 2, 3, 1_700_000_000, "no space")
    found = await world.call("tower", "status")
    assert found == {
        "enabled": True, "file": "/usb/tower", "bytes": 900, "written": 2, "pending": 3,
        "written_at": 1_700_000_000, "error": "no space",
    }  # fmt: skip
