"""Our node and LDK: aliases, zero-conf, and channels without anchors."""

import pytest

from tests.interop.harness import Side, World
from tests.interop.kinds_cases import Aliases, WithoutAnchors, ZeroConf

PEER = "ldk"


class TestWithoutAnchors(WithoutAnchors):
    pass


class TestAliases(Aliases):
    pass


class TestZeroConf(ZeroConf):
    @pytest.mark.parametrize("opener", ["ours"])
    def test_channel_is_used_before_its_block_and_after(self, world: World, opener: Side) -> None:
        """LDK accepts the channel type for each channel, and never proposes it."""
        super().test_channel_is_used_before_its_block_and_after(world, opener)
