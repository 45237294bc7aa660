"""Random payments between random nodes of a network."""

import asyncio
from random import Random

from protocol.bus.bus import OutcomeUnknown
from protocol.bus.messages import payments as pay
from protocol.errors import CommandRefused
from tests.simulation.books import Order
from tests.simulation.net import Net

DUST, SMALL, LARGE = (1, 300_000), (1_000_000, 50_000_000), (200_000_000, 1_500_000_000)
MIXED = (DUST, SMALL, SMALL, SMALL, LARGE)
"""A fifth is dust, and a fifth so large that it may need several parts."""


async def order(
    net: Net, random: Random, label: str, sizes: tuple[tuple[int, int], ...] = MIXED
) -> Order | None:
    """Made and not yet paid. None when the payee died over it. Large ones go to those with a single channel: so far the
    signer releases a preimage for parts that come through one channel only."""
    payer, payee = random.sample(net.nodes, 2)
    size = random.choice(sizes)
    if size is LARGE and (
        shops := [node for node in net.nodes if len(net.peers(node)) == 1 and node is not payer]
    ):
        payee = random.choice(shops)
    amount = random.randint(*size)
    if not payee.is_up:
        return None
    try:
        invoice = await payee.invoice(amount, label)
    except (CommandRefused, OutcomeUnknown):
        return None
    return Order(label, payer, payee, amount, invoice)


async def carry_out(net: Net, one: Order, *, max_fee_msat: int | None = None) -> None:
    one.began = net.loop.time()
    deaths = one.payer.deaths
    try:
        answer: pay.PaymentRow | str = await one.payer.ask(
            pay.Pay(one.invoice.bolt11, max_fee_msat=max_fee_msat)
        )  # type: ignore[arg-type]
    except CommandRefused as refusal:
        if "is not running" in refusal.sentence:
            answer = ""  # it was not asked at all
        else:
            answer = refusal.sentence
    except OutcomeUnknown:
        answer = ""  # the payer died; its books will tell
    if one.payer.deaths == deaths:  # else nobody is there any more who could have been answered
        one.answer = answer
    one.ended = net.loop.time()


async def storm(
    net: Net,
    random: Random,
    label: str,
    count: int,
    seconds: float,
    sizes: tuple[tuple[int, int], ...] = MIXED,
) -> list[Order]:
    """`count` payments that begin at random moments within `seconds`."""
    orders: list[Order] = []

    async def one(number: int, begin: float) -> None:
        await asyncio.sleep(begin)
        made = await order(net, random, f"{label} {number}", sizes)
        if made is not None:
            orders.append(made)
            await carry_out(net, made)

    moments = [random.uniform(0, seconds) for _ in range(count)]
    await asyncio.gather(*(one(number, moment) for number, moment in enumerate(moments)))
    return orders
