"""Openings under way: each a coroutine, fed with the peer's messages until it ends (BOLT 2, Channel Establishment)."""

import asyncio
import os
from collections.abc import Coroutine
from typing import Any, Protocol

import structlog

from node.channel import feerates, opening, terms
from node.channel.opening import M, Opened, Wish
from node.channel.reserve import check_room, top_up_for
from node.channel.state import Committed
from node.channel.terms import LARGEST_DEPTH, SMALLEST_FUNDING, Policy
from node.signer_link.client import SignerAway, SignerClient
from protocol.amounts import FeeratePerKw, Sat, ShortChannelId, to_msat
from protocol.bitcoin.script import p2wsh
from protocol.bolt9 import FeatureSet
from protocol.bus.bus import Bus, OutcomeUnknown
from protocol.bus.messages import channel as said
from protocol.bus.messages import signer as sign
from protocol.bus.messages import wallet
from protocol.bus.messages.reserve import ReserveChanged, SyncReserve
from protocol.errors import CommandRefused, MalformedMessage, PeerViolation, ProtocolError
from protocol.wire.bolt1 import Error, Warning, printable
from protocol.wire.bolt2_open import FundingSigned, OpenChannel
from protocol.wire.message import Message, encode

log = structlog.get_logger()
PATIENCE = 60.0
"""How long the peer may take for each of its messages."""
MAX_OPENINGS_PER_PEER = 4


class HungUp(ProtocolError):
    """The connection was lost, or the peer ended the opening."""


class Host(Protocol):
    """What the channel service does for its openings."""

    def send_frames(self, node_id: bytes, frames: tuple[bytes, ...]) -> None: ...

    def connection(self, node_id: bytes) -> int | None: ...

    def features(self, node_id: bytes) -> FeatureSet:
        """What the peer said in init."""

    def is_free(self, channel_id: bytes) -> bool: ...

    def new_alias(self) -> ShortChannelId:
        """One that no channel of ours ever had."""

    async def opened(self, committed: Committed) -> None: ...

    def begin(self, committed: Committed, connection: int | None, early: tuple[Message, ...] = ()) -> None:
        """`connection`: the one on which the channel was opened; the peer may be on another by now. `early`: what it
        said there to the new channel before it was saved."""

    async def feerate(self, target: int) -> FeeratePerKw: ...

    async def mempool_minimum(self) -> FeeratePerKw: ...

    def reserve(self) -> ReserveChanged | None:
        """What is known of the fee reserve; None where nobody keeps one."""

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[None]: ...


class Opening:
    """One opening and what it needs of the world (`OpeningIO`)."""

    def __init__(self, openings: "Openings", node_id: bytes, temporary_channel_id: bytes) -> None:
        self._openings = openings
        self.node_id = node_id
        self.temporary_channel_id = temporary_channel_id
        self.inbox: asyncio.Queue[Message | HungUp] = asyncio.Queue(maxsize=8)
        self.connection = openings.host.connection(node_id)
        self.channel_id: bytes | None = None
        self.purpose = ""
        self.feerate: FeeratePerKw | None = None
        self.minconf = 1
        self.to_reserve = Sat(0)

    async def signer(self, request: sign.Request) -> sign.Reply:
        try:
            return await self._openings.signer.call(request)
        except SignerAway as away:
            raise CommandRefused(
                f"the signer does not answer: {away}", what_to_do="Start it, then open the channel again."
            ) from away

    async def receive(self, kind: type[M]) -> M:
        try:
            message = await asyncio.wait_for(self.inbox.get(), PATIENCE)
        except TimeoutError:
            raise HungUp(f"the peer did not answer within {PATIENCE:g} seconds") from None
        if isinstance(message, HungUp):
            raise message
        if isinstance(message, Error):
            raise HungUp(f"the peer ended the opening: {printable(message.data)[:300]}")
        if not isinstance(message, kind):
            raise PeerViolation(
                f"{type(message).__name__} came where {kind.__name__} should", clause="BOLT 2"
            )
        return message

    @property
    def is_connected(self) -> bool:
        return self.connection is not None and self._openings.host.connection(self.node_id) == self.connection

    def send(self, message: Message) -> None:
        """Only on the connection on which it began: on a newer one the peer knows nothing of it."""
        if self.is_connected:
            self._openings.host.send_frames(self.node_id, (encode(message),))

    async def plan(self, script: bytes, value: Sat) -> wallet.SpendPlanned:
        self.purpose = f"channel {self.temporary_channel_id.hex()}"
        request = wallet.PlanSpend(
            self.purpose, script, value, self.feerate, self.minconf, to_reserve=self.to_reserve
        )
        planned: wallet.SpendPlanned = await self._openings.bus.request("wallet", request, deadline=60)
        if self.to_reserve:
            # The signer judges the channel next, and must know what comes into the reserve together with it.
            await self._openings.bus.request("reserve", SyncReserve())
        return planned

    def claim(self, channel_id: bytes) -> bool:
        if not self._openings.claim(channel_id):
            return False
        self.channel_id = channel_id
        return True

    def hang_up(self, reason: str) -> None:
        self.put(HungUp(reason))

    def early(self) -> tuple[Message, ...]:
        """What the peer said after its last word of the opening: channel_ready, when it need not wait for a block."""
        left: list[Message] = []
        while not self.inbox.empty():
            message = self.inbox.get_nowait()
            if not isinstance(message, HungUp):
                left.append(message)
        return tuple(left)

    def put(self, message: Message | HungUp) -> None:
        if not self.inbox.full():  # a peer that talks on without being asked is not listened to
            self.inbox.put_nowait(message)


