"""Our node and LND."""

from tests.interop.cases import Closing, Connecting, OverAChannel, Storm

PEER = "lnd"


class TestConnecting(Connecting):
    pass


class TestChannel(Storm, OverAChannel):
    pass


class TestClosing(Closing):
    pass
