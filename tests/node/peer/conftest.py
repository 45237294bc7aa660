"""`make(key)` starts a node that listens on a free port of 127.0.0.1; all are stopped at the end."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from node.peer.limits import USUAL_LIMITS, PeerLimits
from protocol.bitcoin.network import REGTEST
from protocol.transport import LinkProfile
from tests.node.peer.network import Make, Node


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    nodes: list[Node] = []

    async def make_node(
        key: bytes,
        *,
        limits: PeerLimits = USUAL_LIMITS,
        chain_hash: bytes = REGTEST.chain_hash,
        profile: LinkProfile = LinkProfile(latency=0.01),  # noqa: B008  frozen
    ) -> Node:
        node = Node(key, tmp_path / f"{len(nodes)}.db", limits, chain_hash, profile)
        nodes.append(node)
        await node.start()
        return node

    yield make_node
    for node in nodes:
        await node.stop()
