"""Opening a v1 channel from either end (BOLT 2, "Channel Establishment v1").

Nothing of it is durable until the funding is signed: a lost connection or a crash before simply ends it. So it
is one coroutine a side, straight through, whose waiting is in `OpeningIO`; what it returns is the first
durable state of the channel, which the caller saves before another byte leaves.
"""

from collections.abc import Callable
from typing import Protocol, TypeVar

from msgspec import Struct

from node.channel import terms
from node.channel.content import content
from node.channel.state import NO_HTLCS, AwaitingLockIn, Committed, FeeStep, Params
from node.channel.terms import Policy
from protocol.amounts import FeeratePerKw, Msat, Sat, ShortChannelId, to_msat
from protocol.bitcoin.transaction import OutPoint
from protocol.bolt3 import funding as bolt3_funding
from protocol.bolt3.commitment import Side
from protocol.bolt9 import ChannelType, FeatureSet
from protocol.bus.messages import signer as sign
from protocol.bus.messages.wallet import SpendPlanned
from protocol.errors import CommandRefused, PeerViolation
from protocol.wire.bolt2_open import (
    ANNOUNCE_CHANNEL,
    AcceptChannel,
    AcceptChannelTlvs,
    FundingCreated,
    FundingSigned,
    OpenChannel,
    OpenChannelTlvs,
)
from protocol.wire.message import Message

M = TypeVar("M", bound=Message)


class OpeningIO(Protocol):
    """What an opening needs of the world. A peer that hangs up or sends an error ends the coroutine."""

    async def signer(self, request: sign.Request) -> sign.Reply: ...

    async def receive(self, kind: type[M]) -> M: ...

    def send(self, message: Message) -> None: ...

    async def plan(self, script: bytes, value: Sat) -> SpendPlanned: ...

    def claim(self, channel_id: bytes) -> bool:
        """Whether no channel has this id, nor any other opening; it is then ours until this opening ends."""


class Wish(Struct, frozen=True):
    """A channel that we want to open. `request_id`: 32 random bytes; it names the keys in the signer. `mindepth`: after
    how many confirmations we use it, if not as many as the peer asks for; 0 goes with a zeroconf `kind`."""

    peer: bytes
    chain_hash: bytes
    request_id: bytes
    temporary_channel_id: bytes
    funding: Sat
    push_msat: Msat
    feerate_per_kw: FeeratePerKw
    kind: ChannelType
    announce: bool
    alias: ShortChannelId
    mindepth: int | None = None


class Opened(Struct, frozen=True):
    """Save `committed`, then send `message` (the fundee's funding_signed) or the funding transaction."""

    committed: Committed
    message: Message | None = None


async def ask(io: OpeningIO, request: sign.Request, kind: type[sign.Reply]) -> sign.Reply:
    reply = await io.signer(request)
    if isinstance(reply, kind):
        return reply
    match reply:
        case sign.PeerFault(sentence=sentence, clause=clause):
            raise PeerViolation(sentence, clause=clause)
        case sign.Refused():
            raise CommandRefused(
                f"the signer refused: {reply.rule} ({reply.seen}, limit {reply.limit})",
                what_to_do=reply.next_step,
            )
        case sign.NotNow(sentence=sentence):
            raise CommandRefused(
                f"the signer cannot answer now: {sentence}", what_to_do="Try again in a moment."
            )
        case _:
            raise TypeError(f"the signer answered {type(reply).__name__} to {type(request).__name__}")


async def _draw(io: OpeningIO, request_id: bytes, peer: bytes) -> sign.ChannelDrawn:
    drawn = await ask(io, sign.NewChannel(request_id, peer), sign.ChannelDrawn)
    assert isinstance(drawn, sign.ChannelDrawn)  # noqa: S101 - `ask` saw to it
    return drawn


async def _operations(io: OpeningIO, params: Params, *operations: sign.Operation) -> tuple[sign.Result, ...]:
    answer = await ask(io, sign.ChannelRequest(params.handle, operations), sign.ChannelAnswer)
    assert isinstance(answer, sign.ChannelAnswer)  # noqa: S101 - `ask` saw to it
    match answer.stopped:
        case sign.PeerFault(sentence=sentence, clause=clause):
            raise PeerViolation(sentence, clause=clause)
        case sign.Refused() as refusal:
            raise CommandRefused(
                f"the signer refused: {refusal.rule} ({refusal.seen})", what_to_do=refusal.next_step
            )
        case None:
            return answer.results


