"""What gossip tells the routing graph (BOLT 7): channels, policies and nodes that passed every check.

Gossip calls these from its own turn, never from a thread. Values are plain integers and bytes, so that feeding
a mainnet-sized graph at the start costs one call a row and no object.
"""

from typing import Protocol


class GraphSink(Protocol):
    """Order: a channel before its policies; nodes at any time. Repeating a call replaces what it said before."""

    def put_channel(
        self, scid: int, node_id_1: bytes, node_id_2: bytes, capacity_sat: int, features: bytes
    ) -> None: ...

    def put_policy(
        self,
        scid: int,
        direction: int,
        timestamp: int,
        message_flags: int,
        channel_flags: int,
        cltv_delta: int,
        htlc_min: int,
        htlc_max: int,
        base: int,
        ppm: int,
    ) -> None: ...

    def put_node(
        self, node_id: bytes, timestamp: int, alias: bytes, color: bytes, features: bytes, addresses: bytes
    ) -> None: ...

    def drop_channel(self, scid: int) -> None:
        """With its policies. Its nodes stay as long as the graph wishes."""

    def begin_bulk(self) -> None:
        """Many rows follow; nobody asks for a route before `end_bulk`."""

    def end_bulk(self) -> None: ...


class NoGraph:
    """For a node that keeps no graph, and for tests of what does not concern it."""

    def put_channel(
        self, scid: int, node_id_1: bytes, node_id_2: bytes, capacity_sat: int, features: bytes
    ) -> None:
        pass

    def put_policy(
        self,
        scid: int,
        direction: int,
        timestamp: int,
        message_flags: int,
        channel_flags: int,
        cltv_delta: int,
        htlc_min: int,
        htlc_max: int,
        base: int,
        ppm: int,
    ) -> None:
        pass

    def put_node(
        self, node_id: bytes, timestamp: int, alias: bytes, color: bytes, features: bytes, addresses: bytes
    ) -> None:
        pass

    def drop_channel(self, scid: int) -> None:
        pass

    def begin_bulk(self) -> None:
        pass

    def end_bulk(self) -> None:
        pass
