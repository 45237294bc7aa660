"""What the daemon says of itself."""

from msgspec import Struct


class GetCounters(Struct, frozen=True, tag="node.get_counters"):
    """To the channel service, which owns the hot path."""


class Counters(Struct, frozen=True, tag="node.counters"):
    """Since the start of this process."""

    durable_commits: int
    signer_requests: int
