"""What a session is told of ourselves, and what it says back (BOLT 8; BOLT 1, "The init Message")."""

from dataclasses import dataclass

from protocol.bolt8.handshake import StaticDh
from protocol.bolt9 import FeatureSet
from protocol.wire import bolt1, encode


@dataclass(frozen=True, slots=True)
class LocalNode:
    """What we say of ourselves."""

    node_id: bytes
    features: FeatureSet
    chain_hash: bytes

    def init(self) -> bytes:
        return encode(bolt1.Init(b"", self.features.to_bytes(), bolt1.InitTlvs(networks=(self.chain_hash,))))


@dataclass(frozen=True, slots=True)
class StaticKeyNeeded:
    """Ask the signer, then call `static_key_mixed`. Nothing else happens before."""

    request: StaticDh


@dataclass(frozen=True, slots=True)
class Identified:
    """The handshake proved who the peer is."""

    node_id: bytes


@dataclass(frozen=True, slots=True)
class Ready:
    """Both sides sent init, and they fit."""

    features: bytes


@dataclass(frozen=True, slots=True)
class ForChannels:
    """Whole messages in order, each with its type."""

    frames: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class ForGossip:
    """Gossip messages in order, undecoded; told after the channel messages of the same turn."""

    frames: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class PeerSaid:
    """An error or a warning, for the log; it is also among the messages for channels."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Ended:
    """Send what waits, then close the link."""

    reason: str


Event = StaticKeyNeeded | Identified | Ready | ForChannels | ForGossip | PeerSaid | Ended