async def _set_up(io: OpeningIO, params: Params, first_point: bytes, push_msat: Msat) -> None:
    request = sign.SetupChannel(
        channel=params.handle,
        anchors=params.anchors,
        holder_is_opener=params.holder_is_opener,
        fundings=params.fundings,
        holder=sign.Terms(params.holder.dust_limit, params.counterparty.to_self_delay),
        counterparty=sign.Terms(params.counterparty.dust_limit, params.holder.to_self_delay),
        counterparty_keys=params.counterparty_keys,
        counterparty_first_point=first_point,
        push_msat=push_msat,
    )
    await ask(io, request, sign.ChannelSetUp)


def _first_state(
    params: Params,
    *,
    push_msat: Msat,
    feerate: FeeratePerKw,
    local_points: tuple[bytes, bytes],
    remote_point: bytes,
    alias: ShortChannelId,
    purpose: str | None,
) -> Committed:
    opener_has = Msat(to_msat(params.capacity) - push_msat)
    ours, theirs = (opener_has, push_msat) if params.holder_is_opener else (push_msat, opener_has)
    return Committed(
        params=params,
        phase=AwaitingLockIn(),
        local_number=0,
        remote_number=0,
        remote_revoked=0,
        settled_local=ours,
        settled_remote=theirs,
        fees=(FeeStep(feerate, 0, 0),),
        local_points=local_points,
        remote_points=(remote_point, None),
        alias_local=alias,
        funding_purpose=purpose,
        why="waiting for the funding transaction to confirm",
    )


def _signature(results: tuple[sign.Result, ...]) -> bytes:
    for result in results:
        if isinstance(result, sign.CounterpartySigned):
            return result.signatures[0].commitment
    raise TypeError("the signer granted a signature and sent none")


async def fund(io: OpeningIO, wish: Wish, policy: Policy, tell: Callable[[str], None]) -> Opened:
    """The opener's side. `tell` hears each step in plain words."""
    drawn = await _draw(io, wish.request_id, wish.peer)
    ours = policy.limits(wish.funding)
    kind = wish.kind
    io.send(
        OpenChannel(
            chain_hash=wish.chain_hash,
            temporary_channel_id=wish.temporary_channel_id,
            funding_satoshis=wish.funding,
            push_msat=wish.push_msat,
            dust_limit_satoshis=ours.dust_limit,
            max_htlc_value_in_flight_msat=ours.max_in_flight,
            channel_reserve_satoshis=ours.reserve,
            htlc_minimum_msat=ours.htlc_minimum,
            feerate_per_kw=wish.feerate_per_kw,
            to_self_delay=ours.to_self_delay,
            max_accepted_htlcs=ours.max_accepted_htlcs,
            funding_pubkey=drawn.keys.funding_pubkey,
            revocation_basepoint=drawn.keys.revocation_basepoint,
            payment_basepoint=drawn.keys.payment_basepoint,
            delayed_payment_basepoint=drawn.keys.delayed_payment_basepoint,
            htlc_basepoint=drawn.keys.htlc_basepoint,
            first_per_commitment_point=drawn.points[0],
            channel_flags=ANNOUNCE_CHANNEL if wish.announce else 0,
            tlvs=OpenChannelTlvs(upfront_shutdown_script=drawn.shutdown_script, channel_type=kind.to_bytes()),
        )
    )
    tell("waiting for the peer to accept")
    accept = await io.receive(AcceptChannel)
    terms.check_accept(accept, ours, kind, funding=wish.funding, push_msat=wish.push_msat)
    theirs = terms.keys_of(accept)
    script = bolt3_funding.script_pubkey(drawn.keys.funding_pubkey, theirs.funding_pubkey)
    tell("choosing coins")
    planned = await io.plan(script, wish.funding)
    outpoint = OutPoint(planned.txid, planned.output_index)
    params = Params(
        handle=drawn.channel,
        channel_id=bolt3_funding.channel_id(outpoint),
        peer=wish.peer,
        anchors=kind.anchors,
        holder_is_opener=True,
        fundings=(sign.Funding(outpoint.txid, outpoint.index, wish.funding),),
        holder=ours,
        counterparty=terms.limits_of(accept),
        holder_keys=drawn.keys,
        counterparty_keys=theirs,
        holder_script=drawn.shutdown_script,
        counterparty_upfront_script=terms.upfront_script(accept, terms.ACCEPTING),
        minimum_depth=accept.minimum_depth if wish.mindepth is None else wish.mindepth,
        announce=wish.announce,
        scid_alias=kind.scid_alias,
        zeroconf=kind.zeroconf,
    )
    if not io.claim(params.channel_id):
        raise CommandRefused("another channel uses this funding output", what_to_do="Open the channel again.")
    first_point = accept.first_per_commitment_point
    await _set_up(io, params, first_point, wish.push_msat)
    state = _first_state(
        params,
        push_msat=wish.push_msat,
        feerate=wish.feerate_per_kw,
        local_points=drawn.points,
        remote_point=first_point,
        alias=wish.alias,
        purpose=planned.purpose,
    )
    results = await _operations(
        io, params, sign.SignCounterparty(0, content(state, NO_HTLCS, Side.COUNTERPARTY, 0))
    )
    io.send(FundingCreated(wish.temporary_channel_id, outpoint.txid, outpoint.index, _signature(results)))
    tell("waiting for the peer to sign")
    signed = await io.receive(FundingSigned)
    if signed.channel_id != params.channel_id:
        raise PeerViolation("funding_signed for another channel", clause='BOLT 2, "funding_signed"')
    await _operations(io, params, _validate_first(state, signed.signature))
    return Opened(state)


