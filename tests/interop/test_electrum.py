"""Our node and Electrum."""

from tests.interop.cases import Closing, Connecting, OverAChannel

PEER = "electrum"


class TestConnecting(Connecting):
    pass


class TestChannel(OverAChannel):
    pass


class TestClosing(Closing):
    pass
