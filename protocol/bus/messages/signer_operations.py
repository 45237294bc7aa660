"""The signer contract for a living channel: operations, each with its result (BOLT 2, "Normal Operation").

Part of `protocol.bus.messages.signer`, where a `ChannelRequest` lists them in order.
"""

from msgspec import Struct

from protocol.amounts import Sat
from protocol.bolt3.commitment import CommitmentContent
from protocol.bus.messages.fixed_bytes import Bytes32, Bytes33, Bytes64

MIN_FORWARD_DELTA = 6
"""The least number of blocks by which a received HTLC outlives the HTLC that passes it on.

A floor against a node that gives away all time, not a sensible policy: the policy's cltv_expiry_delta has to hold a
force close, a second stage and some reorgs (BOLT 2, "cltv_expiry_delta Selection", comes to 34 and more). Six blocks
are what is left if the node's own policy fails: one claim in the next blocks, at any fee."""


OtherParts = tuple[tuple[Bytes32, tuple[int, ...]], ...]
"""Received HTLCs of other channels that belong to the same payment: (BOLT 2 channel_id, their ids)."""


class PeerSignatures(Struct, frozen=True, array_like=True):
    """The peer's signatures on one commitment of ours, for one funding; HTLC signatures in output order."""

    commitment: Bytes64
    htlcs: tuple[Bytes64, ...]


class ValidateHolder(Struct, frozen=True, tag="validate", array_like=True):
    """Our commitment `number` with this content, signed by the peer (one set of signatures a funding)."""

    number: int
    content: CommitmentContent
    signatures: tuple[PeerSignatures, ...]


class RevokeHolder(Struct, frozen=True, tag="revoke", array_like=True):
    """Releases the secret of our commitment `number`; a version of `number + 1` must be validated."""

    number: int


class Forward(Struct, frozen=True, array_like=True):
    """Where an offered HTLC comes from: it passes on the received HTLC `from_htlc` of a channel of ours.

    `from_channel` is a BOLT 2 channel_id (of the first funding). The received HTLC has the same payment hash, no less
    amount, and expires at least MIN_FORWARD_DELTA blocks later."""

    htlc_id: int
    from_channel: Bytes32
    from_htlc: int


class SignCounterparty(Struct, frozen=True, tag="sign", array_like=True):
    """Signs the peer's commitment `number` with this content, on every funding.

    `forwards`: for each offered HTLC that is new in this content and passes on another one.
    """

    number: int
    content: CommitmentContent
    forwards: tuple[Forward, ...] = ()


class AcceptRevocation(Struct, frozen=True, tag="accept_revocation", array_like=True):
    """The peer's revocation of its commitment `number` and its point for `number + 2`."""

    number: int
    secret: Bytes32
    next_point: Bytes33


class AcceptSecondPoint(Struct, frozen=True, tag="second_point", array_like=True):
    """The peer's point for its commitment 1, from `channel_ready`; every later point comes with a revocation."""

    point: Bytes33


class CheckSecret(Struct, frozen=True, tag="check_secret", array_like=True):
    """Whether this is the secret of our commitment `number`: a peer that has it proves that we revoked it."""

    number: int
    secret: Bytes32


class LearnPreimage(Struct, frozen=True, tag="learn", array_like=True):
    """The peer's proof that an HTLC which we offered may leave in its favour."""

    preimage: Bytes32


class ReleasePreimage(Struct, frozen=True, tag="release", array_like=True):
    """The preimage of one of our invoices, to fulfil the received HTLCs `htlc_ids` of this channel.

    With `preimage` (evidence: it came from the next hop, or in the onion) no invoice is needed; the credit is noted.
    Evidence never stands in for the amount of an invoice of ours.

    `others`: HTLCs of other channels of ours that pay the same invoice, by BOLT 2 channel_id. They are judged and
    credited together with these, so that whichever of the channels asks first asks for all.
    """

    payment_hash: Bytes32
    htlc_ids: tuple[int, ...]
    preimage: Bytes32 | None = None
    others: OtherParts = ()


