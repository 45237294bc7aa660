"""What we say of our node itself, signed by the signer (BOLT 7, "The `node_announcement` Message"; checklist 58).

Its addresses are those of the settings and the onion address that Tor made for us, which is known only while we run.
A node that is onion only never tells a clear address, whatever the settings say.
"""

from collections.abc import Callable
from typing import Protocol

import structlog
from msgspec import Struct

from node.routing.gossip import own
from node.routing.gossip.intake import Intake
from node.routing.gossip.store import GossipStore
from protocol.bolt7 import addresses
from protocol.bolt7 import announcement as bolt7
from protocol.bolt7.addresses import Address
from protocol.bus.messages import signer as contract
from protocol.bus.messages.peer import Road
from protocol.wire.bolt7_gossip import NodeAnnouncement
from protocol.wire.message import decode

log = structlog.get_logger()
PAUSE_SECONDS = 600
"""Between two announcements of ours: others take no more than a few a day without losing patience."""
SETTLE_SECONDS = 120.0
"""So long after the start an onion address may still be on its way."""
UP = "up"
TOR = "tor"


class Signer(Protocol):
    async def call(self, request: contract.Request) -> contract.Reply: ...


class NodeFace(Struct, frozen=True):
    """How we present ourselves: `alias` in 32 bytes, `addresses` encoded, `features` for node_announcement."""

    alias: bytes
    rgb_color: bytes
    addresses: bytes
    features: bytes
    onion_only: bool = False


class Presence:
    def __init__(
        self,
        *,
        node_id: bytes,
        face: NodeFace,
        signer: Signer,
        store: GossipStore,
        intake: Intake,
        steady: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._node_id = node_id
        self._face = face
        self._signer = signer
        self._store = store
        self._intake = intake
        self._steady = steady
        self._wall = wall
        self._started = steady()
        self._settings = self._of_settings(face)
        self._onions: frozenset[Address] = frozenset()
        self._roads: tuple[Road, ...] = ()

    @staticmethod
    def _of_settings(face: NodeFace) -> frozenset[Address]:
        given = frozenset(addresses.parse(face.addresses).addresses)
        if not face.onion_only:
            return given
        onions = frozenset(one for one in given if one.kind == addresses.TOR_V3)
        if given - onions:
            log.warning(
                "clear_address_not_announced",
                addresses=sorted(f"{one.host}:{one.port}" for one in given - onions),
                what_to_do="This node is onion only: remove them from announce, or set tor.clear = direct.",
            )
        return onions

    def heard(self, roads: tuple[Road, ...]) -> None:
        """A road that is down does not take back its address: it comes up with the same one."""
        self._roads = roads
        found = frozenset(
            one for road in roads for text in road.addresses if (one := _onion(text)) is not None
        )
        self._onions = found or self._onions

    def _addresses(self) -> bytes:
        return addresses.encode(tuple(self._settings | self._onions))

    def _may_change(self) -> bool:
        """A road is not up yet, so an address of ours may be missing."""
        if self._onions:
            return False
        young = self._steady() - self._started < SETTLE_SECONDS
        return any(
            road.state != UP or (young and road.name == TOR and not road.addresses) for road in self._roads
        )

    async def tell(self) -> None:
        """A new announcement where there is news, or the last one is old. Raises SignerAway."""
        kept = self._store.node(self._node_id)
        last = None if kept is None else decode(kept)
        now, encoded, face = self._wall(), self._addresses(), self._face
        said = 0
        if isinstance(last, NodeAnnouncement):
            said = last.timestamp
            same = (last.alias, last.rgb_color, last.addresses, last.features) == (
                face.alias,
                face.rgb_color,
                encoded,
                face.features,
            )
            waits = 0 <= now - said < PAUSE_SECONDS or self._may_change()
            if (same or waits) and now - said < own.REFRESH_SECONDS:
                return
        elif self._may_change() and self._steady() - self._started < SETTLE_SECONDS:
            return
        fields = bolt7.NodeFields(
            features=face.features,
            timestamp=own.next_timestamp(now, said),
            rgb_color=face.rgb_color,
            alias=face.alias,
            addresses=encoded,
        )
        reply = await self._signer.call(
            contract.SignNodeAnnouncement(
                fields.features, fields.timestamp, fields.rgb_color, fields.alias, fields.addresses
            )
        )
        if not isinstance(reply, contract.NodeAnnouncementSigned):
            log.warning("node_not_announced", reason=why(reply))
            return
        frame = bolt7.node_announcement(fields, self._node_id, reply.signature)
        message = decode(frame)
        if isinstance(message, NodeAnnouncement):
            self._intake.add_node(message, frame, self._node_id, relay=True)


def _onion(text: str) -> Address | None:
    """None for what is no onion address of ours to announce."""
    host, _, port = text.rpartition(":")
    try:
        found = addresses.of_host(host, int(port))
    except ValueError:
        return None
    return found if found.kind == addresses.TOR_V3 else None


def why(reply: contract.Reply) -> str:
    match reply:
        case contract.Refused():
            return f"the signer refused: {reply.rule} (saw {reply.seen}). {reply.next_step}"
        case contract.NotNow() | contract.PeerFault():
            return reply.sentence
        case _:
            return f"the signer answered with {type(reply).__name__}, which is wrong"
