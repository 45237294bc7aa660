"""Our node and LDK, on the chain: force closes, revoked commitments, lost databases."""

from tests.interop.onchain_cases import CheatingWithHtlcs, ForceClosing, LosingOurs, LosingTheirs

PEER = "ldk"


class TestForceClosing(ForceClosing):
    pass


class TestLosingOurs(LosingOurs):
    pass


class TestLosingTheirs(LosingTheirs):
    pass


class TestCheating(CheatingWithHtlcs):
    pass
