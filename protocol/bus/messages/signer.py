"""The signer contract: what a node may ask of its signer, and what a signer may say (DESIGN, "The signer contract").

Requests carry structure, never a digest, a script or a transaction to sign as it stands; the signer builds
what it signs. Every request is answered, `Refused`, found to be the peer's fault (`PeerFault`), or `NotNow`.
A request that was granted once is granted again with the same answer, byte for byte; refusals are not kept.

Wire: msgpack of `SignerCall` one way and `SignerReply` the other, each one ZeroMQ frame (or one serial frame).
"""

import msgspec
from msgspec import Struct

from protocol.amounts import Msat, Sat
from protocol.bolt3.commitment import ChannelKeys, CommitmentContent
from protocol.bus.messages.fixed_bytes import Bytes16, Bytes32, Bytes33, Bytes64
from protocol.bus.messages.signer_onchain import (
    AnchorSigned,
    FindPeerPoint,
    PeerPointFound,
    SecondStageSigned,
    SignAnchor,
    SignSecondStage,
    SignSweep,
    StagedHtlc,
    SweepInput,
    SweepSigned,
    SweptHtlc,
    WalletCoin,
)

__all__ = [
    "AnchorSigned",
    "FindPeerPoint",
    "PeerPointFound",
    "SecondStageSigned",
    "SignAnchor",
    "SignSecondStage",
    "SignSweep",
    "StagedHtlc",
    "SweepInput",
    "SweepSigned",
    "SweptHtlc",
    "WalletCoin",
]
CONTRACT_VERSION = 1
MAX_VERSIONS = 8
"""The most versions of one commitment number that a signer keeps; then the node repeats one of them."""

MAX_CLOSING_FEE = Sat(50_000)
MAX_CLOSING_FEE_SHARE = 4
"""A closing or sweep fee is at most MAX_CLOSING_FEE and at most a quarter of what is moved."""

ChannelHandle = bytes
"""16 bytes drawn by the signer; the name of a channel's keys."""


class Hello(Struct, frozen=True, tag="hello"):
    """Opens a node session and fences every older one. The first request of a connection."""

    network: str
    contract_version: int = CONTRACT_VERSION


class StaticKeyStep(Struct, frozen=True, tag="static_key"):
    """The one static-key operation of a BOLT 8 handshake: HKDF(chaining key, ECDH(node key, ephemeral))."""

    chaining_key: Bytes32
    remote_ephemeral: Bytes33


class OnionToPeel(Struct, frozen=True, array_like=True):
    packet: bytes
    associated_data: Bytes32


class PeelOnions(Struct, frozen=True, tag="peel"):
    onions: tuple[OnionToPeel, ...]


class NewChannel(Struct, frozen=True, tag="new_channel"):
    """Draws the keys of a channel. The same `request_id` gets the same keys."""

    request_id: Bytes32
    peer: Bytes33


class Terms(Struct, frozen=True):
    """What one side asked for at the open. `to_self_delay` is imposed *on this side's* own to_local."""

    dust_limit: Sat
    to_self_delay: int


class Funding(Struct, frozen=True, array_like=True):
    """One funding output. A channel holds a list of them (splicing); today always one."""

    txid: Bytes32
    index: int
    capacity: Sat


class SetupChannel(Struct, frozen=True, tag="setup_channel"):
    """Fixes the parameters of a channel for ever. Repeating it with other values is refused."""

    channel: Bytes16
    anchors: bool
    holder_is_opener: bool
    fundings: tuple[Funding, ...]
    holder: Terms
    counterparty: Terms
    counterparty_keys: ChannelKeys
    counterparty_first_point: Bytes33
    push_msat: Msat


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
    """Where an offered HTLC comes from: it passes on the received HTLC `from_htlc` of another channel of ours.

    `from_channel` is a BOLT 2 channel_id (of the first funding)."""

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
    """

    payment_hash: Bytes32
    htlc_ids: tuple[int, ...]
    preimage: Bytes32 | None = None


class SignMutualClose(Struct, frozen=True, tag="mutual_close", array_like=True):
    """Signs the closing transaction that pays us `to_holder` and freezes the channel (BOLT 3, "Closing Transaction").

    Amounts are before the fee, which the opener pays. Our script must be one of the cold descriptor's.
    """

    to_holder: Sat
    to_counterparty: Sat
    holder_script: bytes
    counterparty_script: bytes
    fee: Sat


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
    | SignMutualClose
    | SignHolderCommitment
)


class ChannelRequest(Struct, frozen=True, tag="channel"):
    """Ordered operations on one channel: judged in order, saved once, answered once.

    The first that is refused ends the list; what stood before it is granted and kept.
    """

    channel: Bytes16
    operations: tuple[Operation, ...]


class ChannelNumbers(Struct, frozen=True, tag="numbers"):
    """Asks how far each channel has come in the signer, to compare after a crash."""


class MakeInvoice(Struct, frozen=True, tag="invoice"):
    """The signer draws preimage and payment secret, keeps them, and signs. The same `request_id` repeats."""

    request_id: Bytes32
    timestamp: int
    amount_msat: Msat | None
    description: str | None
    description_hash: Bytes32 | None
    expiry: int
    min_final_cltv_expiry: int
    route_hints: tuple[tuple[tuple[bytes, int, int, int, int], ...], ...] = ()
    """Each hint is hops of (node id, short channel id, base msat, proportional millionths, cltv delta)."""


class SignMessage(Struct, frozen=True, tag="message"):
    """The `signmessage` of Lightning tools: domain-separated by its prefix, answered in zbase32."""

    message: str


class SignPsbt(Struct, frozen=True, tag="psbt"):
    """Wallet inputs only; each input with its full previous transaction. Channel keys never sign here."""

    psbt: bytes


Request = (
    Hello
    | StaticKeyStep
    | PeelOnions
    | NewChannel
    | SetupChannel
    | ChannelRequest
    | SignSweep
    | SignSecondStage
    | SignAnchor
    | FindPeerPoint
    | ChannelNumbers
    | MakeInvoice
    | SignMessage
    | SignPsbt
)


class Welcome(Struct, frozen=True, tag="welcome"):
    """`wallet_xpub` is the account at m/9735'/chain'/2' (branches 0 receive, 1 change, 2 cold)."""

    session: int
    node_id: Bytes33
    network: str
    wallet_xpub: str
    wallet_origin: str


