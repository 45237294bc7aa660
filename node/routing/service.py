"""The routing service: finds routes, learns from attempts, and answers what the graph holds (BOLT 7; BOLT 4).

It never moves money: payments ask for routes and tell how they fared. Searches in a large graph run in a thread of
their own, one after the other, each within a budget of work; what took no search is answered at once.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from random import Random, SystemRandom
from typing import ClassVar, TypeVar

import structlog

from node.routing import listing, refusals
from node.routing.cost import CostParameters
from node.routing.engines import LARGE, Engines, explained
from node.routing.graph import Graph
from node.routing.liquidity import Liquidity
from node.routing.query import Budget, Query, WorkExhausted
from node.routing.retries import Retries
from node.routing.scores import ScoreStore
from node.routing.shadow import shadow_delay
from protocol.amounts import Msat, ShortChannelId
from protocol.bus.bus import Bus
from protocol.bus.messages import routing
from protocol.bus.messages.routing import FirstHop, Route, RouteHop, Routes
from protocol.bus.service import Service, handles, hears
from protocol.errors import CommandRefused

log = structlog.get_logger()
T = TypeVar("T")
WORK = 400_000
"""Nodes that the searches for one request may look at: some two seconds in plain Python."""
WORK_AT_ONCE = 15_000
"""In the event loop; who needs more goes to the thread."""
SAVE_SECONDS = 60.0
PRUNE_ROUNDS = 60
_FOREIGN_SLOTS = 483


class RoutingService(Service):
    """`node_id` is ours; the graph may lack our own channels, since the first hops come with each request.

    `scores`: the file of what was learned; None keeps it in memory only. `clock`: seconds of the wall.
    """

    name: ClassVar[str] = "routing"

    def __init__(
        self,
        bus: Bus,
        *,
        node_id: bytes,
        graph: Graph | None = None,
        scores: Path | None = None,
        costs: CostParameters | None = None,
        clock: Callable[[], float] = time.time,
        random: Random | None = None,
    ) -> None:
        super().__init__(bus)
        self.graph = Graph() if graph is None else graph
        self.liquidity = Liquidity()
        self._node_id = node_id
        self._costs = CostParameters() if costs is None else costs
        self._clock = clock
        self._random = SystemRandom() if random is None else random
        self._store = None if scores is None else ScoreStore(scores)
        self._retries = Retries()
        self._engines = Engines()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="routing")

    async def start(self) -> None:
        if self._store is not None:
            scores, nodes = await self._in_thread(self._store.load)
            self.liquidity.restore(scores, nodes)
            self.run(self._save_now_and_then(self._store))
        await super().start()

    async def stop(self) -> None:
        await super().stop()
        if self._store is not None:
            await self._in_thread(partial(self._store.save, *self.liquidity.take_changes()))
        self._thread.shutdown(wait=True, cancel_futures=True)

    # Routes.

    @handles(routing.FindRoutes)
    async def find_routes(self, request: routing.FindRoutes) -> Routes:
        if request.amount_msat <= 0:
            raise CommandRefused(
                f"{request.amount_msat} msat cannot be sent", what_to_do="Give an amount above zero."
            )
        if request.max_parts < 1 or request.max_hops < 1:
            raise CommandRefused("a payment has at least one part and one hop", what_to_do="Allow one.")
        straight = self._straight(request)
        if straight is not None:
            return Routes((straight,), straight.probability)
        source, first_hops = self._node_id, request.first_hops
        if request.source is not None and request.source != source:
            source = request.source
            first_hops = await self._in_thread(partial(self._channels_of, source))
        query = self._query(request, source, first_hops)
        if self._engines.due(self.graph.channels):
            self.run(asyncio.to_thread(self._engines.load))
        if self.graph.channels < LARGE:
            try:
                return self._plan(query, request.max_parts, WORK_AT_ONCE)
            except WorkExhausted:
                pass
        return await self._in_thread(partial(self._plan_patiently, query, request.max_parts))

    def _straight(self, request: routing.FindRoutes) -> Route | None:
        """Over our own channel with the destination: nothing is cheaper, and nothing has to be searched."""
        if request.final_delay > request.max_delay or request.source not in (None, self._node_id):
            return None
        excluded = set(request.excluded)
        direction = 0 if self._node_id < request.destination else 1
        best: FirstHop | None = None
        for hop in request.first_hops:
            if (
                hop.peer == request.destination
                and hop.htlc_minimum_msat <= request.amount_msat <= hop.spendable_msat
                and hop.slots > 0
                and (hop.short_channel_id, direction) not in excluded
                and (best is None or hop.spendable_msat > best.spendable_msat)
            ):
                best = hop
        if best is None:
            return None
        amount = request.amount_msat
        only = RouteHop(request.destination, best.short_channel_id, direction, amount, request.final_delay)
        why = "straight over our channel with the destination, without a fee"
        return Route((only,), amount, Msat(0), 1.0, why)

    def _query(self, request: routing.FindRoutes, source: bytes, first_hops: tuple[FirstHop, ...]) -> Query:
        now = self._clock()
        banned = {scid << 1 | direction for scid, direction in request.excluded}
        banned.update(self._retries.banned(request.payment))
        return Query(
            self.graph,
            own=source,
            destination=request.destination,
            amount=request.amount_msat,
            final_delay=request.final_delay,
            max_fee=request.max_fee_msat,
            first_hops=first_hops,
            hints=self._retries.hints(request.payment, request.hints, request.destination),
            banned=banned,
            replaced=self._retries.replaced(request.payment, self.graph),
            closed=request.excluded_nodes,
            notes=self.liquidity.notes(),
            suspects=self.liquidity.suspects(now),
            max_delay=request.max_delay,
            max_hops=request.max_hops,
            now=now,
            whose="our" if source == self._node_id else "its",
        )

    def _channels_of(self, source: bytes) -> tuple[FirstHop, ...]:
        """Another node's channels, from the graph, for those who ask what its routes would be."""
        index = self.graph.index_of(source)
        if index is None or not self.graph.is_linked(index):
            raise CommandRefused(
                f"{source.hex()} is not in our graph of {self.graph.channels} channels",
                what_to_do="Wait until gossip has come in.",
                code=refusals.NOT_FOUND,
            )
        return tuple(
            FirstHop(
                self.graph.id_of(head),
                ShortChannelId(edge[1] >> 1),
                Msat(edge[6]),
                Msat(edge[5]),
                _FOREIGN_SLOTS,
            )
            for edge, head in self.graph.outgoing(index)
        )

    def _plan_patiently(self, query: Query, max_parts: int) -> Routes:
        try:
            return self._plan(query, max_parts, WORK)
        except WorkExhausted:
            raise refusals.exhausted(query) from None

    def _plan(self, query: Query, max_parts: int, work: int) -> Routes:
        refused = refusals.no_funds(query)
        if refused is not None:
            raise refused
        budget = Budget(work)
        engine = self._engines.for_graph(self.graph.channels)
        parts = engine.find(query, self._costs, budget, max_parts)
        if not parts:
            raise refusals.explain(query, self._engines.heap, Budget(work), max_parts)
        probability = 1.0
        for part in parts:
            probability *= part.probability
        return Routes(tuple(explained(part, engine.name, len(parts)) for part in parts), probability)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    @handles(routing.ShadowDelay)
    def shadow_delay(self, request: routing.ShadowDelay) -> int:
        return shadow_delay(self.graph, request.destination, self._random)

    # What attempts teach.

    @hears(routing.AttemptStarted)
    def attempt_started(self, event: routing.AttemptStarted) -> None:
        self.liquidity.started(event.origin, event.hops)

    @hears(routing.AttemptEnded)
    def attempt_ended(self, event: routing.AttemptEnded) -> None:
        now = self._clock()
        hops = self.liquidity.ended(
            event.origin, event.failed_at, event.code, now, self.graph.room_of, event.suspects
        )
        if event.failed_at is not None:
            self._retries.failed(event, hops)

    async def _save_now_and_then(self, store: ScoreStore) -> None:
        rounds = 0
        while True:
            await asyncio.sleep(SAVE_SECONDS)
            rounds += 1
            dropped = self.liquidity.prune(self._clock()) if rounds % PRUNE_ROUNDS == 0 else ([], [])
            changes = self.liquidity.take_changes()
            if any(changes) or any(dropped):
                await self._in_thread(partial(store.save, *changes, *dropped))

    # The graph, for listings: a large one takes a while, so the thread does it.

    @handles(routing.ListGossipNodes)
    async def list_nodes(self, request: routing.ListGossipNodes) -> routing.GossipNodes:
        return await self._in_thread(partial(listing.nodes, self.graph, request))

    @handles(routing.ListGossipChannels)
    async def list_channels(self, request: routing.ListGossipChannels) -> routing.GossipChannels:
        return await self._in_thread(partial(listing.channels, self.graph, request))
