"""Our node and an Electrum whose wallet file is old: a world of its own, for it then hangs up at each meeting."""

from tests.interop.onchain_cases import LosingTheirs

PEER = "electrum"


class TestLosingTheirs(LosingTheirs):
    pass
