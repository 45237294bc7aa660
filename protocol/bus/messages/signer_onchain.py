"""The signer contract after a close: sweeps, penalties and second stages (BOLT 5; BOLT 3, "HTLC-Timeout and
HTLC-Success Transactions"). Part of `protocol.bus.messages.signer`, which lists the requests.
"""

from msgspec import Struct

from protocol.amounts import FeeratePerKw, Sat
from protocol.bolt3.content import CommitmentContent
from protocol.bus.messages.fixed_bytes import Bytes16, Bytes32, Bytes33
from protocol.bus.messages.signer_operations import OtherParts


class SweptHtlc(Struct, frozen=True, array_like=True):
    """The HTLC behind a swept output. `offered`: by us. `preimage`: evidence from the next hop; without it the
    signer takes that of its own invoice, to which `others` may belong as in `ReleasePreimage`."""

    offered: bool
    id: int
    payment_hash: Bytes32
    cltv_expiry: int
    preimage: Bytes32 | None = None
    others: OtherParts = ()


class SweepInput(Struct, frozen=True, array_like=True):
    """An output of ours on chain. `kind` says how it is spent; `number` is that of the commitment it comes from.

    "to_local": our commitment, after the delay; "second_stage_output": likewise, of our second-stage transaction.
    Of a channel that is frozen as stale any number goes: what is in the chain may be newer than what is remembered.
    "to_remote": the peer's commitment (no number needed).
    "their_offered_with_preimage", "their_received_after_timeout": an HTLC of the peer's unrevoked commitment.
    "revoked_to_local", "revoked_htlc", "revoked_second_stage": of a commitment that the peer revoked.
    """

    kind: str
    txid: Bytes32
    index: int
    value: Sat
    number: int = 0
    htlc: SweptHtlc | None = None


class SignSweep(Struct, frozen=True, tag="sweep"):
    """Builds and signs one transaction that moves these outputs to the cold descriptor."""

    channel: Bytes16
    inputs: tuple[SweepInput, ...]
    feerate_per_kw: FeeratePerKw


class WalletCoin(Struct, frozen=True, array_like=True):
    """A confirmed coin of branch 0, 1 or 3 that pays a fee. One of branch 3 was proven with `NoteReserve`."""

    txid: Bytes32
    index: int
    value: Sat
    branch: int
    position: int


class StagedHtlc(Struct, frozen=True, array_like=True):
    """An HTLC of our own commitment. `preimage` and `others` as in `SweptHtlc`, for one that we received."""

    offered: bool
    id: int
    preimage: Bytes32 | None = None
    others: OtherParts = ()


class SignSecondStage(Struct, frozen=True, tag="second_stage"):
    """Builds and signs HTLC-timeout or HTLC-success of the commitment that we force-closed with.

    Without anchors: one HTLC, at the fee that the peer signed. With anchors several of one lock time share a
    transaction, and `coins` pay its fee; what is left goes to `change`, a place in branch 0, 1 or 3.
    """

    channel: Bytes16
    number: int
    htlcs: tuple[StagedHtlc, ...]
    coins: tuple[WalletCoin, ...] = ()
    change: tuple[int, int] | None = None
    feerate_per_kw: FeeratePerKw = FeeratePerKw(0)


class SignAnchor(Struct, frozen=True, tag="anchor"):
    """Spends our anchor on the commitment that we force-closed with, so that both together pay this feerate.

    `coins` pay; what is left goes to `change`, a place in branch 0, 1 or 3. With `theirs` it is our anchor on the
    peer's commitment `number`, one that we signed and that is not revoked; `content` says which of its versions
    (None: the newest). That does not freeze the channel: it may be asked while the commitment waits in a mempool.
    """

    channel: Bytes16
    number: int
    coins: tuple[WalletCoin, ...]
    change: tuple[int, int]
    feerate_per_kw: FeeratePerKw
    theirs: bool = False
    content: CommitmentContent | None = None


class FindPeerPoint(Struct, frozen=True, tag="peer_point"):
    """The peer's point of its commitment `number`, out of its secret where that was revoked."""

    channel: Bytes16
    number: int


class FindHolderPoint(Struct, frozen=True, tag="holder_point"):
    """Our own point of commitment `number`, which stands in the chain and whose state was lost.

    For channels that are frozen as stale or by a force close: a living one gives its points to the peer in their order.
    """

    channel: Bytes16
    number: int


class SignPenalties(Struct, frozen=True, tag="penalties"):
    """Signs beforehand what punishes one revoked commitment of the peer, for a watchtower to keep.

    `content` is that of the commitment, told from its owner (the peer), as the node rebuilt it; its number says which
    one. The signer cannot check it (it keeps no revoked content), and need not: a wrong content gives another
    transaction id, so what is signed spends nothing that can ever exist. Nothing is frozen or counted.
    """

    channel: Bytes16
    content: CommitmentContent
    feerates: tuple[FeeratePerKw, ...]


MAX_PENALTY_FEERATES = 8
PENALTY_INPUTS = 200
"""So many outputs go into one penalty, far below the size that nodes relay; a commitment with more gets several."""


class PenaltiesSigned(Struct, frozen=True, tag="penalties"):
    """Whole transactions, each to the channel's shutdown script (cold), for the commitment with this transaction id.

    For each feerate in turn: first the one that takes to_local and every HTLC output; then one for each of these
    outputs alone, for the case that the cheat moves one of them by a second stage, which spoils the first; and,
    without anchors, one for the output of each second stage. (With anchors a second stage has inputs that nobody
    knows beforehand: `SignSweep` with "revoked_second_stage" answers it.) A transaction whose fee would eat the
    output, or more than half of it, is left out.
    """

    commitment_txid: Bytes32
    transactions: tuple[bytes, ...]


class SweepSigned(Struct, frozen=True, tag="sweep"):
    transaction: bytes


class SecondStageSigned(Struct, frozen=True, tag="second_stage"):
    transaction: bytes


class AnchorSigned(Struct, frozen=True, tag="anchor"):
    transaction: bytes


class PeerPointFound(Struct, frozen=True, tag="peer_point"):
    point: Bytes33


class HolderPointFound(Struct, frozen=True, tag="holder_point"):
    point: Bytes33
