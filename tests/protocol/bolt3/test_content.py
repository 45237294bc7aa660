"""What a commitment may contain (BOLT 2, "Adding an HTLC"; BOLT 3, "Fee Payment")."""

import msgspec
import pytest

from protocol.bolt3.commitment import (
    CommitmentContent,
    CommitmentHtlc,
    Side,
    affords,
    build,
    fee_and_anchors,
    validate_content,
)
from protocol.errors import PeerViolation
from tests.protocol.bolt3.channel import CAPACITY, PER_COMMITMENT_POINT, VECTOR_HTLCS, content, params

TOTAL = 1000 * CAPACITY
GOOD = content(6_988_000_000, 3_000_000_000, VECTOR_HTLCS[:5])


def check(changed: CommitmentContent, anchors: bool = False) -> None:
    validate_content(params(anchors=anchors), Side.HOLDER, changed)


def htlcs(count: int, *, offered: bool) -> tuple[CommitmentHtlc, ...]:
    return tuple(CommitmentHtlc(offered, id, 1_000, bytes(32), 500) for id in range(count))  # type: ignore[arg-type]


def with_htlcs(*some: CommitmentHtlc) -> CommitmentContent:
    return content(5_000_000_000, TOTAL - 5_000_000_000 - sum(htlc.amount_msat for htlc in some), some)


@pytest.mark.parametrize("anchors", [False, True])
def test_good_content_passes(anchors: bool) -> None:
    check(GOOD, anchors)
    check(with_htlcs(*htlcs(483, offered=True), *htlcs(483, offered=False)), anchors)


@pytest.mark.parametrize("by", [-1, 1])
def test_a_sum_off_by_one_millisatoshi_is_refused(by: int) -> None:
    with pytest.raises(PeerViolation, match="shares out"):
        check(msgspec.structs.replace(GOOD, to_other_msat=GOOD.to_other_msat + by))


def test_a_balance_below_zero_is_refused() -> None:
    check(content(TOTAL, 0))
    with pytest.raises(PeerViolation, match="below zero"):
        check(content(TOTAL + 1, -1))
    with pytest.raises(PeerViolation, match="below zero"):
        check(content(-1, TOTAL + 1))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"amount_msat": 0}, "amount"),
        ({"cltv_expiry": 500_000_000}, "not a height"),
        ({"cltv_expiry": -1}, "not a height"),
        ({"payment_hash": bytes(31)}, "32 bytes"),
    ],
)
def test_an_htlc_that_breaks_a_rule_is_refused(change: dict[str, object], words: str) -> None:
    """checklist 18: also an expiry that would be a time, and an amount of 0."""
    check(with_htlcs(VECTOR_HTLCS[2]))
    with pytest.raises(PeerViolation, match=words):
        check(with_htlcs(msgspec.structs.replace(VECTOR_HTLCS[2], **change)))


def test_the_last_height_is_an_expiry() -> None:
    """checklist 18"""
    check(with_htlcs(msgspec.structs.replace(VECTOR_HTLCS[2], cltv_expiry=499_999_999)))


@pytest.mark.parametrize("offered", [False, True])
def test_one_htlc_more_than_483_in_a_direction_is_refused(offered: bool) -> None:
    """checklist 20"""
    with pytest.raises(PeerViolation, match="483"):
        check(with_htlcs(*htlcs(484, offered=offered)))


def test_an_id_may_occur_once_in_each_direction() -> None:
    """checklist 18"""
    check(with_htlcs(*htlcs(1, offered=True), *htlcs(1, offered=False)))
    with pytest.raises(PeerViolation, match="same id"):
        check(with_htlcs(*htlcs(1, offered=True), *htlcs(1, offered=True)))


def test_number_and_feerate_are_in_range() -> None:
    check(msgspec.structs.replace(GOOD, number=(1 << 48) - 2))
    for change in ({"number": -1}, {"number": (1 << 48) - 1}, {"feerate_per_kw": -1}):
        with pytest.raises(PeerViolation):
            check(msgspec.structs.replace(GOOD, **change))


@pytest.mark.parametrize("anchors", [False, True])
def test_the_opener_must_afford_fee_and_anchors_to_the_millisatoshi(anchors: bool) -> None:
    """checklist 17, 19"""
    fee, cost = fee_and_anchors(params(anchors=anchors), Side.HOLDER, content(TOTAL, 0))
    assert (fee, cost) == ((284, 660) if anchors else (183, 0))
    due = 1000 * (fee + cost)
    check(content(due, TOTAL - due), anchors)
    with pytest.raises(PeerViolation, match="owes"):
        check(content(due - 1, TOTAL - due + 1), anchors)


def test_it_is_the_opener_who_pays_in_both_commitments() -> None:
    """checklist 17, 19"""
    poor_holder = content(0, TOTAL)
    for opener_is_holder, owner, can in (
        (True, Side.HOLDER, False),
        (False, Side.HOLDER, True),
        (True, Side.COUNTERPARTY, True),
        (False, Side.COUNTERPARTY, False),
    ):
        assert affords(params(opener_is_holder=opener_is_holder), owner, poor_holder) is can


def test_trimmed_htlcs_do_not_count_for_the_fee_and_the_built_fee_has_them_on_top() -> None:
    """checklist 17"""
    fee, _ = fee_and_anchors(params(), Side.HOLDER, msgspec.structs.replace(GOOD, feerate_per_kw=2_070))
    assert fee == 2_566  # Appendix C, five outputs untrimmed
    commitment = build(
        params(), Side.HOLDER, msgspec.structs.replace(GOOD, feerate_per_kw=2_070), PER_COMMITMENT_POINT
    )
    assert commitment.fee == 5_566