class HtlcBuried(Struct, frozen=True, tag="buried", array_like=True):
    """Ends an offered HTLC: the chain has decided it against the peer's claim, too deep to be undone.

    `spend` is the raw transaction that spends the funding. In it the HTLC timed out and we took it back, or it never
    had an output. The channel is frozen, and a received HTLC that was passed on as this one may fail.

    The signer has no view of the chain: it checks that `spend` spends this channel's funding, and takes the node's
    word for the rest (that it confirmed, how deep, and who took the output). So a stolen node that says this of an
    HTLC which the next peer has claimed on chain can make us lose that HTLC's amount to the peer before.
    """

    htlc_id: int
    spend: bytes


class SimpleClose(Struct, frozen=True, array_like=True):
    """The transaction of `option_simple_close`: the closer pays its fee. `variant`: its outputs, as the TLV types of
    `closing_complete` (1 the closer's, 2 the closee's, 3 both)."""

    by_holder: bool
    locktime: int
    variant: int


class SignMutualClose(Struct, frozen=True, tag="mutual_close", array_like=True):
    """Signs the closing transaction that pays us `to_holder` and freezes the channel (BOLT 3, "Legacy Closing
    Transaction"; with `simple`, "Closing Transaction").

    Amounts are before the fee, which the opener pays, or with `simple` the closer. Our script must be one of the cold
    descriptor's. `without_counterparty`, not with `simple`: the peer leaves its own output out, and gets nothing.
    """

    to_holder: Sat
    to_counterparty: Sat
    holder_script: bytes
    counterparty_script: bytes
    fee: Sat
    simple: SimpleClose | None = None
    without_counterparty: bool = False


class SignHolderCommitment(Struct, frozen=True, tag="force_close", array_like=True):
    """Signs our newest validated commitment and freezes the channel."""


Operation = (
    ValidateHolder
    | RevokeHolder
    | SignCounterparty
    | AcceptRevocation
    | AcceptSecondPoint
    | CheckSecret
    | LearnPreimage
    | ReleasePreimage
    | HtlcBuried
    | SignMutualClose
    | SignHolderCommitment
)


class Validated(Struct, frozen=True, tag="validated", array_like=True):
    pass


class Revoked(Struct, frozen=True, tag="revoked", array_like=True):
    """`next_point` is our point for the revoked number + 2."""

    secret: Bytes32
    next_point: Bytes33


class CounterpartySigned(Struct, frozen=True, tag="signed", array_like=True):
    signatures: tuple[PeerSignatures, ...]


class RevocationAccepted(Struct, frozen=True, tag="accepted", array_like=True):
    pass


class SecondPointAccepted(Struct, frozen=True, tag="second_point", array_like=True):
    pass


class SecretChecked(Struct, frozen=True, tag="checked", array_like=True):
    is_ours: bool


class PreimageLearned(Struct, frozen=True, tag="learned", array_like=True):
    pass


class PreimageReleased(Struct, frozen=True, tag="released", array_like=True):
    preimage: Bytes32


class HtlcIsBuried(Struct, frozen=True, tag="buried", array_like=True):
    pass


class MutualCloseSigned(Struct, frozen=True, tag="close_signed", array_like=True):
    signature: Bytes64


class HolderCommitmentSigned(Struct, frozen=True, tag="force_closed", array_like=True):
    """The whole transaction with its witness, ready to be published, and its number."""

    number: int
    transaction: bytes


Result = (
    Validated
    | Revoked
    | CounterpartySigned
    | RevocationAccepted
    | SecondPointAccepted
    | SecretChecked
    | PreimageLearned
    | PreimageReleased
    | HtlcIsBuried
    | MutualCloseSigned
    | HolderCommitmentSigned
)
