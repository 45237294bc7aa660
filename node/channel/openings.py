"""Openings under way: each a coroutine, fed with the peer's messages until it ends (BOLT 2, Channel Establishment)."""

import asyncio
import os
from collections.abc import Coroutine
from typing import Any, Protocol

import structlog

from node.channel import opening
from node.channel.opening import M, Opened, Wish
from node.channel.state import Committed
from node.channel.terms import LARGEST_FUNDING, SMALLEST_FUNDING, Policy
from node.signer_link.client import SignerAway, SignerClient
from protocol.amounts import FEERATE_FLOOR, FeeratePerKw, Sat, to_msat
from protocol.bitcoin.script import p2wsh
from protocol.bus.bus import Bus, OutcomeUnknown
from protocol.bus.messages import channel as said
from protocol.bus.messages import signer as sign
from protocol.bus.messages import wallet
from protocol.errors import CommandRefused, MalformedMessage, PeerViolation, ProtocolError
from protocol.wire.bolt1 import Error, Warning, printable
from protocol.wire.bolt2_open import OpenChannel
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

    def is_free(self, channel_id: bytes) -> bool: ...

    async def opened(self, committed: Committed) -> None: ...

    def begin(self, committed: Committed) -> None: ...

    async def feerate(self, target: int) -> FeeratePerKw: ...

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[None]: ...


class Opening:
    """One opening and what it needs of the world (`OpeningIO`)."""

    def __init__(self, openings: "Openings", node_id: bytes, temporary_channel_id: bytes) -> None:
        self._openings = openings
        self.node_id = node_id
        self.temporary_channel_id = temporary_channel_id
        self.inbox: asyncio.Queue[Message | HungUp] = asyncio.Queue(maxsize=8)
        self.purpose = ""
        self.feerate: FeeratePerKw | None = None
        self.minconf = 1

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

    def send(self, message: Message) -> None:
        self._openings.host.send_frames(self.node_id, (encode(message),))

    async def plan(self, script: bytes, value: Sat) -> wallet.SpendPlanned:
        self.purpose = f"channel {self.temporary_channel_id.hex()}"
        request = wallet.PlanSpend(self.purpose, script, value, self.feerate, self.minconf)
        planned: wallet.SpendPlanned = await self._openings.bus.request("wallet", request, deadline=60)
        return planned

    def is_free(self, channel_id: bytes) -> bool:
        return self._openings.host.is_free(channel_id)

    def hang_up(self, reason: str) -> None:
        self.put(HungUp(reason))

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
            if peer_id == node_id and not isinstance(message, Warning):
                one.put(message)  # funding_signed carries the real channel_id
                return True
        return False

    def peer_down(self, node_id: bytes, reason: str) -> None:
        for (peer_id, _), one in list(self._open.items()):
            if peer_id == node_id:
                one.hang_up(f"the connection to the peer was lost ({reason})")

    def stop(self) -> None:
        for one in self._open.values():
            one.hang_up("the node is stopping")

    # As opener.

    async def fund(self, request: said.FundChannel) -> Committed:
        estimate = await self.host.feerate(6)
        funding = request.amount if request.amount is not None else await self._everything(request)
        if not SMALLEST_FUNDING <= funding <= LARGEST_FUNDING:
            raise CommandRefused(
                f"a channel of {funding} sat is not between {SMALLEST_FUNDING} and {LARGEST_FUNDING}",
                what_to_do="Choose another amount.",
            )
        if request.push_msat >= to_msat(funding):
            raise CommandRefused("push_msat is all of the channel", what_to_do="Push less.")
        wish = Wish(
            peer=request.peer,
            chain_hash=self._chain_hash,
            request_id=os.urandom(32),
            temporary_channel_id=os.urandom(32),
            funding=funding,
            push_msat=request.push_msat,
            feerate_per_kw=commitment_feerate(estimate, anchors=request.anchors),
            anchors=request.anchors,
        )
        one = Opening(self, request.peer, wish.temporary_channel_id)
        one.feerate, one.minconf = request.feerate_per_kw, request.minconf
        self._open[request.peer, wish.temporary_channel_id] = one
        saved = False
        try:
            done = await opening.fund(one, wish, self._policy, lambda said: log.info("opening", step=said))
            await self.host.opened(done.committed)
            saved = True
            self.host.begin(done.committed)
            return done.committed
        except PeerViolation as violation:
            one.send(Error(wish.temporary_channel_id, str(violation).encode("ascii", "replace")))
            raise CommandRefused(
                f"the peer broke a rule: {violation}", what_to_do="Try another peer, or report it."
            ) from violation
        except HungUp as hung_up:
            raise CommandRefused(str(hung_up), what_to_do="Look at the reason and try again.") from hung_up
        finally:
            self._open.pop((request.peer, wish.temporary_channel_id), None)
            if one.purpose and not saved:
                self.host.run(self._release(one.purpose))

    async def _everything(self, request: said.FundChannel) -> Sat:
        """What a transaction of all coins can put into one output of the funding's size."""
        purpose = f"measure {os.urandom(8).hex()}"
        plan = wallet.PlanSpend(purpose, p2wsh(b""), None, request.feerate_per_kw, request.minconf)
        planned: wallet.SpendPlanned = await self.bus.request("wallet", plan, deadline=60)
        await self._release(purpose)
        return Sat(min(planned.value, LARGEST_FUNDING))

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
        one = Opening(self, node_id, offer.temporary_channel_id)
        self._open[node_id, offer.temporary_channel_id] = one
        self.host.run(self._accepting(one, offer))

    async def _accepting(self, one: Opening, offer: OpenChannel) -> None:
        key = (one.node_id, one.temporary_channel_id)
        try:
            done: Opened = await opening.accept(
                one,
                offer,
                self._policy,
                peer=one.node_id,
                chain_hash=self._chain_hash,
                request_id=os.urandom(32),
            )
            await self.host.opened(done.committed)
            if done.message is not None:
                one.send(done.message)
            self.host.begin(done.committed)
        except (PeerViolation, MalformedMessage) as error:
            one.send(Error(one.temporary_channel_id, str(error).encode("ascii", "replace")[:400]))
        except CommandRefused as refusal:
            log.warning("opening_refused", peer=one.node_id.hex(), sentence=refusal.sentence)
            one.send(Error(one.temporary_channel_id, b"this node cannot open a channel now"))
        except HungUp as hung_up:
            log.info("opening_ended", peer=one.node_id.hex(), reason=str(hung_up))
        finally:
            self._open.pop(key, None)


def commitment_feerate(estimate: FeeratePerKw, *, anchors: bool) -> FeeratePerKw:
    """With anchors a commitment only has to enter the mempool; without, it must confirm as it is."""
    if anchors:
        return FeeratePerKw(max(FEERATE_FLOOR, min(estimate, 2500)))
    return FeeratePerKw(max(FEERATE_FLOOR, estimate * 3 // 2))
