"""What routes cost, against searches that miss nothing on the same knowledge (`exact`), while payments run and teach.

Each time a node of a simulated network asks its router for a route, the exact search answers the same question with
the same graph, the same bounds learned and the same balances of the node's own channels.
"""

from collections.abc import Callable

import pytest
from msgspec import Struct
from msgspec.structs import replace

from node.routing.cost import FEES_ONLY, CostParameters
from node.routing.engines import Engines, has
from protocol.amounts import Msat
from protocol.bus.messages.routing import FindRoutes, Routes
from tests.node.routing.test_parts import planner
from tests.simulation.books import audit, balances
from tests.simulation.exact import Knowledge, best_path, cost_of, least_fee_in_parts
from tests.simulation.net import Net, simulate
from tests.simulation.node import Node
from tests.simulation.topology import Edge, Shape, scale_free
from tests.simulation.traffic import LARGE, MIXED, storm
from tests.support import need

AIM = 1.02
HUGE = ((1_000_000_000, 4_000_000_000),)
FULL = CostParameters()


class Compared(Struct):
    """Sums over all questions that had an answer in one part, or in several."""

    asked: int = 0
    fees: float = 0
    least_fees: float = 0
    cost: float = 0
    least_cost: float = 0
    worst: float = 1.0


def knowledge_of(node: Node) -> Knowledge:
    router = node.router
    now = router._clock()
    return Knowledge(
        router.graph, node.node_id, router.liquidity.notes(), dict(router.liquidity.suspects(now)), now
    )


def watch_single(net: Net, costs: CostParameters, compared: Compared) -> None:
    def found(node: Node, request: FindRoutes, routes: Routes) -> None:
        if len(routes.routes) > 1 or len(routes.routes[0].hops) == 1:
            return
        (route,) = routes.routes
        knowledge = knowledge_of(node)
        best = best_path(knowledge, request, costs)
        assert best is not None, "the engine found a path where there is none"
        cost = cost_of(knowledge, request, costs, route)
        compared.asked += 1
        compared.fees += route.fee_msat
        compared.least_fees += best.fee_msat
        compared.cost += cost
        compared.least_cost += best.cost
        assert cost >= best.cost - 1e-6, "the exact search missed a path"
        compared.worst = max(compared.worst, cost / max(best.cost, 1.0))

    net.routes_found = found


def watch_parts(net: Net, compared: Compared) -> None:
    def found(node: Node, request: FindRoutes, routes: Routes) -> None:
        if len(routes.routes) == 1:
            return
        least = least_fee_in_parts(knowledge_of(node), request)
        assert least is not None, "the engine found parts where there are none"
        fees = sum(route.fee_msat for route in routes.routes)
        assert fees >= least - 20, "the exact search missed a way to split"
        compared.asked += 1
        compared.fees += fees
        compared.least_fees += least
        compared.worst = max(compared.worst, fees / max(least, 1.0))

    net.routes_found = found


def play(
    seed: int,
    shape: Callable[..., Shape],
    watch: Callable[[Net, Compared], None],
    costs: CostParameters,
    count: int,
    sizes: tuple[tuple[int, int], ...],
) -> Compared:
    compared = Compared()

    async def scene(net: Net) -> Compared:
        for node in net.nodes:
            node.router._costs = costs
        watch(net, compared)
        before = await balances(net)
        orders = await storm(net, net.random, "payment", count, 30.0, sizes)
        await net.rest()
        await audit(net, orders, before)
        return compared

    return simulate(seed, shape, scene)


@pytest.mark.parametrize("costs", [FEES_ONLY, FULL], ids=["fees only", "full cost"])
@pytest.mark.parametrize("seed", [1, 2])
def test_single_paths_cost_what_an_exact_search_finds(seed: int, costs: CostParameters):
    """Not more than 1.02 times, in fees and in what the engine was told to weigh."""
    compared = play(
        seed,
        lambda random: scale_free(random, 30, 60),
        lambda net, into: watch_single(net, costs, into),
        costs,
        100,
        (*MIXED[:4], LARGE),
    )
    print(compared)
    assert compared.asked >= 60
    assert compared.worst <= AIM
    assert compared.fees <= AIM * compared.least_fees
    assert compared.cost <= AIM * compared.least_cost


def test_a_search_that_is_not_exact_would_be_seen():
    """Two ways of the same length, of which the dearer is taken on purpose."""
    edges = (
        Edge(0, 1),
        Edge(1, 3, terms=((1000, 10), (1000, 10))),
        Edge(0, 2),
        Edge(2, 3, terms=((2000, 10), (1000, 10))),
    )

    async def scene(net: Net) -> float:
        compared = Compared()
        watch_single(net, FEES_ONLY, compared)
        payer, _, dear, payee = net.nodes
        payer.router._costs = FEES_ONLY
        await payer.payments._channels.refresh()
        hops = payer.payments._channels.book.first_hops()
        request = FindRoutes(payee.node_id, Msat(1_000_000), 40, Msat(100_000), hops)
        only = tuple(hop for hop in hops if hop.peer == dear.node_id)
        found = await payer.router.find_routes(replace(request, first_hops=only))
        assert compared.worst == 1.0
        net.routes_found(payer, request, found)
        return compared.worst

    assert simulate(1, Shape(4, edges), scene) > AIM


@pytest.mark.parametrize(("name", "seeds"), [("heap", (1, 2, 3, 4)), ("scipy", (5,)), ("all extras", (6,))])
def test_parts_cost_what_an_exact_split_costs(
    name: str, seeds: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
):
    """The least sum of fees is that of an integer program over all paths; several parts where one would not do."""
    need_extras()
    monkeypatch.setattr(Engines, "for_graph", lambda _self, _channels: planner(name))
    compared = Compared()
    for seed in seeds:
        one = play(seed, lambda random: scale_free(random, 8, 14), watch_parts, FEES_ONLY, 60, HUGE)
        compared.asked += one.asked
        compared.fees += one.fees
        compared.least_fees += one.least_fees
    print(name, compared, compared.fees / compared.least_fees)
    assert compared.asked >= 20
    assert compared.fees <= AIM * compared.least_fees


def need_extras() -> None:
    need("paths", has("numpy", "scipy", "ortools"), "numpy, scipy and ortools are the extra [paths]")
