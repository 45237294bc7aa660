"""What a channel knows: the durable part, the HTLC rows, and what dies with the connection (BOLT 2).

Commitment numbers count from 0. `local_number` is the newest commitment of ours that the peer signed; every
older one is revoked. `remote_number` is the newest of the peer's that we signed; the peer has revoked
`remote_revoked` of its commitments (numbers 0 … remote_revoked - 1), so its unrevoked ones are
`remote_revoked` … `remote_number`: one, or two while we wait for revoke_and_ack.

An HTLC stands in commitment n of a side when `from <= n` and not `to <= n`. That range is the whole history
that is needed to rebuild, and later to punish, any state.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from msgspec import Struct

from protocol.amounts import BlockHeight, FeeratePerKw, Msat, Sat, ShortChannelId
from protocol.bolt3.commitment import ChannelKeys
from protocol.bolt3.simple_close import Terms as CloseTerms
from protocol.bus.messages.signer import AcceptRevocation, Funding, OtherParts, PeerSignatures
from protocol.wire.bolt2_update import (
    UpdateAddHtlc,
    UpdateFailHtlc,
    UpdateFailMalformedHtlc,
    UpdateFee,
    UpdateFulfillHtlc,
)
from protocol.wire.message import Message


class Htlc(Struct, frozen=True):
    """One HTLC: a row, written once and updated in place. `offered`: by us.

    `onion` is kept only while it is owed: to the peer (offered) until it revoked the state before, or to the
    signer (received) until it was peeled into `payload`, `next_onion`, `um`, `ammag` and `ammagext`.
    `preimage` or `failure` (a wrapped onion, or with `failure_code` the hash of an unreadable one) says how it ends.
    A received HTLC may have its `preimage` before it is removed: the next hop gave it, and nothing else will end it.
    `onion_key`: the ephemeral key of the onion that a received one came with.
    `attribution`: the data (BOLT 4) that we owe with the removal of a received one, or that came with the end of an
    offered one.
    """

    offered: bool
    id: int
    amount_msat: Msat
    payment_hash: bytes
    cltv_expiry: int
    local_from: int | None = None
    local_to: int | None = None
    remote_from: int | None = None
    remote_to: int | None = None
    onion: bytes | None = None
    payload: bytes | None = None
    next_onion: bytes | None = None
    um: bytes | None = None
    ammag: bytes | None = None
    preimage: bytes | None = None
    failure: bytes | None = None
    failure_code: int | None = None
    origin: str | None = None
    onion_key: bytes | None = None
    ammagext: bytes | None = None
    attribution: bytes | None = None

    @property
    def key(self) -> tuple[bool, int]:
        return self.offered, self.id


class Limits(Struct, frozen=True):
    """What one side asked for at the open. It binds the *other* side, `dust_limit` aside (BOLT 2, open_channel)."""

    dust_limit: Sat
    reserve: Sat
    to_self_delay: int
    max_accepted_htlcs: int
    htlc_minimum: Msat
    max_in_flight: Msat


class Params(Struct, frozen=True):
    """Fixed at the open. `handle` names our keys in the signer; `holder_script` is where our closes pay to."""

    handle: bytes
    channel_id: bytes
    peer: bytes
    anchors: bool
    holder_is_opener: bool
    fundings: tuple[Funding, ...]
    holder: Limits
    counterparty: Limits
    holder_keys: ChannelKeys
    counterparty_keys: ChannelKeys
    holder_script: bytes
    counterparty_upfront_script: bytes | None
    minimum_depth: int
    """0: the channel is used before its funding is confirmed, by the word of a person."""
    announce: bool = False
    scid_alias: bool = False
    """Its type says so: the real short channel id takes no HTLC and stands in no invoice."""
    zeroconf: bool = False
    """Its type says so."""

    @property
    def capacity(self) -> Sat:
        return self.fundings[0].capacity


class FeeStep(Struct, frozen=True, array_like=True):
    """A feerate and the first commitment numbers that use it (None: not yet there)."""

    feerate_per_kw: FeeratePerKw
    local_from: int | None
    remote_from: int | None


class AwaitingLockIn(Struct, frozen=True, tag="awaiting_lock_in"):
    """The funding is signed; channel_ready was `sent`, or `received`, or neither yet."""

    sent: bool = False
    received: bool = False


class Normal(Struct, frozen=True, tag="normal"):
    pass


class ShuttingDown(Struct, frozen=True, tag="shutting_down"):
    """`sent`: our shutdown is out. `theirs`: the script of the peer's, once it came."""

    sent: bool
    theirs: bytes | None


class CloseKind(StrEnum):
    MUTUAL = "mutual"
    OURS = "ours"
    THEIRS = "theirs"
    UNKNOWN = "unknown"
    NEVER_FUNDED = "never_funded"


