"""When an HTLC forces a channel onto the chain, and from when until when an output is ours to spend (BOLT 2,
"`cltv_expiry_delta` Selection"; BOLT 5, "HTLC Output Handling"; checklist 43)."""

import pytest

from node.onchain.deadlines import (
    CLAIM_BEFORE,
    TIMEOUT_WITHIN,
    Running,
    closes_at,
    first_block,
    last_block,
    must_close,
)
from node.onchain.state import HtlcFact, Output, Role
from protocol.amounts import BlockHeight, Msat, Sat
from tests.protocol.bolt3.channel import params


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


MINED = 100
EXPIRY = 160
PARAMS = params(anchors=True, delays=(144, 720))
ANY, CLAIMED, OFFERED = (
    HtlcFact(offered, 1, Msat(1_000_000), bytes(32), EXPIRY, present=True, live=True, claim=claim)
    for offered, claim in ((False, False), (False, True), (True, False))
)


def found(role: Role, height: int | None = MINED) -> Output:
    at = None if height is None else BlockHeight(height)
    return Output(bytes(32), 0, Sat(1000), b"", role, None, at)


@pytest.mark.parametrize(
    ("role", "htlc", "first"),
    [
        (Role.TO_LOCAL, None, MINED + 144 - 1),
        (Role.SECOND_STAGE, ANY, MINED + 144 - 1),
        (Role.TO_REMOTE, None, MINED),
        (Role.OUR_OFFERED, OFFERED, EXPIRY),
        (Role.THEIR_RECEIVED, OFFERED, EXPIRY),
        (Role.OUR_RECEIVED, ANY, None),
        (Role.OUR_RECEIVED, CLAIMED, MINED),
        (Role.THEIR_OFFERED, ANY, None),
        (Role.THEIR_OFFERED, CLAIMED, MINED),
        (Role.REVOKED_TO_LOCAL, None, MINED),
        (Role.REVOKED_HTLC, ANY, MINED),
        (Role.REVOKED_SECOND_STAGE, OFFERED, MINED),
        (Role.LOST_HTLC, None, None),
    ],
)
def test_an_output_is_spent_with_the_first_block_that_allows_it(
    role: Role, htlc: HtlcFact | None, first: int | None
) -> None:
    """Earlier is no valid transaction; later is a race that the peer begins first. A preimage of ours is shown only
    where payments want the HTLC."""
    assert first_block(found(role), htlc, PARAMS) == first
    assert first_block(found(role, None), htlc, PARAMS) is None


def test_a_commitment_that_came_late_is_not_older_than_its_block() -> None:
    assert first_block(found(Role.OUR_OFFERED, EXPIRY + 7), OFFERED, PARAMS) == EXPIRY + 7


@pytest.mark.parametrize(
    ("role", "htlc", "last"),
    [
        (Role.TO_LOCAL, None, None),
        (Role.SECOND_STAGE, OFFERED, None),
        (Role.TO_REMOTE, None, None),
        (Role.OUR_RECEIVED, CLAIMED, EXPIRY),
        (Role.THEIR_OFFERED, CLAIMED, EXPIRY),
        (Role.OUR_OFFERED, OFFERED, EXPIRY + TIMEOUT_WITHIN),
        (Role.THEIR_RECEIVED, OFFERED, EXPIRY + TIMEOUT_WITHIN),
        (Role.REVOKED_TO_LOCAL, None, MINED + 720),
        (Role.REVOKED_HTLC, ANY, MINED + 720),
        (Role.REVOKED_SECOND_STAGE, OFFERED, MINED + 720),
    ],
)
def test_the_fee_climbs_until_the_block_in_which_the_output_is_the_peers_too(
    role: Role, htlc: HtlcFact | None, last: int | None
) -> None:
    """checklist 48, 50: what the cheat waits for is its own delay, and not ours."""
    assert last_block(found(role), htlc, PARAMS) == last
