"""A channel_update in a failure counts for that payment's retry only (checklist 34)."""

import pytest

from node.routing import retries as module
from node.routing.graph import Graph
from node.routing.retries import Retries
from protocol.amounts import Msat
from protocol.bolt4.failure import FailureCode
from protocol.bolt11.invoice import HopHint
from protocol.bus.messages.routing import AttemptEnded, RouteHop
from protocol.wire.bolt7_gossip import ChannelUpdate
from protocol.wire.message import encode
from tests.node.routing.support import at, node, put

HOPS = (
    RouteHop(node(1), at(900), 0, Msat(1_015), 68),
    RouteHop(node(2), at(1), 0, Msat(1_010), 58),
    RouteHop(node(3), at(2), 0, Msat(1_000), 18),
)
KEY = at(2) << 1


def update(*, number: int = 2, direction: int = 0, base: int = 50, disabled: bool = False) -> bytes:
    return encode(
        ChannelUpdate(
            signature=bytes(64),
            chain_hash=bytes(32),
            short_channel_id=at(number),
            timestamp=7,
            message_flags=1,
            channel_flags=direction | 2 * disabled,
            cltv_expiry_delta=60,
            htlc_minimum_msat=Msat(2),
            fee_base_msat=Msat(base),
            fee_proportional_millionths=3,
            htlc_maximum_msat=Msat(5_000_000),
        )
    )


def failed(
    raw: bytes | None, code: int = FailureCode.FEE_INSUFFICIENT, at_hop: int = 2, origin: str = "pay/0"
) -> Retries:
    retries = Retries()
    retries.failed(AttemptEnded(origin, at_hop, code, raw), HOPS)
    return retries


def graph() -> Graph:
    graph = Graph()
    put(graph, 2, 2, 3, base=10, cltv=40)
    return graph


@pytest.mark.parametrize("cut", [0, 2], ids=["with its type", "without"])
def test_checklist_34_the_terms_count_for_this_payment_with_or_without_the_type(cut: int):
    known = graph()
    retries = failed(update()[cut:])
    public = known.edge(KEY)
    assert public is not None
    assert retries.replaced("pay", known) == {KEY: (public[0][0], KEY, 50, 3, 60, 2, 5_000_000, public[0][7])}
    assert not retries.banned("pay")


def test_checklist_34_the_graph_and_other_payments_know_nothing_of_them():
    known = graph()
    retries = failed(update())
    policy = known.policy(at(2), 0)
    assert policy is not None and policy.fee_base_msat == 10
    assert retries.replaced("other", known) == {} and not retries.banned("other")


@pytest.mark.parametrize(
    "raw",
    [
        None,
        b"",
        b"\1\2nonsense",
        update(number=7),
        update(direction=1),
        update(disabled=True),
        update(base=0),
    ],
    ids=["none", "empty", "nonsense", "other channel", "other direction", "disabled", "terms we had met"],
)
def test_without_better_terms_the_channel_is_left_out_of_this_payment(raw: bytes | None):
    retries = Retries()
    hops = (HOPS[0], RouteHop(node(2), at(1), 0, Msat(1_010), 90), HOPS[2])
    retries.failed(AttemptEnded("pay/0", 2, FailureCode.FEE_INSUFFICIENT, raw), hops)
    assert set(retries.banned("pay")) == {KEY} and not retries.replaced("pay", graph())


def test_a_lack_of_liquidity_alone_does_not_ban():
    retries = failed(None, FailureCode.TEMPORARY_CHANNEL_FAILURE)
    assert not retries.banned("pay") and not retries.replaced("pay", graph())


@pytest.mark.parametrize(
    ("code", "at_hop"),
    [
        (FailureCode.UNKNOWN_NEXT_PEER, 2),
        (FailureCode.FEE_INSUFFICIENT, 0),
        (FailureCode.FEE_INSUFFICIENT, 3),
        (FailureCode.FEE_INSUFFICIENT, -1),
    ],
)
def test_other_failures_bring_no_terms(code: int, at_hop: int):
    retries = failed(update(), code, at_hop)
    assert not retries.banned("pay") and not retries.replaced("pay", graph())


def test_hints_take_new_terms_as_well():
    chain = (HopHint(node(1), at(8), 1, 1, 1), HopHint(node(2), at(2), 1, 1, 1))
    (newer,) = failed(update()).hints("pay", (chain,), node(3))
    assert newer == (chain[0], HopHint(node(2), at(2), 50, 3, 60))
    assert failed(update()).hints("other", (chain,), node(3)) == (chain,)


def test_only_so_many_payments_are_remembered(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MOST_PAYMENTS", 2)
    retries = Retries()
    for number in range(3):
        retries.failed(AttemptEnded(f"{number}/0", 2, FailureCode.FEE_INSUFFICIENT, update()), HOPS)
    assert [bool(retries.replaced(str(number), graph())) for number in range(3)] == [False, True, True]
