"""What a lone payment costs, counted by the node itself (DESIGN, Throughput): commits and signer requests."""

import asyncio

from node.demo.stack import Node, Stack
from tests.bench.measure import cost
from tests.whole.support import ask, folder, open_channel, settled, until

PAYMENTS = 8


def test_a_lone_payment_costs_three_commits_and_four_requests_a_side() -> None:
    with folder() as place, Stack(place) as stack:
        stack.start()
        asyncio.run(_count(stack))


async def _count(stack: Stack) -> None:
    alice, bob = stack.nodes["alice"], stack.nodes["bob"]
    await asyncio.to_thread(open_channel, stack)
    invoices = [await ask(bob, "invoice", 5_000_000, f"n{n}", "count") for n in range(PAYMENTS)]
    await _quiet(alice, bob)
    before = [await asyncio.to_thread(cost, node) for node in (alice, bob)]
    for invoice in invoices:
        await ask(alice, "xpay", invoice["bolt11"])
    await _quiet(alice, bob)
    after = [await asyncio.to_thread(cost, node) for node in (alice, bob)]
    for spent in (now.since(then) for now, then in zip(after, before, strict=True)):
        # The lazy saves of a payment go with the first commit of the next one; those of the last go alone.
        assert spent.commits <= 3 * PAYMENTS + 1
        # One more, once: the first channel_update of the new channel is signed within a second of its opening.
        assert spent.requests <= 4 * PAYMENTS + 1


async def _quiet(*nodes: Node) -> None:
    await until("the line to be quiet", lambda: settled(*nodes))
