"""The signer contract: what a node may ask of its signer, and what a signer may say (DESIGN, "The signer contract").

Requests carry structure, never a digest, a script or a transaction to sign as it stands; the signer builds
what it signs. Every request is answered, `Refused`, found to be the peer's fault (`PeerFault`), or `NotNow`.
A request that was granted once is granted again with the same answer, byte for byte; refusals are not kept.

Wire: msgpack of `SignerCall` one way and `SignerReply` the other, each one ZeroMQ frame (or one serial frame).
"""

import msgspec
from msgspec import Struct

from protocol.amounts import Msat, Sat
from protocol.bolt3.commitment import ChannelKeys
from protocol.bus.messages.fixed_bytes import Bytes16, Bytes32, Bytes33, Bytes64
from protocol.bus.messages.signer_backup import (
    BackupOpened,
    BackupRestored,
    BackupSealed,
    MarkedStale,
    MarkStale,
    OpenBackup,
    RestoreBackup,
    SealBackup,
)
from protocol.bus.messages.signer_gossip import (
    ChannelAnnouncementSigned,
    ChannelUpdateSigned,
    NodeAnnouncementSigned,
    SignChannelAnnouncement,
    SignChannelUpdate,
    SignNodeAnnouncement,
)
from protocol.bus.messages.signer_onchain import (
    AnchorSigned,
    FindHolderPoint,
    FindPeerPoint,
    HolderPointFound,
    PeerPointFound,
    PenaltiesSigned,
    SecondStageSigned,
    SignAnchor,
    SignPenalties,
    SignSecondStage,
    SignSweep,
    StagedHtlc,
    SweepInput,
    SweepSigned,
    SweptHtlc,
    WalletCoin,
)
from protocol.bus.messages.signer_operations import (
    MIN_FORWARD_DELTA,
    AcceptRevocation,
    AcceptSecondPoint,
    CheckSecret,
    CounterpartySigned,
    Forward,
    HolderCommitmentSigned,
    HtlcBuried,
    HtlcIsBuried,
    LearnPreimage,
    MutualCloseSigned,
    Operation,
    OtherParts,
    PeerSignatures,
    PreimageLearned,
    PreimageReleased,
    ReleasePreimage,
    Result,
    RevocationAccepted,
    Revoked,
    RevokeHolder,
    SecondPointAccepted,
    SecretChecked,
    SignCounterparty,
    SignHolderCommitment,
    SignMutualClose,
    SimpleClose,
    Validated,
    ValidateHolder,
)
from protocol.bus.messages.signer_reserve import AskReserve, NoteReserve, ReserveCoin, ReserveStatus

__all__ = [
    "MIN_FORWARD_DELTA",
    "AcceptRevocation",
    "AcceptSecondPoint",
    "AnchorSigned",
    "AskReserve",
    "BackupOpened",
    "BackupRestored",
    "BackupSealed",
    "ChannelAnnouncementSigned",
    "ChannelUpdateSigned",
    "CheckSecret",
    "CounterpartySigned",
    "FindHolderPoint",
    "FindPeerPoint",
    "Forward",
    "HolderCommitmentSigned",
    "HolderPointFound",
    "HtlcBuried",
    "HtlcIsBuried",
    "LearnPreimage",
    "MarkStale",
    "MarkedStale",
    "MutualCloseSigned",
    "NodeAnnouncementSigned",
    "NoteReserve",
    "OpenBackup",
    "Operation",
    "OtherParts",
    "PeerPointFound",
    "PeerSignatures",
    "PenaltiesSigned",
    "PreimageLearned",
    "PreimageReleased",
    "ReleasePreimage",
    "ReserveCoin",
    "ReserveStatus",
    "RestoreBackup",
    "Result",
    "RevocationAccepted",
    "RevokeHolder",
    "Revoked",
    "SealBackup",
    "SecondPointAccepted",
    "SecondStageSigned",
    "SecretChecked",
    "SignAnchor",
    "SignChannelAnnouncement",
    "SignChannelUpdate",
    "SignCounterparty",
    "SignHolderCommitment",
    "SignMutualClose",
    "SignNodeAnnouncement",
    "SignPenalties",
    "SignSecondStage",
    "SignSweep",
    "SimpleClose",
    "StagedHtlc",
    "SweepInput",
    "SweepSigned",
    "SweptHtlc",
    "ValidateHolder",
    "Validated",
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
    payment_hash: Bytes32 | None = None
    """Of a preimage that is kept elsewhere (a hold invoice): the signer draws the payment secret only."""


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
    | SignPenalties
    | FindPeerPoint
    | FindHolderPoint
    | ChannelNumbers
    | MakeInvoice
    | SignMessage
    | SignPsbt
    | NoteReserve
    | AskReserve
    | SignChannelAnnouncement
    | SignNodeAnnouncement
    | SignChannelUpdate
    | SealBackup
    | OpenBackup
    | RestoreBackup
    | MarkStale
)


class Welcome(Struct, frozen=True, tag="welcome"):
    """`wallet_xpub` is the account at m/9735'/chain'/2' (branches 0 receive, 1 change, 2 cold, 3 fee reserve)."""

    session: int
    node_id: Bytes33
    network: str
    wallet_xpub: str
    wallet_origin: str


class StaticKeyStepped(Struct, frozen=True, tag="static_key"):
    chaining_key: Bytes32
    cipher_key: Bytes32


class Peeled(Struct, frozen=True, tag="peeled", array_like=True):
    """`next_packet` is None for the final hop. `um` and `ammag` make failure onions for this HTLC, `um` and `ammagext`
    its attribution data; a signer older than that gives none."""

    payload: bytes
    next_packet: bytes | None
    um: Bytes32
    ammag: Bytes32
    ammagext: Bytes32 | None = None


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
    | PenaltiesSigned
    | PeerPointFound
    | HolderPointFound
    | Numbers
    | InvoiceMade
    | MessageSigned
    | PsbtSigned
    | ReserveStatus
    | ChannelAnnouncementSigned
    | NodeAnnouncementSigned
    | ChannelUpdateSigned
    | BackupSealed
    | BackupOpened
    | BackupRestored
    | MarkedStale
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
