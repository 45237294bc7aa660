"""A router that answers from a table, and what the nodes of its routes do with our parts."""

import asyncio
from typing import ClassVar

from protocol import curve
from protocol.amounts import Msat, ShortChannelId
from protocol.bolt4 import failure_onion, sphinx
from protocol.bolt4.failure import (
    Failure,
)
from protocol.bus.messages.channel import HtlcFailed, HtlcFulfilled, OfferHtlc
from protocol.bus.messages.routing import (
    AttemptEnded,
    AttemptStarted,
    FindRoutes,
    Route,
    RouteHop,
    Routes,
    ShadowDelay,
)
from protocol.bus.service import Service, handles, hears
from protocol.errors import CommandRefused
from tests.node.payments.support import (
    PAYEE_ID,
    PAYEE_KEY,
    PREIMAGE,
    House,
    invoice_text,
)

PEER_KEY = b"\x44" * 32
PEER_ID = curve.point_of(PEER_KEY)
FIRST, SECOND, LAST, OTHER_LAST = (ShortChannelId(n << 40) for n in (1, 2, 3, 4))
FEE = 10
AMOUNT = 10_000


class RouterStandIn(Service):
    """Answers from a table: the parts that each question is answered with, by amount."""

    name: ClassVar[str] = "routing"

    def __init__(self, house: House) -> None:
        super().__init__(house.bus)
        self.asked: list[FindRoutes] = []
        self.told: list[AttemptStarted | AttemptEnded] = []
        self.plans: list[tuple[tuple[int, ShortChannelId], ...]] = []
        """For each question the parts: amount, and the first channel."""
        self.gate: asyncio.Event | None = None

    @handles(FindRoutes)
    async def find(self, request: FindRoutes) -> Routes:
        self.asked.append(request)
        if self.gate is not None:
            await self.gate.wait()
        if not self.plans:
            raise CommandRefused("no route in the table", what_to_do="Wait.", code=205)
        parts = self.plans.pop(0)
        return Routes(tuple(route(amount, first, request.final_delay) for amount, first in parts), 1.0)

    @handles(ShadowDelay)
    def shadow(self, _request: ShadowDelay) -> int:
        return 7

    @hears(AttemptStarted, AttemptEnded)
    def hear(self, event: AttemptStarted | AttemptEnded) -> None:
        self.told.append(event)


def route(amount: int, first: ShortChannelId, delay: int, fee: int = FEE) -> Route:
    hops = (
        RouteHop(PEER_ID, first, 0, Msat(amount + fee), delay + 40),
        RouteHop(PAYEE_ID, LAST, 1, Msat(amount), delay),
    )
    return Route(hops, Msat(amount), Msat(fee), 1.0, "by the table")


MPP = frozenset({8, 14, 17})


def in_parts(amount: int = AMOUNT) -> str:
    return invoice_text(amount=amount, features=MPP)


async def started(house: House, request: object) -> "asyncio.Task[object]":
    task = house.asking(request)
    await house.settle()
    return task


def fulfil(house: House, offer: OfferHtlc, preimage: bytes = PREIMAGE) -> None:
    house.bus.publish(HtlcFulfilled(offer.origin, offer.channel_id, 0, preimage))


def failing(offer: OfferHtlc, failure: Failure, *, by_payee: bool = False) -> HtlcFailed:
    """As the peer, or behind it the payee, would fail it."""
    at_peer = sphinx.peel(PEER_KEY, offer.onion, offer.payment_hash)
    if not by_payee:
        return HtlcFailed(
            offer.origin, offer.channel_id, 0, failure_onion.create(at_peer.shared_secret, failure)
        )
    assert at_peer.next_packet is not None
    at_payee = sphinx.peel(PAYEE_KEY, at_peer.next_packet, offer.payment_hash)
    sealed = failure_onion.create(at_payee.shared_secret, failure)
    return HtlcFailed(offer.origin, offer.channel_id, 0, failure_onion.wrap(at_peer.shared_secret, sealed))


async def restarted(house: House, router: RouterStandIn, *origins: str) -> RouterStandIn:
    """With these HTLCs still on their way, and those that were complete settled."""
    await house.on_disk()
    await router.stop()
    standing = house.channel.channels
    await house.restart(origins=tuple((origin, "pending", None, None, None) for origin in origins))
    house.channel.channels = standing
    again = RouterStandIn(house)
    again.plans = [((AMOUNT, FIRST),), ((6000, FIRST),)]
    await again.start()
    return again
