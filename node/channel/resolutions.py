"""What the resolution on chain asks of the channel service, by the rows of its channels (BOLT 5)."""

from collections.abc import Coroutine
from typing import Any, Protocol

from node.channel import store
from node.channel.channel import Channel
from node.channel.events import ResolvedOnChain, SettledOnChain
from node.channel.handover import facts_of
from node.onchain.state import Facts, Outcome
from node.storage.writer import Writer
from protocol.bitcoin.network import NETWORKS, Network


class Host(Protocol):
    def run(self, coroutine: Coroutine[Any, Any, Any]) -> object: ...

    def channel_of(self, row_id: int) -> Channel | None: ...


def network_of(chain_hash: bytes) -> Network:
    return next(network for network in NETWORKS.values() if network.chain_hash == chain_hash)


class Resolutions:
    def __init__(self, host: Host, writer: Writer) -> None:
        self._host = host
        self._writer = writer

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> object:
        return self._host.run(coroutine)

    def facts(self, row_id: int, tx: bytes) -> Facts:
        channel = self._host.channel_of(row_id)
        if channel is None:
            raise LookupError(f"channel {row_id} is closed, and its funding is spent anew")
        state = channel.state
        _, finished = store.load_all_htlcs(self._writer, row_id)
        return facts_of(state.committed, state.volatile, state.htlcs, finished, tx)

    def settled(self, row_id: int, outcome: Outcome) -> None:
        if (channel := self._host.channel_of(row_id)) is not None:
            channel.put(SettledOnChain(outcome.offered, outcome.id, outcome.paid, outcome.preimage))

    def resolved(self, row_id: int) -> None:
        if (channel := self._host.channel_of(row_id)) is not None:
            channel.put(ResolvedOnChain())
