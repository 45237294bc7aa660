"""What the resolution of one closed channel knows (BOLT 5).

`Facts` are fixed when a spend of the funding is seen: which of the five kinds it is, and which HTLCs somebody waits
for. `State` is what follows from blocks: which outputs are ours to spend, what was done about them, what became of
each HTLC. All of it is durable; nothing is volatile, so a restart goes on where the last save stood.
"""

from enum import StrEnum

from msgspec import Struct

from protocol.amounts import BlockHeight, FeeratePerKw, Msat, Sat
from protocol.bolt3.commitment import CommitmentParams
from protocol.bus.messages.signer import Operation, OtherParts, WalletCoin

HtlcKey = tuple[bool, int]
"""Offered by us, and the id."""
FINAL_DEPTH = 6
"""A spend this deep is acted on: a failed HTLC is failed upstream, and the channel counts as closed. Honest miners
made no longer reorganisation; to wait for more would let the incoming HTLC expire first."""
FORGET_DEPTH = 100
"""A spend this deep is irrevocably resolved in the words of BOLT 5. Until then every output stays watched, and what a
deeper reorganisation takes away is spent once more; after it the node forgets."""


class Kind(StrEnum):
    """Who spent the funding, and with what. `FUTURE`: a commitment of the peer that we do not
    remember, because we lost data; `OURS_LOST`: one of our own, likewise."""

    MUTUAL = "mutual"
    OURS = "ours"
    OURS_LOST = "ours_lost"
    THEIRS = "theirs"
    THEIRS_NEXT = "theirs_next"
    REVOKED = "revoked"
    FUTURE = "future"
    UNKNOWN = "unknown"


class HtlcFact(Struct, frozen=True, array_like=True):
    """An HTLC when the channel closed. `present`: it stands in the confirmed commitment (trimmed or not).

    `live`: its row is open, so somebody waits to hear how it ends. `elsewhere`: another valid commitment has an output
    for it, so a reorganisation could bring it back. `preimage`: known. `claim`: a received one that we may claim.
    `credited`: a received one that was fulfilled before, so that its absence means we were paid. `others`: HTLCs of
    other channels that pay the same invoice, which the signer judges with it.
    """

    offered: bool
    id: int
    amount_msat: Msat
    payment_hash: bytes
    cltv_expiry: int
    present: bool
    live: bool
    elsewhere: bool = False
    preimage: bytes | None = None
    claim: bool = False
    credited: bool = False
    others: OtherParts = ()

    @property
    def key(self) -> HtlcKey:
        return self.offered, self.id


class Facts(Struct, frozen=True):
    """`tx` spends the funding. `point`: that of the commitment's owner; None for a revoked one until the signer told.

    Of `OURS_LOST` it comes from the signer as well.
    `tell`: what the signer does not know yet and must hear first, such as the last revocation.
    """

    handle: bytes
    channel_id: bytes
    params: CommitmentParams
    kind: Kind
    number: int
    tx: bytes
    txid: bytes
    htlcs: tuple[HtlcFact, ...] = ()
    point: bytes | None = None
    tell: tuple[Operation, ...] = ()


class Role(StrEnum):
    """An output that is ours to spend, now, later or if something happens. The values are the signer's words.

    `LOST_HTLC`: of our own commitment, and we remember nothing of it. It is only watched: a second stage of ours that
    left before the loss makes an output that is ours.
    """

    ANCHOR = "anchor"
    TO_LOCAL = "to_local"
    TO_REMOTE = "to_remote"
    SECOND_STAGE = "second_stage_output"
    OUR_OFFERED = "our_offered"
    OUR_RECEIVED = "our_received"
    LOST_HTLC = "lost_htlc"
    THEIR_OFFERED = "their_offered_with_preimage"
    THEIR_RECEIVED = "their_received_after_timeout"
    REVOKED_TO_LOCAL = "revoked_to_local"
    REVOKED_HTLC = "revoked_htlc"
    REVOKED_SECOND_STAGE = "revoked_second_stage"


class Spent(Struct, frozen=True, array_like=True):
    """By a transaction in the block at `height`; `preimage` if its witness shows the one of the HTLC."""

    txid: bytes
    height: BlockHeight
    preimage: bytes | None = None


class Output(Struct, frozen=True, array_like=True):
    """`height`: the block of the transaction that made it; None while it waits for one, or a reorganisation has taken
    it away.

    `given_up`: it is not worth its fee, and why. `ceiling`: the most that we pay in fees for it, fixed when it was
    found. `alone`: a transaction that spent it with others was not taken, so it gets one of its own.
    """

    txid: bytes
    index: int
    value: Sat
    script: bytes
    role: Role
    htlc: HtlcKey | None
    height: BlockHeight | None
    spent: Spent | None = None
    given_up: str = ""
    ceiling: Sat = Sat(0)
    alone: bool = False

    @property
    def at(self) -> tuple[bytes, int]:
        return self.txid, self.index


class Claim(Struct, frozen=True):
    """One transaction of ours that spends `outputs`, in its newest form. `tx` None: not signed yet.

    `limit`: a feerate that the signer would not go beyond. `waits`: why there is no transaction yet. `refused`: why
    the mempool did not take `tx`.
    """

    id: int
    outputs: tuple[tuple[bytes, int], ...]
    feerate_per_kw: FeeratePerKw
    tx: bytes | None = None
    tx_feerate: FeeratePerKw = FeeratePerKw(0)
    limit: FeeratePerKw | None = None
    coins: tuple[WalletCoin, ...] = ()
    change: tuple[int, int] | None = None
    waits: str = ""
    refused: str = ""


class Outcome(Struct, frozen=True, array_like=True):
    """What became of an HTLC for good: an offered one went to the peer if `paid`, a received one came to us."""

    offered: bool
    id: int
    paid: bool
    preimage: bytes | None = None

    @property
    def key(self) -> HtlcKey:
        return self.offered, self.id


class State(Struct, frozen=True):
    """`height`: the block of the spend of the funding; None while it is in no block. `told`: outcomes that were said;
    said again after a restart. `seen`: it was in a block once. `resolved`: everything is `FINAL_DEPTH` deep; `final`:
    `FORGET_DEPTH`.
    """

    facts: Facts
    height: BlockHeight | None
    outputs: tuple[Output, ...] = ()
    claims: tuple[Claim, ...] = ()
    told: tuple[Outcome, ...] = ()
    next_claim: int = 1
    final: bool = False
    resolved: bool = False
    seen: bool = False