class Openings:
    def __init__(self, bus: Bus, signer: SignerClient, policy: Policy, chain_hash: bytes, host: Host) -> None:
        self.bus = bus
        self.signer = signer
        self.host = host
        self._policy = policy
        self._chain_hash = chain_hash
        self._open: dict[tuple[bytes, bytes], Opening] = {}
        self._claimed: set[bytes] = set()
        """The channel ids of openings that are not saved yet."""

    def claim(self, channel_id: bytes) -> bool:
        if channel_id in self._claimed or not self.host.is_free(channel_id):
            return False
        self._claimed.add(channel_id)
        return True

    def _end(self, one: Opening) -> None:
        """Its place may be taken by the next opening with the same temporary id, on a new connection."""
        key = (one.node_id, one.temporary_channel_id)
        if self._open.get(key) is one:
            del self._open[key]
        if one.channel_id is not None:
            self._claimed.discard(one.channel_id)

    def message(self, node_id: bytes, channel_id: bytes, message: Message) -> bool:
        """Whether an opening takes this message; `channel_id` is the temporary one, or the real one."""
        found = self._open.get((node_id, channel_id))
        if found is not None:
            found.put(message)
            return True
        if isinstance(message, OpenChannel):
            self._accept(node_id, message)
            return True
        for (peer_id, _), one in self._open.items():
            # From funding_signed on it is the real channel_id; a wrong one there breaks a rule of that opening.
            named = one.channel_id == channel_id or isinstance(message, FundingSigned)
            if peer_id == node_id and named and not isinstance(message, Warning):
                one.put(message)
                return True
        return False

    def failed(self, node_id: bytes, error: Error) -> None:
        """The peer fails all that it has with us: what is being opened too (BOLT 1, "error")."""
        for (peer_id, _), one in self._open.items():
            if peer_id == node_id:
                one.put(error)

    def peer_down(self, node_id: bytes, reason: str) -> None:
        for key, one in list(self._open.items()):
            if key[0] == node_id:
                del self._open[key]
                one.hang_up(f"the connection to the peer was lost ({reason})")

    def stop(self) -> None:
        for one in self._open.values():
            one.hang_up("the node is stopping")

    # As opener.

    async def fund(self, request: said.FundChannel) -> Committed:
        features = self.host.features(request.peer)
        if request.mindepth is not None and not 0 <= request.mindepth <= LARGEST_DEPTH:
            raise CommandRefused(
                f"mindepth {request.mindepth} is not from 0 to {LARGEST_DEPTH}", what_to_do="Choose another."
            )
        kind = terms.choose_type(
            features,
            anchors=request.anchors,
            announce=request.announce,
            zeroconf=request.mindepth == 0,
            bits=request.channel_type,
        )
        largest = terms.largest_funding(features)
        estimate = await self.host.feerate(6)
        to_reserve = (
            await top_up_for(self.bus, self.host.reserve(), request.top_up) if kind.anchors else Sat(0)
        )
        if request.amount is not None:
            funding = request.amount
        else:
            funding = await self._everything(request, largest, to_reserve)
        if funding < SMALLEST_FUNDING:
            raise CommandRefused(
                f"a channel of {funding} sat is below {SMALLEST_FUNDING}",
                what_to_do="Choose a larger amount.",
            )
        if funding > largest:
            raise CommandRefused(
                f"a channel of {funding} sat is above {largest}, the most that this peer takes"
                " (it does not offer option_support_large_channel)",
                what_to_do="Open a smaller channel, or several.",
            )
        feerate = feerates.wanted(
            estimate, anchors=kind.anchors, mempool_minimum=await self.host.mempool_minimum()
        )
        terms.check_burn(funding, feerate, anchors=kind.anchors)
        if request.push_msat >= to_msat(funding):
            raise CommandRefused("push_msat is all of the channel", what_to_do="Push less.")
        wish = Wish(
            peer=request.peer,
            chain_hash=self._chain_hash,
            request_id=os.urandom(32),
            temporary_channel_id=os.urandom(32),
            funding=funding,
            push_msat=request.push_msat,
            feerate_per_kw=feerate,
            kind=kind,
            announce=request.announce,
            alias=self.host.new_alias(),
            mindepth=request.mindepth,
        )
        one = Opening(self, request.peer, wish.temporary_channel_id)
        one.feerate, one.minconf = request.feerate_per_kw, request.minconf
        one.to_reserve = to_reserve
        if not one.is_connected:
            raise CommandRefused(
                "this peer is not connected any more", what_to_do="Connect to it and try again."
            )
        self._open[request.peer, wish.temporary_channel_id] = one
        saved = False
        try:
            done = await opening.fund(one, wish, self._policy, lambda said: log.info("opening", step=said))
            saved = True  # from here on it may be on disk, whatever ends us: its coins stay set aside
            await self.host.opened(done.committed)
            self.host.begin(done.committed, one.connection, one.early())
            return done.committed
        except PeerViolation as violation:
            one.send(Error(wish.temporary_channel_id, str(violation).encode("ascii", "replace")))
            raise CommandRefused(
                f"the peer broke a rule: {violation}", what_to_do="Try another peer, or report it."
            ) from violation
        except HungUp as hung_up:
            raise CommandRefused(str(hung_up), what_to_do="Look at the reason and try again.") from hung_up
        finally:
            self._end(one)
            if one.purpose and not saved:
                self.host.run(self._release(one.purpose))

    async def _everything(self, request: said.FundChannel, largest: Sat, to_reserve: Sat) -> Sat:
        """What a transaction of all coins can put into one output of the funding's size."""
        purpose = f"measure {os.urandom(8).hex()}"
        plan = wallet.PlanSpend(
            purpose, p2wsh(b""), None, request.feerate_per_kw, request.minconf, to_reserve=to_reserve
        )
        planned: wallet.SpendPlanned = await self.bus.request("wallet", plan, deadline=60)
        await self._release(purpose)
        return Sat(min(planned.value, largest))

    async def _release(self, purpose: str) -> None:
        try:
            await self.bus.request("wallet", wallet.ReleasePlan(purpose), deadline=60)
        except (CommandRefused, OutcomeUnknown) as error:
            log.warning("coins_stay_reserved", purpose=purpose, error=str(error))

    # As fundee.

    def _accept(self, node_id: bytes, offer: OpenChannel) -> None:
        running = sum(peer_id == node_id for peer_id, _ in self._open)
        if running >= MAX_OPENINGS_PER_PEER:
            refusal = Error(offer.temporary_channel_id, b"too many channels are being opened at once")
            self.host.send_frames(node_id, (encode(refusal),))
            return
        if not self.host.is_free(offer.temporary_channel_id):
            refusal = Error(offer.temporary_channel_id, b"temporary_channel_id is the id of a channel")
            self.host.send_frames(node_id, (encode(refusal),))
            return
        one = Opening(self, node_id, offer.temporary_channel_id)
        self._open[node_id, offer.temporary_channel_id] = one
        self.host.run(self._accepting(one, offer))

    async def _accepting(self, one: Opening, offer: OpenChannel) -> None:
        try:
            if terms.channel_type(offer, terms.OPENING).anchors:
                await check_room(self.bus, self.host.reserve())
            done: Opened = await opening.accept(
                one,
                offer,
                self._policy,
                peer=one.node_id,
                features=self.host.features(one.node_id),
                chain_hash=self._chain_hash,
                request_id=os.urandom(32),
                alias=self.host.new_alias(),
            )
            if not one.is_connected:
                # The opener never heard that we signed, so it has forgotten the channel.
                raise HungUp("the connection was lost before our funding_signed left")
            await self.host.opened(done.committed)
            if done.message is not None:
                one.send(done.message)
            self.host.begin(done.committed, one.connection, one.early())
        except (PeerViolation, MalformedMessage) as error:
            one.send(Error(one.temporary_channel_id, str(error).encode("ascii", "replace")[:400]))
        except (CommandRefused, OutcomeUnknown) as refusal:
            log.warning("opening_refused", peer=one.node_id.hex(), sentence=refusal.sentence)
            one.send(Error(one.temporary_channel_id, b"this node cannot open a channel now"))
        except HungUp as hung_up:
            log.info("opening_ended", peer=one.node_id.hex(), reason=str(hung_up))
        finally:
            self._end(one)


ALIAS_BASE = 1 << 62
"""A block height of four million and more: no real short channel id can be equal to an alias, nor related to it."""


def alias_of(random: bytes) -> ShortChannelId:
    """An alias from 8 random bytes. It stays below 2^63, for tools whose integers end there."""
    return ShortChannelId(ALIAS_BASE | int.from_bytes(random, "big") >> 2)