class Closing(Struct, frozen=True, tag="closing"):
    """A transaction that spends the funding is out: `tx` ours to rebroadcast, or seen on chain."""

    kind: CloseKind
    tx: bytes
    height: BlockHeight | None = None


class Closed(Struct, frozen=True, tag="closed"):
    kind: CloseKind
    txid: bytes


class Lost(Struct, frozen=True, tag="lost"):
    """Our state is older than the peer's or the signer's: nothing is offered, revoked or published."""

    reason: str


Phase = AwaitingLockIn | Normal | ShuttingDown | Closing | Closed | Lost


class Question(Struct, frozen=True):
    """What we asked the signer and must ask again, word for word, after a crash.

    `validate`: the peer's signatures on our commitment `local_number + 1`, which also revokes `local_number`;
    empty when the signer validated it before a crash of ours, went on, and has revoked that one too.
    `sign`: the peer's commitment `remote_number` (already counted). `release`: received HTLCs to be fulfilled.
    `others`: for those of them that are a part of a payment, what stands for it in other channels.
    """

    validate: tuple[PeerSignatures, ...] | None = None
    sign: bool = False
    release: tuple[int, ...] = ()
    others: dict[int, OtherParts] = {}


class Committed(Struct):
    """The durable header. Frozen by custom: only a step's own copy of it is ever written to (`draft`)."""

    params: Params
    phase: Phase
    local_number: int
    remote_number: int
    remote_revoked: int
    settled_local: Msat
    settled_remote: Msat
    fees: tuple[FeeStep, ...]
    local_points: tuple[bytes, bytes]
    """Our points for `local_number` and `local_number + 1`."""
    remote_points: tuple[bytes, bytes | None]
    """The peer's points for `remote_revoked` and `remote_revoked + 1`."""
    last_remote_secret: bytes = bytes(32)
    unaccepted: AcceptRevocation | None = None
    """A revocation that the signer was not yet told; it leads the next request."""
    unlearned: tuple[bytes, ...] = ()
    """Preimages from the peer that the signer was not yet told."""
    next_offered_id: int = 0
    next_received_id: int = 0
    commitment_sent_last: bool = False
    """Of our last commitment_signed and revoke_and_ack, the first left later (BOLT 2, retransmission order)."""
    question: Question | None = None
    funding_purpose: str | None = None
    """The wallet's plan of our funding transaction, sent again until it confirms."""
    funding_height: BlockHeight | None = None
    short_channel_id: ShortChannelId | None = None
    alias_local: ShortChannelId | None = None
    """Ours for incoming HTLCs, for ever. None: the channel is older than aliases, and the next start draws one."""
    aliases_remote: tuple[ShortChannelId, ...] = ()
    """The peer's for our route hints, newest last."""
    opened_height: BlockHeight | None = None
    """When the funding was signed; None for a channel that is older than this field."""
    closer: str | None = None
    why: str = ""
    forgotten: bool = False
    """The channel came back from a static backup: of its commitments we know nothing."""
    peer_close_script: bytes | None = None
    """Where the peer's part of the closing transaction that is out goes (option_simple_close)."""
    close_feerate: FeeratePerKw | None = None
    """What a person asked our closing transaction to pay."""
    stray: int | None = None
    """The signer signed this commitment of the peer with a content that a crash made us forget. Until the peer revokes
    that number the stray content stands in the signer's way, so two more are signed even if nothing is due."""

    @property
    def awaits_revocation(self) -> bool:
        return self.remote_revoked < self.remote_number


Htlcs = Mapping[tuple[bool, int], Htlc]
NO_HTLCS: Htlcs = MappingProxyType({})


class Offline(Struct, frozen=True):
    pass


class Reestablishing(Struct, frozen=True):
    """Connected; `sent` our channel_reestablish or still waiting for the signer's open answer to do so."""

    connection: int
    sent: bool


class Online(Struct, frozen=True):
    connection: int


Link = Offline | Reestablishing | Online


class Negotiation(Struct, frozen=True):
    """Legacy closing: the fee that we last proposed, the answer that we asked the signer for, and our range."""

    low: Sat
    high: Sat
    proposed: Sat | None = None
    our_signature: bytes | None = None
    accepted: bytes | None = None
    """The peer's signature on the fee that we asked the signer to agree to."""
    heard: Sat | None = None
    """What the peer proposed last, outside of our range."""
    without_theirs: bool = False
    """The peer's output is left out of what we asked the signer to sign."""


class Flowing(Struct, frozen=True):
    """Updates come and go."""


class WantsQuiet(Struct, frozen=True):
    """We want the channel to rest; our stfu waits until no update of ours is pending."""


class Asked(Struct, frozen=True):
    """The peer's stfu came; ours waits until no update of ours is pending."""


class SaidStfu(Struct, frozen=True):
    """Our stfu is out, and the peer's has not come."""


class Quiescent(Struct, frozen=True):
    """Both said stfu: nothing moves until the connection ends. `we_lead`: what it is for begins with us."""

    we_lead: bool


