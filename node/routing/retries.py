"""What the failures of one payment told of fees and delays: for that payment's retries, and never for the graph.

A forwarder may send a channel_update with its failure. Were it put into the graph, a forwarder could make up one
for each payer and know by it later whose payments come along (BOLT 4, "Receiving Failure Codes").
"""

from collections import OrderedDict
from collections.abc import Iterable

from msgspec.structs import replace

from node.routing.core import Edge
from node.routing.graph import DISABLED, Graph
from protocol.bolt4.failure import UPDATE, FailureCode
from protocol.bolt11.invoice import HopHint
from protocol.bus.messages.routing import AttemptEnded, RouteHop
from protocol.errors import MalformedMessage
from protocol.wire.bolt7_gossip import ChannelUpdate
from protocol.wire.message import decode

MOST_PAYMENTS = 1_000
_TYPE = ChannelUpdate.TYPE.to_bytes(2, "big")

_Terms = tuple[int, int, int, int, int]
"""base, ppm, cltv delta, least, most: the middle of an `Edge`."""


class _Payment:
    __slots__ = ("banned", "terms")

    def __init__(self) -> None:
        self.terms: dict[int, _Terms] = {}
        self.banned: set[int] = set()


class Retries:
    """By payment: what stands before the "/" of an attempt's origin."""

    def __init__(self) -> None:
        self._payments: OrderedDict[str, _Payment] = OrderedDict()

    def failed(self, event: AttemptEnded, hops: tuple[RouteHop, ...]) -> None:
        """The failing node did not like our fee, delay or amount, or says that it has new terms."""
        at = event.failed_at
        if event.code is None or not event.code & UPDATE or at is None or not 0 < at < len(hops):
            return
        before, hop = hops[at - 1], hops[at]
        key = hop.short_channel_id << 1 | hop.direction
        payment = self._payment(event.origin.rpartition("/")[0])
        terms = _terms(event.channel_update, hop)
        if terms is not None and not _met(terms, before, hop):
            payment.terms[key] = terms
        elif event.code != FailureCode.TEMPORARY_CHANNEL_FAILURE:
            # Nothing new to try there: the same failure would come again. Liquidity is learned elsewhere.
            payment.banned.add(key)

    def banned(self, payment: str) -> Iterable[int]:
        found = self._payments.get(payment)
        return () if found is None else found.banned

    def replaced(self, payment: str, graph: Graph) -> dict[int, Edge]:
        found = self._payments.get(payment)
        if found is None:
            return {}
        edges: dict[int, Edge] = {}
        for key, terms in found.terms.items():
            public = graph.edge(key)
            if public is not None:
                edge = public[0]
                edges[key] = (edge[0], key, *terms[:4], min(terms[4], edge[7] - 1), edge[7])
        return edges

    def hints(
        self, payment: str, hints: tuple[tuple[HopHint, ...], ...], destination: bytes
    ) -> tuple[tuple[HopHint, ...], ...]:
        """The hints with the terms that their channels told since."""
        found = self._payments.get(payment)
        if found is None or not found.terms:
            return hints
        return tuple(_newer(chain, destination, found.terms) for chain in hints)

    def _payment(self, name: str) -> _Payment:
        found = self._payments.setdefault(name, _Payment())
        self._payments.move_to_end(name)
        while len(self._payments) > MOST_PAYMENTS:
            self._payments.popitem(last=False)
        return found


def _met(terms: _Terms, before: RouteHop, hop: RouteHop) -> bool:
    """Whether the attempt that failed had paid what these terms ask."""
    base, ppm, delta, least, most = terms
    paid = before.amount_msat - hop.amount_msat
    return (
        paid >= base + hop.amount_msat * ppm // 1_000_000
        and before.delay - hop.delay >= delta
        and least <= hop.amount_msat <= most
    )


def _terms(raw: bytes | None, hop: RouteHop) -> _Terms | None:
    """None when there is no update for this direction, or one that says that it is off."""
    if not raw:
        return None
    try:
        # Some old nodes leave out the type (BOLT 4, "Failure Messages").
        update = decode(raw if raw[:2] == _TYPE else _TYPE + raw)
    except MalformedMessage:
        return None
    if not isinstance(update, ChannelUpdate):
        return None
    if update.short_channel_id != hop.short_channel_id or update.channel_flags & 1 != hop.direction:
        return None
    if update.channel_flags & DISABLED or not update.htlc_maximum_msat:
        return None
    return (
        update.fee_base_msat,
        update.fee_proportional_millionths,
        update.cltv_expiry_delta,
        update.htlc_minimum_msat,
        update.htlc_maximum_msat,
    )


def _newer(chain: tuple[HopHint, ...], destination: bytes, terms: dict[int, _Terms]) -> tuple[HopHint, ...]:
    heads = [hint.node_id for hint in chain[1:]] + [destination]
    found = []
    for hint, head in zip(chain, heads, strict=True):
        new = terms.get(hint.short_channel_id << 1 | (0 if hint.node_id < head else 1))
        if new is not None:
            hint = replace(
                hint,
                fee_base_msat=new[0],
                fee_proportional_millionths=new[1],
                cltv_expiry_delta=new[2],
            )
        found.append(hint)
    return tuple(found)
