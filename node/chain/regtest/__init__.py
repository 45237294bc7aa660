"""An embedded regtest chain: validation by Bitcoin Core's kernel, the rest small and our own."""

from node.chain.regtest.chain import RegtestChain
from node.chain.regtest.kernel import BlockRefused
from node.chain.regtest.policy import Rejected

__all__ = ["BlockRefused", "RegtestChain", "Rejected"]
