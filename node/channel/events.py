"""What a channel machine is told, and what it wants done: closed unions of frozen values."""

from enum import IntEnum

from msgspec import Struct

from node.channel.state import Htlc, OfferWant, State
from protocol.amounts import BlockHeight, FeeratePerKw, Sat, ShortChannelId
from protocol.bus.messages import channel as said
from protocol.bus.messages.signer import (
    ChannelAnswer,
    NotNow,
    OnionToPeel,
    Operation,
    OtherParts,
    Peeled,
    Refused,
    Unpeelable,
)
from protocol.wire.message import Message


class Connected(Struct, frozen=True):
    """`fresh`: the channel was opened on this very connection, so there is nothing to reestablish."""

    connection: int
    fresh: bool = False
    simple_close: bool = False
    """Both sides signalled option_simple_close."""
    can_quiesce: bool = False
    """Both sides signalled option_quiesce."""


class Disconnected(Struct, frozen=True):
    pass


class FromPeer(Struct, frozen=True):
    message: Message


class Offer(Struct, frozen=True):
    want: OfferWant


class Fulfil(Struct, frozen=True):
    """`preimage`: of the next hop; None for one of our own invoices, which the signer releases. `others`: what stands
    in other channels for the same invoice. `hold_time`, `attribution` and `promised` as in `FulfilHtlc` of the bus."""

    htlc_id: int
    preimage: bytes | None = None
    others: OtherParts = ()
    hold_time: int = 0
    attribution: bytes | None = None
    promised: bool = False


class Fail(Struct, frozen=True):
    """`failure`: an encoded BOLT 4 failure message, or `from_next` the failure onion of the next hop; wrapped here with
    the keys of the HTLC."""

    htlc_id: int
    failure: bytes
    from_next: bool = False
    hold_time: int = 0
    attribution: bytes | None = None


class FeerateMoved(Struct, frozen=True):
    """The feerate that our commitments should have now; the opener proposes it."""

    feerate_per_kw: FeeratePerKw


class SignerAnswered(Struct, frozen=True):
    """The answer to the open question (or to a resend), or why there is none."""

    ask: int
    answer: ChannelAnswer | Refused | NotNow


class OnionsPeeled(Struct, frozen=True):
    """(HTLC id, the packet that was peeled, the result)"""

    results: tuple[tuple[int, bytes, Peeled | Unpeelable], ...]


class FundingConfirmed(Struct, frozen=True):
    height: BlockHeight
    short_channel_id: ShortChannelId
    depth: int


class FundingReorganised(Struct, frozen=True):
    """The block that held the funding is no longer in the chain."""


class FundingMissing(Struct, frozen=True):
    """A block came, and the funding of a channel that the peer opened is still in none."""


class FundingSpent(Struct, frozen=True):
    """`tx` spends our funding; `height` None: only in the mempool."""

    tx: bytes
    height: BlockHeight | None
    depth: int


class SettledOnChain(Struct, frozen=True):
    """The chain decided an HTLC for good: an offered one went to the peer if `paid`, a received one came to us."""

    offered: bool
    htlc_id: int
    paid: bool
    preimage: bytes | None = None


class ResolvedOnChain(Struct, frozen=True):
    """Everything that the spend of the funding left is resolved and deep."""


class CloseWanted(Struct, frozen=True):
    """Again with a higher `feerate_per_kw` it replaces the closing transaction that is out (option_simple_close)."""

    feerate_per_kw: FeeratePerKw | None = None


class ForceCloseWanted(Struct, frozen=True):
    why: str


class SignerAsked(Struct, frozen=True):
    """The shell could reach the signer again: whatever is owed by it is asked."""


class SignerIsAhead(Struct, frozen=True):
    """After a start: the signer signed commitment `number` of the peer, and we do not remember it."""

    number: int


class QuiesceWanted(Struct, frozen=True):
    """We want the channel to rest (option_quiesce)."""


class QuietTooLong(Struct, frozen=True):
    """The channel came to rest on this connection a minute ago."""

    connection: int


class Tick(Struct, frozen=True):
    """A new block, or a new start: look whether anything is due."""


Event = (
    Connected
    | Disconnected
    | FromPeer
    | Offer
    | Fulfil
    | Fail
    | FeerateMoved
    | SignerAnswered
    | OnionsPeeled
    | FundingConfirmed
    | FundingReorganised
    | FundingMissing
    | FundingSpent
    | SettledOnChain
    | ResolvedOnChain
    | CloseWanted
    | ForceCloseWanted
    | SignerAsked
    | SignerIsAhead
    | QuiesceWanted
    | QuietTooLong
    | Tick
)


class Send(Struct, frozen=True):
    messages: tuple[Message, ...]


class AskSigner(Struct, frozen=True):
    """The one open question of this channel. Asked while its save runs; answered by `SignerAnswered`."""

    ask: int
    operations: tuple[Operation, ...]


class Peel(Struct, frozen=True):
    """Answered by `OnionsPeeled` with the same ids in the same order."""

    ids: tuple[int, ...]
    onions: tuple[OnionToPeel, ...]


class Tell(Struct, frozen=True):
    """To the payment service, after the save."""

    event: said.HtlcReceived | said.HtlcFulfilled | said.HtlcFailed | said.HtlcRefused | said.HtlcResolved


class Say(Struct, frozen=True):
    """To people: the channel changed its state, and why."""

    event: said.ChannelStateChanged


class Publish(Struct, frozen=True):
    """Broadcast this transaction; it is saved already."""

    tx: bytes


class Later(Struct, frozen=True):
    """Step this event after so many seconds; it may find that it is out of date."""

    seconds: float
    event: QuietTooLong


class Resolve(Struct, frozen=True):
    """Hand this confirmed spend of the funding to the resolution on chain. Harmless to repeat."""

    tx: bytes
    height: BlockHeight


class Drop(Struct, frozen=True):
    """Close the connection to the peer after these last messages."""

    reason: str
    messages: tuple[Message, ...] = ()


Effect = Send | AskSigner | Peel | Tell | Say | Publish | Resolve | Later | Drop


class Save(IntEnum):
    """How a step is made durable: not at all, with the next commit, or now (and the effects wait for it)."""

    NONE = 0
    NEXT = 1
    NOW = 2


MAX_DUST = Sat(50_000)


class Env(Struct, frozen=True):
    """What a step may know of the world."""

    height: BlockHeight = BlockHeight(0)
    feerate_per_kw: FeeratePerKw = FeeratePerKw(2500)
    """For closing transactions, and to judge the opener's: next few blocks."""
    max_dust: Sat = MAX_DUST
    """What we let stand in HTLCs without an output, in either commitment (checklist 21)."""


class Step(Struct, frozen=True):
    """`finished`: rows that left the live table in this step, as they are to be kept. `dropped`: offers that
    were never made, whose rows are erased."""

    state: State
    effects: tuple[Effect, ...]
    save: Save
    finished: tuple[Htlc, ...] = ()
    dropped: tuple[Htlc, ...] = ()
