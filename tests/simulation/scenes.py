"""Scenes that several tests play: traffic while nodes die, with the audit at the end."""

import asyncio
from random import Random

from msgspec import Struct

from tests.simulation.books import Books, audit, balances
from tests.simulation.deaths import Reaper
from tests.simulation.net import HEIGHT, Net
from tests.simulation.traffic import storm

SECONDS = {"disk_seconds": 0.002, "signer_seconds": 0.003}
"""What a durable commit and an answer of the signer take on a usual machine."""

HELD_BY_WHAT_WAS_NEVER_SENT = "onward-lives"
"""A node that died between the signer's signature and its own save has never passed the HTLC on and fails it; its
signer, which signed, holds that back until the next round of the outgoing channel has buried that signature."""

VALIDATED_AND_GONE = "validate-order"
"""Asked again after a death, with an answer that was lost: `node.channel.answers` takes it for the grant it is."""


class Deadly(Struct):
    books: Books
    story: list[str]
    digest: str
    blocks: int
    """That had to be found before all was at rest."""


async def deadly(net: Net, *, payments: int, deaths: int, seconds: float = 20.0) -> Deadly:
    """Payments and deaths at random moments; when all are back and nothing moves any more, the books are audited."""
    net.legal_refusals = frozenset((HELD_BY_WHAT_WAS_NEVER_SENT, VALIDATED_AND_GONE))
    before = await balances(net)
    reaper = Reaper(net, Random(net.random.random()), deaths=deaths, seconds=seconds)
    traffic = asyncio.ensure_future(storm(net, net.random, "payment", payments, seconds))
    try:
        await reaper.run()
        orders = await traffic
        await net.rest()
        books = await audit(net, orders, before)
    except BaseException as error:
        error.add_note("\n".join(reaper.story))  # what happened to whom, before what went wrong
        raise
    return Deadly(books, reaper.story, net.digest, net.height - HEIGHT)