class StaticKeyStepped(Struct, frozen=True, tag="static_key"):
    chaining_key: Bytes32
    cipher_key: Bytes32


class Peeled(Struct, frozen=True, tag="peeled", array_like=True):
    """`next_packet` is None for the final hop. `um` and `ammag` make failure onions for this HTLC."""

    payload: bytes
    next_packet: bytes | None
    um: Bytes32
    ammag: Bytes32


class Unpeelable(Struct, frozen=True, tag="unpeelable", array_like=True):
    """The onion is broken; the HTLC is failed with update_fail_malformed_htlc and this code."""

    failure_code: int
    sha256_of_onion: Bytes32


class OnionsPeeled(Struct, frozen=True, tag="peel"):
    results: tuple[Peeled | Unpeelable, ...]


class ChannelDrawn(Struct, frozen=True, tag="new_channel"):
    """`points` are our per-commitment points 0 and 1; `shutdown_script` pays the cold descriptor."""

    channel: Bytes16
    keys: ChannelKeys
    points: tuple[Bytes33, Bytes33]
    shutdown_script: bytes


class ChannelSetUp(Struct, frozen=True, tag="setup_channel"):
    pass


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


class MutualCloseSigned(Struct, frozen=True, tag="close_signed", array_like=True):
    signature: Bytes64


class HolderCommitmentSigned(Struct, frozen=True, tag="force_closed", array_like=True):
    """The whole transaction with its witness, ready to be published, and its number."""

    number: int
    transaction: bytes


class Refused(Struct, frozen=True, tag="refused"):
    """We will not do this. `tag` names the rule; `next_step` is a sentence that a person can act on."""

    tag: str
    rule: str
    seen: str
    limit: str
    next_step: str


class PeerFault(Struct, frozen=True, tag="peer_fault"):
    """The peer broke a rule: what it sent cannot be accepted."""

    tag: str
    sentence: str
    clause: str


class NotNow(Struct, frozen=True, tag="not_now"):
    """Ask again later (locked, busy, waiting for a person)."""

    sentence: str
    retry_after_seconds: float = 1.0


Result = (
    Validated
    | Revoked
    | CounterpartySigned
    | RevocationAccepted
    | SecondPointAccepted
    | SecretChecked
    | PreimageLearned
    | PreimageReleased
    | MutualCloseSigned
    | HolderCommitmentSigned
)


class ChannelAnswer(Struct, frozen=True, tag="channel"):
    """One result for each operation granted; `stopped` says why the rest of the list was not done."""

    results: tuple[Result, ...]
    stopped: Refused | PeerFault | None = None


class NumbersOfChannel(Struct, frozen=True, array_like=True):
    """`holder_validated`: newest number of ours that was validated. `holder_revoked`: how many were revoked.

    `counterparty_signed`: newest number that was signed (-1: none). `counterparty_revoked`: how many the peer revoked.
    """

    channel: Bytes16
    holder_validated: int
    holder_revoked: int
    counterparty_signed: int
    counterparty_revoked: int
    frozen: bool


class Numbers(Struct, frozen=True, tag="numbers"):
    channels: tuple[NumbersOfChannel, ...]


class InvoiceMade(Struct, frozen=True, tag="invoice"):
    bolt11: str
    payment_hash: Bytes32
    payment_secret: Bytes32


class MessageSigned(Struct, frozen=True, tag="message"):
    zbase: str
    signature: Bytes64
    recovery_id: int


class PsbtSigned(Struct, frozen=True, tag="psbt"):
    psbt: bytes


Reply = (
    Welcome
    | StaticKeyStepped
    | OnionsPeeled
    | ChannelDrawn
    | ChannelSetUp
    | ChannelAnswer
    | SweepSigned
    | SecondStageSigned
    | AnchorSigned
    | PeerPointFound
    | Numbers
    | InvoiceMade
    | MessageSigned
    | PsbtSigned
    | Refused
    | PeerFault
    | NotNow
)


class SignerCall(Struct, frozen=True, array_like=True):
    """`session` is 0 for `Hello` and then what `Welcome` said. `deadline_ms` is the time left when it was sent."""

    id: int
    session: int
    deadline_ms: int
    request: Request


class SignerReply(Struct, frozen=True, array_like=True):
    id: int
    reply: Reply


encode = msgspec.msgpack.Encoder().encode
decode_call = msgspec.msgpack.Decoder(SignerCall).decode
decode_reply = msgspec.msgpack.Decoder(SignerReply).decode
