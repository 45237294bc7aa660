"""What the resolution of a closed channel is told, and what it wants done: closed unions of frozen values."""

from msgspec import Struct

from node.onchain.state import HtlcKey, Outcome, State
from protocol.amounts import FEERATE_FLOOR, BlockHeight, FeeratePerKw, Sat
from protocol.bus.messages.signer import OtherParts, SignAnchor, SignSecondStage, SignSweep, WalletCoin


class Confirmed(Struct, frozen=True):
    """The spend of the funding is in the block at `height`."""

    height: BlockHeight


class Unconfirmed(Struct, frozen=True):
    """The block with the spend of the funding left the chain."""


class PeerPointKnown(Struct, frozen=True):
    point: bytes


class OutputSpent(Struct, frozen=True):
    """`height` None: only in the mempool."""

    txid: bytes
    index: int
    tx: bytes
    height: BlockHeight | None


class SpendLost(Struct, frozen=True):
    """The block with the spend of an output left the chain."""

    txid: bytes
    index: int


class NewBlock(Struct, frozen=True):
    """Everything of this block was told before."""


class ClaimWanted(Struct, frozen=True):
    """Payments want this received HTLC. `preimage` None: it is of our own invoice, and the signer has it; `others` of
    other channels may pay it too."""

    htlc_id: int
    preimage: bytes | None = None
    others: OtherParts = ()


class Signed(Struct, frozen=True):
    claim: int
    tx: bytes
    feerate_per_kw: FeeratePerKw


class NotSigned(Struct, frozen=True):
    """`tag`: the signer's rule, or empty when the signer is away."""

    claim: int
    tag: str
    why: str


class NotTaken(Struct, frozen=True):
    """The mempool refused a transaction of ours, in the backend's words."""

    txid: bytes
    reason: str


class CoinsFound(Struct, frozen=True):
    """Coins of the wallet are reserved for the fee of a claim. Without coins: why there are none."""

    claim: int
    coins: tuple[WalletCoin, ...]
    change: tuple[int, int] | None = None
    why: str = ""


class Resume(Struct, frozen=True):
    """After a start: watches and outcomes are said again."""


Event = (
    Confirmed
    | Unconfirmed
    | PeerPointKnown
    | OutputSpent
    | SpendLost
    | NewBlock
    | ClaimWanted
    | Signed
    | NotSigned
    | NotTaken
    | CoinsFound
    | Resume
)


class FindPoint(Struct, frozen=True):
    """Ask the signer for the peer's point of this commitment. Answered by `PeerPointKnown`."""

    number: int


class Watch(Struct, frozen=True):
    """Tell of spends of this output, in the mempool too, and in blocks from `since` on."""

    txid: bytes
    index: int
    script: bytes
    since: int = 0


class Unwatch(Struct, frozen=True):
    """Nothing that happens to this output matters any more."""

    txid: bytes
    index: int


class Sign(Struct, frozen=True):
    """Ask the signer. Answered by `Signed` or `NotSigned`."""

    claim: int
    request: SignSweep | SignSecondStage | SignAnchor


class NeedCoins(Struct, frozen=True):
    """Reserve confirmed coins of the wallet for a fee. Answered by `CoinsFound`."""

    claim: int
    value: Sat


class ReleaseCoins(Struct, frozen=True):
    """A claim ended without its coins, or with them: what is not spent is free."""

    claim: int


class Publish(Struct, frozen=True):
    """Broadcast; it is saved already. `parents`: unconfirmed ones that its fee is meant for, too."""

    tx: bytes
    label: str
    parents: tuple[bytes, ...] = ()


class Forget(Struct, frozen=True):
    """This transaction of ours is superseded: by another form, or by whoever spent its inputs."""

    txid: bytes


class Settle(Struct, frozen=True):
    """An HTLC ended for good. Harmless to repeat."""

    outcome: Outcome


class Warn(Struct, frozen=True):
    """For people: what happened or may happen, and what to do."""

    sentence: str


class Done(Struct, frozen=True):
    """Everything is resolved and `FINAL_DEPTH` deep. Harmless to repeat."""


Effect = (
    FindPoint | Watch | Unwatch | Sign | NeedCoins | ReleaseCoins | Publish | Forget | Settle | Warn | Done
)


class Env(Struct, frozen=True):
    """What a step may know of the world. Feerates for the next block or two, for six, and for a day."""

    height: BlockHeight
    fast: FeeratePerKw = FEERATE_FLOOR
    normal: FeeratePerKw = FEERATE_FLOOR
    slow: FeeratePerKw = FEERATE_FLOOR


class Step(Struct, frozen=True):
    """`save`: the state changed and must be durable before the effects leave."""

    state: State
    effects: tuple[Effect, ...]
    save: bool


__all__ = ["Effect", "Env", "Event", "HtlcKey", "Step"]
