"""The closing transaction that one side pays for (BOLT 3, "Closing Transaction"; checklist 55)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.amounts import Msat, Sat
from protocol.bitcoin.script import p2wpkh, p2wsh
from protocol.bolt3.closing import is_shutdown_script
from protocol.bolt3.fees import dust_threshold
from protocol.bolt3.simple_close import Terms, Variant, build, chosen, offered
from protocol.errors import PeerViolation
from tests.protocol.bolt3.channel import CAPACITY, HOLDER, OUTPOINT, params

CLOSER, CLOSEE = p2wpkh(HOLDER.keys.payment_basepoint), p2wsh(b"their script")
BURN = b"\x6a\x06burned"
ALL = frozenset(Variant)


def terms(
    to_closer: int, *, fee: int = 500, locktime: int = 0, closer: bytes = CLOSER, closee: bytes = CLOSEE
) -> Terms:
    """Of the capacity in msat."""
    return Terms(Msat(to_closer), Msat(1000 * CAPACITY - to_closer), closer, closee, Sat(fee), locktime)


def paid(of: Terms, variant: Variant) -> dict[bytes, int]:
    return {out.script_pubkey: out.value for out in build(params(), of, variant).tx.outputs}


def test_version_sequence_and_locktime_are_those_of_the_specification() -> None:
    """checklist 55"""
    tx = build(params(), terms(6_000_000_000, locktime=700_000), Variant.BOTH).tx
    assert (tx.version, tx.locktime) == (2, 700_000)
    assert [(spent.outpoint, spent.sequence) for spent in tx.inputs] == [(OUTPOINT, 0xFFFFFFFD)]


def test_the_closer_pays_and_all_is_rounded_down() -> None:
    """checklist 55"""
    of = terms(6_000_000_900)
    assert paid(of, Variant.BOTH) == {CLOSER: 5_999_500, CLOSEE: CAPACITY - 6_000_001}
    assert paid(of, Variant.CLOSER_ONLY) == {CLOSER: 5_999_500}
    assert paid(of, Variant.CLOSEE_ONLY) == {CLOSEE: CAPACITY - 6_000_001}


def test_outputs_are_sorted_by_amount_then_script() -> None:
    for to_closer in (1_000_000_000, 9_000_000_000):
        outputs = build(params(), terms(to_closer), Variant.BOTH).tx.outputs
        assert list(outputs) == sorted(outputs, key=lambda out: (out.value, out.script_pubkey))


@pytest.mark.parametrize("closer", [True, False])
def test_an_op_return_output_gets_nothing(closer: bool) -> None:
    """checklist 55"""
    of = terms(6_000_000_000, closer=BURN if closer else CLOSER, closee=CLOSEE if closer else BURN)
    assert paid(of, Variant.BOTH)[BURN] == 0


def test_a_fee_above_the_balance_cannot_be_paid() -> None:
    """checklist 55"""
    assert paid(terms(500_000, fee=500), Variant.BOTH)[CLOSER] == 0
    with pytest.raises(PeerViolation, match="cannot pay"):
        build(params(), terms(500_000, fee=501), Variant.BOTH)


@pytest.mark.parametrize(
    ("to_closer", "found"),
    [
        (6_000_000_000, (Variant.CLOSER_ONLY, Variant.BOTH)),
        (500 * CAPACITY, (Variant.CLOSER_ONLY, Variant.BOTH)),  # equal is not less
        (500 * CAPACITY - 1, (Variant.BOTH,)),
        (1000 * CAPACITY - 330_000, (Variant.CLOSER_ONLY, Variant.BOTH)),
        (1000 * CAPACITY - 329_999, (Variant.CLOSER_ONLY,)),
        (794_000, (Variant.BOTH,)),
        (793_999, (Variant.CLOSEE_ONLY,)),  # 293 sat are left, which nobody relays to this script
    ],
)
def test_the_closer_offers_what_the_balances_allow(to_closer: int, found: tuple[Variant, ...]) -> None:
    """checklist 55"""
    assert offered(terms(to_closer)) == found


@pytest.mark.parametrize(
    ("to_closer", "signed", "found"),
    [
        (6_000_000_000, ALL, Variant.BOTH),
        (6_000_000_000, {Variant.CLOSER_ONLY, Variant.CLOSEE_ONLY}, Variant.CLOSEE_ONLY),
        (1000 * CAPACITY - 329_999, ALL, Variant.CLOSER_ONLY),
    ],
)
def test_the_closee_takes_its_output_unless_it_is_dust(
    to_closer: int, signed: set[Variant], found: Variant
) -> None:
    """checklist 55"""
    assert chosen(terms(to_closer), frozenset(signed)) is found


@pytest.mark.parametrize(
    ("to_closer", "signed"),
    [
        (6_000_000_000, {Variant.CLOSER_ONLY}),
        (6_000_000_000, set()),
        (1000 * CAPACITY - 329_999, {Variant.BOTH, Variant.CLOSEE_ONLY}),
    ],
)
def test_what_the_closee_needs_and_misses_is_an_offence(to_closer: int, signed: set[Variant]) -> None:
    """checklist 55"""
    with pytest.raises(PeerViolation, match="lacks"):
        chosen(terms(to_closer), frozenset(signed))


@given(st.integers(0, 1000 * CAPACITY), st.integers(0, 50_000))
def test_the_closee_always_finds_its_form_in_what_an_honest_closer_offers(to_closer: int, fee: int) -> None:
    """checklist 55"""
    of = terms(max(to_closer, 1000 * fee), fee=fee)
    variant = chosen(of, frozenset(offered(of)))
    outputs = build(params(), of, variant).tx.outputs
    assert outputs
    assert any(out.value >= dust_threshold(out.script_pubkey) for out in outputs)
    assert sum(out.value for out in outputs) <= CAPACITY


@pytest.mark.parametrize("size", [6, 75, 76, 80])
def test_an_op_return_of_one_push_is_a_script_of_simple_close(size: int) -> None:
    """checklist 53"""
    push = bytes((size,)) if size < 76 else bytes((76, size))
    script = b"\x6a" + push + bytes(size)
    assert is_shutdown_script(script, anysegwit=True, op_return=True)
    assert not is_shutdown_script(script, anysegwit=True)


@pytest.mark.parametrize(
    "script",
    [
        b"\x6a",
        b"\x6a\x05" + bytes(5),
        b"\x6a\x06" + bytes(7),
        b"\x6a\x4c\x4b" + bytes(75),
        b"\x6a\x4c\x51" + bytes(81),
        b"\x6a\x4c\x4c" + bytes(75),
        b"\x6a\x4c",
    ],
)
def test_another_op_return_is_none(script: bytes) -> None:
    """checklist 53"""
    assert not is_shutdown_script(script, anysegwit=True, op_return=True)
