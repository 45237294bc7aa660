"""Our node and Electrum, on the chain: our lost databases and its revoked commitment, at 45,000 sat/kw."""

from tests.interop.onchain_cases import Cheating, LosingOurs

PEER = "electrum"


class TestLosingOurs(LosingOurs):
    pass


class TestCheating(Cheating):
    pass
