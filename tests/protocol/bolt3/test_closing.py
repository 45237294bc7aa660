"""The legacy closing transaction (BOLT 3, "Legacy Closing Transaction")."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.amounts import FeeratePerKw, Sat
from protocol.bitcoin.script import p2tr, p2wpkh, p2wsh
from protocol.bolt3 import closing
from protocol.bolt3.closing import (
    Closing,
    closing_fee,
    closing_weight,
    is_shutdown_script,
)
from protocol.bolt3.fees import dust_threshold
from protocol.bolt3.params import Side
from protocol.curve import sign_ecdsa
from protocol.errors import PeerViolation
from tests.protocol.bolt3.channel import CAPACITY, COUNTERPARTY, HOLDER, OUTPOINT, params

OURS, THEIRS = p2wpkh(HOLDER.keys.payment_basepoint), p2wsh(b"their script")


def close(to_holder: int, fee: int = 1_000, **options: object) -> Closing:
    opener_is_holder = bool(options.pop("opener_is_holder", True))
    return closing.build(
        params(opener_is_holder=opener_is_holder),
        Sat(to_holder),
        Sat(CAPACITY - to_holder),
        OURS,
        THEIRS,
        Sat(fee),
        **options,  # type: ignore[arg-type]
    )


def paid(result: Closing) -> dict[bytes, int]:
    return {output.script_pubkey: output.value for output in result.tx.outputs}


def test_version_sequence_and_locktime_are_those_of_the_specification() -> None:
    """checklist 54"""
    tx = close(4_000_000).tx
    assert (tx.version, tx.locktime) == (2, 0)
    assert [(spent.outpoint, spent.sequence) for spent in tx.inputs] == [(OUTPOINT, 0xFFFFFFFF)]


@pytest.mark.parametrize("opener_is_holder", [True, False])
def test_the_opener_pays_the_fee(opener_is_holder: bool) -> None:
    """checklist 54"""
    result = close(4_000_000, opener_is_holder=opener_is_holder)
    holder, counterparty = (3_999_000, 6_000_000) if opener_is_holder else (4_000_000, 5_999_000)
    assert paid(result) == {OURS: holder, THEIRS: counterparty}
    assert result.fee == 1_000


def test_outputs_are_sorted_by_amount_then_script() -> None:
    assert [output.script_pubkey for output in close(9_000_000).tx.outputs] == [THEIRS, OURS]
    assert [output.script_pubkey for output in close(1_000_000).tx.outputs] == [OURS, THEIRS]
    equal = close(CAPACITY // 2 + 500).tx
    assert equal.outputs[0].value == equal.outputs[1].value
    assert [output.script_pubkey for output in equal.outputs] == sorted((OURS, THEIRS))


def test_an_output_below_the_dust_limit_is_left_out() -> None:
    """checklist 54"""
    assert paid(close(1_546)) == {OURS: 546, THEIRS: CAPACITY - 1_546}
    assert paid(close(1_545)) == {THEIRS: CAPACITY - 1_545}
    assert paid(close(1_545, dust_limit=354)) == {OURS: 545, THEIRS: CAPACITY - 1_545}
    assert close(1_545).fee == 1_545


def test_a_side_may_leave_out_its_own_output() -> None:
    assert paid(close(4_000_000, omit=Side.HOLDER)) == {THEIRS: 6_000_000}
    assert paid(close(4_000_000, omit=Side.COUNTERPARTY)) == {OURS: 3_999_000}


def test_a_fee_above_the_openers_balance_or_nothing_left_is_refused() -> None:
    """checklist 54"""
    assert paid(close(1_000)) == {THEIRS: CAPACITY - 1_000}
    with pytest.raises(PeerViolation, match="cannot pay"):
        close(999)
    with pytest.raises(PeerViolation, match="dust"):
        close(CAPACITY, omit=Side.HOLDER)
    with pytest.raises(ValueError, match="at most the capacity"):
        closing.build(params(), Sat(CAPACITY), Sat(1), OURS, THEIRS, Sat(0))


@given(st.integers(1_000, CAPACITY), st.booleans())
def test_the_other_side_builds_the_same_transaction(to_holder: int, opener_is_holder: bool) -> None:
    fee = Sat(min(1_000, to_holder if opener_is_holder else CAPACITY - to_holder))
    known = params(opener_is_holder=opener_is_holder)
    ours = closing.build(known, Sat(to_holder), Sat(CAPACITY - to_holder), OURS, THEIRS, fee)
    theirs = closing.build(known.mirror(), Sat(CAPACITY - to_holder), Sat(to_holder), THEIRS, OURS, fee)
    assert (ours.tx, ours.digest, ours.fee) == (theirs.tx, theirs.digest, theirs.fee)


def test_the_estimate_is_never_below_the_weight_and_close_to_it() -> None:
    result = close(4_000_000)
    signed = result.signed(
        sign_ecdsa(HOLDER.funding, result.digest), sign_ecdsa(COUNTERPARTY.funding, result.digest)
    )
    assert 0 <= closing_weight(OURS, THEIRS) - signed.weight <= 6
    assert closing_fee(FeeratePerKw(1_000), OURS, THEIRS) == closing_weight(OURS, THEIRS)


@pytest.mark.parametrize(
    ("script", "without", "with_anysegwit"),
    [
        (p2wpkh(b"key"), True, True),
        (p2wsh(b"script"), True, True),
        (p2tr(bytes(32)), False, True),
        (bytes.fromhex("6002abcd"), False, True),
        (bytes.fromhex("6028") + bytes(40), False, True),
        (bytes.fromhex("6029") + bytes(41), False, False),
        (bytes.fromhex("5101ab"), False, False),
        (bytes.fromhex("0010") + bytes(16), False, False),
        (bytes.fromhex("0014") + bytes(21), False, False),
        (bytes.fromhex("76a914") + bytes(20) + bytes.fromhex("88ac"), False, False),
        (b"", False, False),
    ],
)
def test_only_segwit_forms_may_be_paid_at_shutdown(
    script: bytes, without: bool, with_anysegwit: bool
) -> None:
    """checklist 53"""
    assert is_shutdown_script(script, anysegwit=False) is without
    assert is_shutdown_script(script, anysegwit=True) is with_anysegwit


@pytest.mark.parametrize("size", [2, 20, 32, 40])
@pytest.mark.parametrize("version", [0, 1, 16])
def test_the_smallest_dust_limit_of_a_channel_is_relayed_to_every_script(version: int, size: int) -> None:
    """checklist 54: so that no close leaves an output for which the channel would have to be failed."""
    script = bytes((0x50 + version if version else 0, size)) + bytes(size)
    if is_shutdown_script(script, anysegwit=True):
        assert dust_threshold(script) <= 354
    else:
        assert version == 0 and size not in (20, 32)
