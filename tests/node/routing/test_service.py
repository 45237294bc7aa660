"""The service on the bus: what it answers, refuses, learns and keeps."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import pytest_asyncio

from node.routing import engines
from node.routing import service as module
from node.routing.graph import Graph
from node.routing.query import Budget
from node.routing.service import RoutingService
from protocol.amounts import Msat
from protocol.bolt4.failure import FailureCode
from protocol.bolt11.invoice import HopHint
from protocol.bus.local import LocalBus
from protocol.bus.messages import routing
from protocol.bus.messages.routing import (
    AttemptEnded,
    AttemptStarted,
    FindRoutes,
    ListGossipChannels,
    ListGossipNodes,
    Routes,
    ShadowDelay,
)
from protocol.bus.registry import pack, register_module, unpack
from protocol.errors import CommandRefused
from tests.node.routing import mainnet
from tests.node.routing.support import US, at, first, node, put, ways
from tests.node.routing.test_retries import update
from tests.support import need


class World:
    """The service over a graph that the test fills, with a clock that the test turns."""

    def __init__(self, scores: Path | None = None) -> None:
        self.bus = LocalBus()
        self.now = 1_000.0
        self.graph = Graph()
        self.service = RoutingService(
            self.bus,
            node_id=US,
            graph=self.graph,
            scores=scores,
            clock=lambda: self.now,
            random=Random(1),
        )

    async def find(
        self, destination: int, amount: int = 1_000, *hops: routing.FirstHop, **more: Any
    ) -> Routes:
        request = {"final_delay": 18, "max_fee_msat": Msat(10**9), **more}
        found: Routes = await self.bus.request(
            "routing",
            FindRoutes(
                destination=node(destination),
                amount_msat=Msat(amount),
                first_hops=hops or (first(1),),
                **request,
            ),
        )
        return found

    async def refusal(
        self, destination: int, amount: int = 1_000, *hops: routing.FirstHop, **more: Any
    ) -> CommandRefused:
        with pytest.raises(CommandRefused) as refused:
            await self.find(destination, amount, *hops, **more)
        return refused.value

    async def attempt(
        self, routes: Routes, failed_at: int | None, code: int | None = None, raw: bytes | None = None
    ) -> None:
        for number, route in enumerate(routes.routes):
            self.bus.send("routing", AttemptStarted(f"pay/{number}", route.hops))
            self.bus.send("routing", AttemptEnded(f"pay/{number}", failed_at, code, raw))
        await asyncio.sleep(0)


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    put(world.graph, 1, 1, 2, base=500, cltv=10)
    put(world.graph, 2, 2, 3, base=1000, cltv=40)
    await world.service.start()
    yield world
    await world.service.stop()


async def test_a_route_with_its_reasons(world: World):
    routes = await world.find(3)
    (route,) = routes.routes
    assert ways(route) == [900, 1, 2] and route.fee_msat == 1500
    assert 0.9 < route.probability <= 1 and routes.probability == route.probability
    assert "1500 msat" in route.why and "68 blocks" in route.why


async def test_a_direct_channel_is_answered_without_a_search(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Budget, "spend", lambda *_: pytest.fail("it searched"))
    (route,) = (await world.find(1, 1_000, first(1, number=900), first(1, number=901, spendable=500))).routes
    assert ways(route) == [900] and (route.fee_msat, route.probability, route.hops[0].delay) == (0, 1.0, 18)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"excluded": ((at(900), 0),)}, "none of our channels"),
        ({"max_delay": 17}, "for 18 blocks, 17 are allowed"),
    ],
    ids=["excluded", "delay"],
)
async def test_a_direct_channel_keeps_the_limits_too(world: World, more: dict[str, Any], says: str):
    assert says in str(await world.refusal(1, 1_000, **more))


async def test_amounts_beyond_a_direct_channel_go_another_way_in_part(world: World):
    put(world.graph, 5, 2, 1)
    routes = await world.find(
        1, 10_000_000, first(1, spendable=6_000_000), first(2, number=901, spendable=6_000_000)
    )
    assert {ways(route)[0] for route in routes.routes} == {900, 901}
    assert sum(route.amount_msat for route in routes.routes) == 10_000_000


@pytest.mark.parametrize(
    ("request_", "code", "says"),
    [
        ({"destination": 77}, 205, "not in our graph of 2 channels"),
        ({"destination": 3, "max_fee_msat": Msat(1499)}, 206, "costs 1500 msat, 1499 msat are allowed"),
        ({"destination": 3, "max_delay": 67}, 206, "for 68 blocks, 67 are allowed"),
        ({"destination": 3, "max_hops": 2}, 206, "has 3 hops, 2 are allowed"),
        ({"destination": 3, "amount": 10**12 + 1}, 215, "can send 1000000000000 msat now"),
        (
            {"destination": 3, "amount": 15 * 10**9},
            220,
            "no route carries 15000000000 msat in up to 16 parts",
        ),
        ({"destination": 3, "excluded": ((at(2), 0),)}, 205, "was excluded"),
        ({"destination": 3, "excluded_nodes": (node(2),)}, 205, "no way leads from our 1 peer"),
        ({"destination": 3, "excluded": ((at(900), 0),)}, 215, "none of our channels"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_refusal_names_what_is_missing(world: World, request_: dict[str, Any], code: int, says: str):
    refused = await world.refusal(**request_)
    assert refused.code == code and says in str(refused)
    assert refused.what_to_do


async def test_a_disabled_way_in_is_named(world: World):
    put(world.graph, 2, 2, 3, flags=2)
    refused = await world.refusal(3)
    assert refused.code == 205 and "no channel that leads to" in str(refused)


async def test_nothing_is_not_an_amount(world: World):
    assert "0 msat cannot be sent" in str(await world.refusal(3, 0))
    assert "at least one part" in str(await world.refusal(3, 5, max_parts=0))


async def test_another_nodes_route_uses_its_channels_of_the_graph(world: World):
    routes = await world.find(3, 1_000, source=node(1))
    assert [ways(route) for route in routes.routes] == [[1, 2]] and routes.routes[0].fee_msat == 1000
    assert "not in our graph" in str(await world.refusal(3, 1_000, source=node(50)))


async def test_hints_and_paying_ourselves(world: World):
    chain = (HopHint(node(3), at(70), 7, 0, 9),)
    assert ways((await world.find(60, 1_000, hints=(chain,))).routes[0]) == [900, 1, 2, 70]
    put(world.graph, 901, 2, 0, base=3)
    around = await world.find(0, 1_000, first(1), first(2, number=901))
    assert ways(around.routes[0]) == [900, 1, 901]


async def test_an_attempt_that_failed_is_learned_from_and_forgotten_with_time(world: World):
    put(world.graph, 3, 2, 3, base=90_000)
    routes = await world.find(3)
    await world.attempt(routes, 2, FailureCode.TEMPORARY_CHANNEL_FAILURE)
    assert ways((await world.find(3)).routes[0]) == [900, 1, 3]
    world.now += 7 * 86_400
    assert ways((await world.find(3)).routes[0]) == [900, 1, 2]


async def test_what_is_in_flight_is_not_promised_twice(world: World):
    put(world.graph, 3, 2, 3, base=90_000)
    routes = await world.find(3, 9 * 10**9)
    world.bus.send("routing", AttemptStarted("pay/0", routes.routes[0].hops))
    await asyncio.sleep(0)
    again = await world.find(3, 9 * 10**8, max_parts=1)
    assert ways(again.routes[0])[-1] != ways(routes.routes[0])[-1]


async def test_checklist_34_new_terms_count_for_the_retry_of_that_payment(world: World):
    routes = await world.find(3)
    await world.attempt(routes, 2, FailureCode.FEE_INSUFFICIENT, update(base=2_000))
    assert (await world.find(3, payment="pay")).routes[0].fee_msat == 2_500
    assert (await world.find(3, payment="other")).routes[0].fee_msat == 1_500
    policy = world.graph.policy(at(2), 0)
    assert policy is not None and policy.fee_base_msat == 1_000


async def test_scores_are_kept_over_a_restart(tmp_path: Path):
    path = tmp_path / "scores.db"
    for expected in ([900, 1, 2], [900, 1, 3]):
        world = World(path)
        put(world.graph, 1, 1, 2)
        put(world.graph, 2, 2, 3)
        put(world.graph, 3, 2, 3, base=100)
        await world.service.start()
        routes = await world.find(3)
        assert ways(routes.routes[0]) == expected
        await world.attempt(routes, 2, FailureCode.TEMPORARY_CHANNEL_FAILURE)
        await world.service.stop()


async def test_scores_are_saved_in_the_background(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(module, "PRUNE_ROUNDS", 1)
    world = World(tmp_path / "scores.db")
    put(world.graph, 1, 1, 2)
    put(world.graph, 2, 2, 3)
    saved = threading.Event()
    await world.service.start()
    assert world.service._store is not None
    save = world.service._store.save
    world.service._store.save = lambda *rows: (save(*rows), saved.set())[0]  # type: ignore[method-assign]
    await world.attempt(await world.find(3), 2, FailureCode.TEMPORARY_CHANNEL_FAILURE)
    async with asyncio.timeout(5):
        await asyncio.to_thread(saved.wait, 5)
    assert len(world.service._store.load()[0]) == 2
    await world.service.stop()


async def test_a_search_that_takes_too_much_work_goes_to_the_thread_and_ends_there(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "WORK_AT_ONCE", 1)
    assert ways((await world.find(3)).routes[0]) == [900, 1, 2]
    monkeypatch.setattr(module, "WORK", 1)
    assert "within the work" in str(await world.refusal(3))


async def test_the_loop_goes_on_while_a_large_graph_is_searched(monkeypatch: pytest.MonkeyPatch):
    """The aim is 100 ms; the thread hands the interpreter back every five. Machines that run tests are shared."""
    world = World()
    mainnet.read().load(world.graph)
    monkeypatch.setattr(world.service._engines, "due", lambda _channels: False)
    await world.service.start()
    loop = asyncio.get_running_loop()
    longest, turns, done = 0.0, 0, False

    async def beat() -> None:
        nonlocal longest, turns
        while not done:
            began = loop.time()
            await asyncio.sleep(0)
            longest = max(longest, loop.time() - began)
            turns += 1

    world.graph.core()
    hop = routing.FirstHop(world.graph.id_of(0), at(900), Msat(10**12), Msat(0), 30)
    beating = asyncio.ensure_future(beat())
    for number in range(100, 110):
        destination = world.graph.id_of(number)
        asked = FindRoutes(destination, Msat(50_000), 18, Msat(10**9), (hop,))
        await world.bus.request("routing", asked)
    done = True
    await beating
    await world.service.stop()
    assert longest < 0.5 and turns > 20


async def test_the_extras_are_loaded_beside_the_first_search_in_a_large_graph(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    need("paths", engines.has("numpy", "scipy"), "numpy and scipy are not installed")
    monkeypatch.setattr(engines, "LARGE", 1)
    monkeypatch.setattr(module, "LARGE", 1)
    loaded = asyncio.Event()
    loop, load = asyncio.get_running_loop(), world.service._engines.load
    monkeypatch.setattr(
        world.service._engines, "load", lambda: (load(), loop.call_soon_threadsafe(loaded.set))
    )
    assert "found by heap" in (await world.find(3)).routes[0].why
    async with asyncio.timeout(30):
        await loaded.wait()
    assert "found by scipy" in (await world.find(3)).routes[0].why


async def test_listings(world: World):
    world.graph.put_node(node(2), 77, b"two", b"\1\2\3", b"\x02", b"")
    nodes = await world.bus.request("routing", ListGossipNodes())
    assert {(found.node_id, found.last_timestamp, found.alias) for found in nodes.nodes} == {
        (node(1), None, b""),
        (node(2), 77, b"two"),
        (node(3), None, b""),
    }
    assert (await world.bus.request("routing", ListGossipNodes(node(9)))).nodes == ()
    (one,) = (await world.bus.request("routing", ListGossipChannels(source=node(1)))).channels
    assert (one.source, one.destination, one.short_channel_id, one.direction) == (node(1), node(2), at(1), 0)
    assert (one.base_fee_msat, one.delay, one.active, one.amount_msat) == (500, 10, True, 10_000_000_000)
    (other,) = (await world.bus.request("routing", ListGossipChannels(destination=node(3)))).channels
    assert other.short_channel_id == at(2)
    assert len((await world.bus.request("routing", ListGossipChannels())).channels) == 2
    assert (await world.bus.request("routing", ListGossipChannels(at(44)))).channels == ()
    put(world.graph, 1, 1, 2, flags=2)
    (one,) = (await world.bus.request("routing", ListGossipChannels(at(1)))).channels
    assert not one.active


async def test_shadow_blocks_are_asked_for_on_the_bus(world: World):
    assert await world.bus.request("routing", ShadowDelay(node(3))) > 0


async def test_requests_and_answers_may_cross_to_another_process(world: World):
    register_module(routing)
    routes = await world.find(3)
    assert unpack(*pack(routes)) == routes
    request = FindRoutes(node(3), Msat(5), 18, Msat(1), (first(1),), payment="pay")
    assert unpack(*pack(request)) == request
