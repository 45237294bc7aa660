"""What the peer service says and hears: connections, and Lightning messages as the bytes of one message each."""

from msgspec import Struct


class Connect(Struct, frozen=True, tag="peer.connect"):
    """Answered with `PeerInfo` once init was exchanged; at once if the peer is connected. `address`: host:port."""

    node_id: bytes
    address: str | None = None


class Disconnect(Struct, frozen=True, tag="peer.disconnect"):
    node_id: bytes
    force: bool = False


class ListPeers(Struct, frozen=True, tag="peer.list"):
    node_id: bytes | None = None


class PeerInfo(Struct, frozen=True, tag="peer.info"):
    node_id: bytes
    connected: bool
    outbound: bool
    address: str
    features: bytes
    last_seen: int
    road: str = ""
    """The transport that carries the connection; empty while there is none."""


class ListRoads(Struct, frozen=True, tag="peer.list_roads"):
    """Answered with `Roads`."""


class Road(Struct, frozen=True, tag="peer.road"):
    """A transport: `state` is starting, up or down; `sentence` says what is the matter and what to do.

    `addresses`: where others reach us by it; `inbound`: how those are doing.
    """

    name: str
    state: str
    sentence: str = ""
    addresses: tuple[str, ...] = ()
    inbound: str = ""


class Roads(Struct, frozen=True, tag="peer.roads"):
    roads: tuple[Road, ...]


class Peers(Struct, frozen=True, tag="peer.peers"):
    peers: tuple[PeerInfo, ...]


class PeerUp(Struct, frozen=True, tag="peer.up"):
    """Event: init was exchanged. `connection` numbers the connections of this run; older ones are dead."""

    node_id: bytes
    connection: int
    features: bytes


class PeerDown(Struct, frozen=True, tag="peer.down"):
    node_id: bytes
    connection: int
    reason: str


class FromPeer(Struct, frozen=True, tag="peer.from"):
    """Event to the channel service: one whole Lightning message (with its type), not yet decoded."""

    node_id: bytes
    connection: int
    frame: bytes


class ToPeer(Struct, frozen=True, tag="peer.to"):
    """One way: send these messages, in order, if that connection still stands; else drop them."""

    node_id: bytes
    connection: int
    frames: tuple[bytes, ...]


class DropPeer(Struct, frozen=True, tag="peer.drop"):
    """One way: send these last messages (a warning or an error) and close the connection."""

    node_id: bytes
    connection: int
    reason: str
    frames: tuple[bytes, ...] = ()


class KeepPeer(Struct, frozen=True, tag="peer.keep"):
    """One way: a channel with this peer lives; reconnect when the connection is lost."""

    node_id: bytes
    keep: bool = True


class PutOurBlob(Struct, frozen=True, tag="peer.put_our_blob"):
    """One way, to "peer_storage": our peers with channels are to keep this for us (BOLT 1, peer_storage), until the
    next one. To be said again after each start.

    The bytes are stored and given back as they are: the sender encrypts and authenticates them, pads them to hide
    their size, and numbers them to know an old one. At most 65531; more is refused in the log.
    """

    blob: bytes


class OurBlobCameBack(Struct, frozen=True, tag="peer.our_blob"):
    """Event: a peer gave back what it calls our last blob. It may be old, or no blob of ours at all."""

    node_id: bytes
    blob: bytes


class GossipFromPeer(Struct, frozen=True, tag="peer.gossip_from"):
    """One way, to "gossip": whole messages of the types 256 to 265 in order, told after the channel messages that came
    with them."""

    node_id: bytes
    connection: int
    frames: tuple[bytes, ...]


class SendGossip(Struct, frozen=True, tag="peer.send_gossip"):
    """Sends these after everything else that waits for this peer. Answered with True once the link took them, with
    False if that connection is gone: so whoever has much to say goes at the pace of the peer."""

    node_id: bytes
    connection: int
    frames: tuple[bytes, ...]
