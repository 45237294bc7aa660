"""The need itself: without the kernel the rest of this folder is skipped, which `LNP_REQUIRE=kernel` forbids."""

import importlib.util

from tests.support import need


def test_the_kernel_is_installed() -> None:
    need("kernel", importlib.util.find_spec("pbk") is not None, "py-bitcoinkernel is not installed")
    from node.chain.regtest.kernel import Kernel

    assert Kernel.submit.__doc__