Flow = Flowing | WantsQuiet | Asked | SaidStfu | Quiescent


class CloseRound(Struct, frozen=True):
    """option_simple_close: one closing transaction in the forms that are signed (`variants`), with our signatures in
    their order; `peer_signature` is the peer's on what it pays for itself."""

    terms: CloseTerms
    by_us: bool
    variants: tuple[int, ...]
    signatures: tuple[bytes, ...] = ()
    peer_signature: bytes = b""


class Volatile(Struct, frozen=True):
    """What a disconnection or a crash erases.

    `staged`: the peer's updates that no commitment_signed of its covers yet. `wants`: what we would do, in order,
    when the line is free. `inbox`: the peer's messages that wait for the signer's answer to the open question.
    """

    link: Link = Offline()
    staged: tuple["Update", ...] = ()
    wants: tuple["Want", ...] = ()
    inbox: tuple[Message, ...] = ()
    negotiation: Negotiation | None = None
    asks: int = 0
    """Numbers what we asked the signer, so that a late answer is not taken for another one."""
    asking: bool = False
    """The open question is with the signer now (false after a restart, or while the signer is away)."""
    resend: "Resend | None" = None
    claim: "Claim | None" = None
    """The peer says that we are behind; the signer is asked whether it can prove that."""
    parked: tuple["FulfilWant", ...] = ()
    """HTLCs whose preimage the signer did not release yet: an unrevoked commitment that it signed lacks them (one
    that a crash of ours made us forget). Asked again after each revocation of the peer."""
    shutdown_due: bool = False
    """Our shutdown leaves as soon as no commitment of ours is under way: no update_add_htlc may follow it."""
    shutdown_heard: bool = False
    """The peer said shutdown, maybe again, on this connection: before that no fee is negotiated."""
    closing_fee: Sat | None = None
    """A mutual close at this fee is with the signer."""
    burying: tuple[int, ...] = ()
    """Forwarded HTLCs that the chain decided against the next hop: the signer is told first, and then payments."""
    resolved: bool = False
    """The chain has resolved everything; the channel is closed as soon as nothing is to be buried any more."""
    accept_due: bool = False
    """A forward waits for the revocation that the signer was not told yet: an HTLC to be passed on stands, or one that
    passes on is gone, only when the signer knows. So it is told now and not with the next request."""
    unannounced: tuple[int, ...] = ()
    """Received HTLCs that payments are told of once the signer knows that revocation."""
    flow: Flow = Flowing()
    can_quiesce: bool = False
    """Both sides of this connection know option_quiesce."""
    simple_close: bool = False
    """Both sides of this connection know option_simple_close."""
    close_proposed: bool = False
    """Our closing_complete of this connection was begun."""
    close_asked: CloseRound | None = None
    """With the signer now: ours, or the peer's that we sign for it."""
    close_sent: CloseRound | None = None
    """Our closing_complete, which the peer has not answered."""
    stalled: str = ""
    """Why the signer refused to sign without any wish of ours in it; nothing is signed until it is asked again."""


class Resend(Struct, frozen=True):
    """What the peer lacks after a reconnection and the signer must say again."""

    revocation: bool
    commitment: bool


class Claim(Struct, frozen=True):
    """What the peer's channel_reestablish says about a commitment of ours that we do not know as revoked."""

    number: int
    secret: bytes


class OfferWant(Struct, frozen=True):
    amount_msat: Msat
    payment_hash: bytes
    cltv_expiry: int
    onion: bytes
    origin: str


class FulfilWant(Struct, frozen=True):
    """`preimage` None: the signer has it, of our own invoice, which `others` of other channels may pay too.
    `promised`: somebody was told that it is settled."""

    htlc_id: int
    preimage: bytes | None = None
    others: OtherParts = ()
    attribution: bytes | None = None
    promised: bool = False


class FailWant(Struct, frozen=True):
    """`reason`: the wrapped failure onion; or with `code` the hash of the onion that could not be read."""

    htlc_id: int
    reason: bytes
    code: int | None = None
    attribution: bytes | None = None


class FeeWant(Struct, frozen=True):
    feerate_per_kw: FeeratePerKw


Want = OfferWant | FulfilWant | FailWant | FeeWant
Update = UpdateAddHtlc | UpdateFulfillHtlc | UpdateFailHtlc | UpdateFailMalformedHtlc | UpdateFee


def is_busy(committed: Committed, volatile: Volatile) -> bool:
    """The signer owes us an answer, now or when it is back; until then the peer's messages wait."""
    return (
        committed.question is not None
        or volatile.asking
        or volatile.resend is not None
        or volatile.claim is not None
        or volatile.closing_fee is not None
        or volatile.close_asked is not None
    )


class State(Struct, frozen=True):
    committed: Committed
    htlcs: Htlcs
    volatile: Volatile
