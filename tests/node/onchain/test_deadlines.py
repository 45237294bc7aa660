"""When an HTLC forces a channel onto the chain (BOLT 2, "`cltv_expiry_delta` Selection"; checklist 43)."""

import pytest

from node.onchain.deadlines import CLAIM_BEFORE, Running, closes_at, must_close
from protocol.amounts import BlockHeight


def offered(expiry: int) -> Running:
    return Running(True, 3, expiry)


def received(expiry: int, *, released: bool) -> Running:
    return Running(False, 4, expiry, released)


@pytest.mark.parametrize(
    ("height", "closes"), [(199, False), (200, False), (201, False), (202, True), (500, True)]
)
def test_an_offered_htlc_closes_two_blocks_after_its_expiry(height: int, closes: bool) -> None:
    """checklist 43"""
    why = must_close([offered(200)], BlockHeight(height))
    assert (why is not None) is closes
    if why:
        assert "HTLC 3" in why and "200" in why and str(height) in why


@pytest.mark.parametrize(("height", "closes"), [(181, False), (182, True), (200, True)])
def test_a_fulfilled_htlc_closes_while_there_is_time_to_claim_it(height: int, closes: bool) -> None:
    """checklist 43: 18 blocks before its expiry"""
    assert CLAIM_BEFORE == 18
    assert (must_close([received(200, released=True)], BlockHeight(height)) is not None) is closes


def test_a_received_htlc_without_its_preimage_never_closes() -> None:
    """checklist 43, 44: it is the peer's to take back."""
    assert must_close([received(200, released=False)], BlockHeight(10_000)) is None


def test_the_closing_block_is_known_beforehand() -> None:
    """Warnings come before deadlines, not at them."""
    running = [offered(300), received(310, released=True), received(100, released=False)]
    at = closes_at(running)
    assert at == 292
    assert must_close(running, BlockHeight(at - 1)) is None
    assert must_close(running, at) is not None
    assert closes_at([received(100, released=False)]) is None
