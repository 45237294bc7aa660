"""Our node and LDK."""

from tests.interop.cases import Closing, Connecting, OverAChannel, Storm

PEER = "ldk"


class TestConnecting(Connecting):
    pass


class TestChannel(Storm, OverAChannel):
    pass


class TestClosing(Closing):
    pass