def _validate_first(state: Committed, signature: bytes) -> sign.ValidateHolder:
    first = content(state, NO_HTLCS, Side.HOLDER, 0)
    return sign.ValidateHolder(0, first, (sign.PeerSignatures(signature, ()),))


async def accept(
    io: OpeningIO,
    offer: OpenChannel,
    policy: Policy,
    *,
    peer: bytes,
    features: FeatureSet,
    chain_hash: bytes,
    request_id: bytes,
    alias: ShortChannelId,
) -> Opened:
    """The fundee's side, from the peer's open_channel on. `features`: what the peer said in init."""
    funding = offer.funding_satoshis
    ours = policy.limits(funding)
    terms.check_open(offer, ours, chain_hash, features=features, trusted=peer in policy.zeroconf_peers)
    kind = terms.channel_type(offer, terms.OPENING)
    depth = 0 if kind.zeroconf else policy.minimum_depth
    drawn = await _draw(io, request_id, peer)
    io.send(
        AcceptChannel(
            temporary_channel_id=offer.temporary_channel_id,
            dust_limit_satoshis=ours.dust_limit,
            max_htlc_value_in_flight_msat=ours.max_in_flight,
            channel_reserve_satoshis=ours.reserve,
            htlc_minimum_msat=ours.htlc_minimum,
            minimum_depth=depth,
            to_self_delay=ours.to_self_delay,
            max_accepted_htlcs=ours.max_accepted_htlcs,
            funding_pubkey=drawn.keys.funding_pubkey,
            revocation_basepoint=drawn.keys.revocation_basepoint,
            payment_basepoint=drawn.keys.payment_basepoint,
            delayed_payment_basepoint=drawn.keys.delayed_payment_basepoint,
            htlc_basepoint=drawn.keys.htlc_basepoint,
            first_per_commitment_point=drawn.points[0],
            tlvs=AcceptChannelTlvs(
                upfront_shutdown_script=drawn.shutdown_script, channel_type=kind.to_bytes()
            ),
        )
    )
    created = await io.receive(FundingCreated)
    outpoint = OutPoint(created.funding_txid, created.funding_output_index)
    channel_id = bolt3_funding.channel_id(outpoint)
    if not io.claim(channel_id):
        raise PeerViolation("another channel has this funding output", clause='BOLT 2, "funding_created"')
    params = Params(
        handle=drawn.channel,
        channel_id=channel_id,
        peer=peer,
        anchors=kind.anchors,
        holder_is_opener=False,
        fundings=(sign.Funding(outpoint.txid, outpoint.index, funding),),
        holder=ours,
        counterparty=terms.limits_of(offer),
        holder_keys=drawn.keys,
        counterparty_keys=terms.keys_of(offer),
        holder_script=drawn.shutdown_script,
        counterparty_upfront_script=terms.upfront_script(offer, terms.OPENING),
        minimum_depth=depth,
        announce=terms.is_announced(offer),
        scid_alias=kind.scid_alias,
        zeroconf=kind.zeroconf,
    )
    await _set_up(io, params, offer.first_per_commitment_point, offer.push_msat)
    state = _first_state(
        params,
        push_msat=offer.push_msat,
        feerate=offer.feerate_per_kw,
        local_points=drawn.points,
        remote_point=offer.first_per_commitment_point,
        alias=alias,
        purpose=None,
    )
    results = await _operations(
        io,
        params,
        _validate_first(state, created.signature),
        sign.SignCounterparty(0, content(state, NO_HTLCS, Side.COUNTERPARTY, 0)),
    )
    return Opened(state, FundingSigned(channel_id, _signature(results)))


def funding_script(params: Params) -> bytes:
    return bolt3_funding.script_pubkey(
        params.holder_keys.funding_pubkey, params.counterparty_keys.funding_pubkey
    )
