"""Which coins pay, what change is made, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.wallet.coins import Coin, Selection, fee_of, select
from node.wallet.plan import draft
from protocol.amounts import FeeratePerKw, Sat
from protocol.bitcoin.transaction import OutPoint, Transaction, TxIn
from protocol.errors import CommandRefused

P2WPKH = b"\x00\x14" + bytes(20)
CHANGE = b"\x00\x14" + bytes([7]) * 20
P2WSH = b"\x00\x20" + bytes([1]) * 32
RATE = FeeratePerKw(1000)


def coin(value: int, number: int = 0, **more: object) -> Coin:
    fields: dict[str, object] = {"height": 10} | more
    return Coin(OutPoint(bytes([number]) * 32, 0), Sat(value), P2WPKH, 0, number, **fields)  # type: ignore[arg-type]


def coins(*values: int) -> list[Coin]:
    return [coin(value, number) for number, value in enumerate(values)]


def pay(values: list[Coin], value: int | None, script: bytes = P2WSH, rate: FeeratePerKw = RATE) -> Selection:
    amount = None if value is None else Sat(value)
    return select(values, value=amount, script=script, change_script=CHANGE, feerate_per_kw=rate)


def signed_weight(selection: Selection, script: bytes) -> int:
    """The weight with the longest signatures that we make."""
    unsigned = draft(selection, script=script, change_script=CHANGE).tx
    witness = (bytes(72), bytes(33))
    inputs = tuple(TxIn(i.outpoint, i.script_sig, i.sequence, witness) for i in unsigned.inputs)
    return Transaction(2, inputs, unsigned.outputs).weight


def test_largest_coins_come_first_and_the_rest_comes_back_as_change():
    chosen = pay(coins(50_000, 200_000, 90_000), 150_000)
    assert [c.value for c in chosen.coins] == [200_000]
    assert chosen.change == 200_000 - 150_000 - chosen.fee


def test_fee_is_that_of_the_signed_transaction():
    chosen = pay(coins(200_000), 150_000)
    weight = signed_weight(chosen, P2WSH)
    assert chosen.fee == fee_of(1, (P2WSH, CHANGE), RATE) == -(-4 * ((weight + 3) // 4) * RATE // 1000)


def test_exact_set_is_preferred_to_change():
    """Branch and bound: 60,000 and 40,000 fit, although the 200,000 coin is larger."""
    fee = fee_of(2, (P2WSH,), RATE)
    chosen = pay(coins(200_000, 60_000, 40_000, 30_000), 100_000 - fee)
    assert sorted(c.value for c in chosen.coins) == [40_000, 60_000]
    assert (chosen.change, chosen.fee) == (None, fee)


def test_change_that_would_be_dust_goes_to_the_fee():
    fee = fee_of(1, (P2WSH, CHANGE), RATE)
    chosen = pay(coins(100_000), 100_000 - fee - 293)
    assert chosen.change is None
    assert chosen.fee == fee + 293


def test_change_at_the_dust_threshold_is_kept_when_it_is_worth_spending():
    rate = FeeratePerKw(253)
    fee = fee_of(1, (P2WSH, CHANGE), rate)
    chosen = pay(coins(100_000), 100_000 - fee - 294, rate=rate)
    assert chosen.change == 294


def test_coin_that_costs_more_than_it_holds_is_left_alone():
    chosen = pay(coins(100_000, 271), None)
    assert [c.value for c in chosen.coins] == [100_000]


def test_everything_leaves_no_change():
    chosen = pay(coins(100_000, 50_000), None)
    assert chosen.value == 150_000 - fee_of(2, (P2WSH,), RATE)
    assert chosen.change is None


def test_too_little_is_refused_with_the_numbers():
    with pytest.raises(CommandRefused) as refused:
        pay(coins(60_000, 30_000), 90_000)
    assert refused.value.code == 301
    assert "90000 sat" in refused.value.sentence
    fee = fee_of(2, (P2WSH,), RATE)
    assert f"fee of {fee} sat" in refused.value.sentence
    assert pay(coins(60_000, 30_000), 90_000 - fee).fee == fee


@pytest.mark.parametrize("value", [None, 1_000])
def test_no_coins_at_all_is_refused(value: int | None):
    with pytest.raises(CommandRefused) as refused:
        pay([], value)
    assert refused.value.code == 301


@pytest.mark.parametrize(("script", "least"), [(P2WSH, 330), (P2WPKH, 294), (b"\x51\x20" + bytes(32), 354)])
def test_dust_is_not_sent(script: bytes, least: int):
    assert pay(coins(100_000), least, script).value == least
    with pytest.raises(CommandRefused, match=f"below the {least} sat"):
        pay(coins(100_000), least - 1, script)


def test_reserved_spent_shallow_and_immature_coins_are_not_spendable():
    assert coin(1).is_spendable(tip=10, minconf=1)
    assert not coin(1).is_spendable(tip=10, minconf=2)
    assert not coin(1, reserved_for="a channel").is_spendable(tip=10, minconf=1)
    assert not coin(1, spent_by=bytes(32)).is_spendable(tip=10, minconf=1)
    assert not coin(1, height=None).is_spendable(tip=10, minconf=1)
    assert coin(1, height=None).is_spendable(tip=10, minconf=0)
    assert not coin(1, coinbase=True).is_spendable(tip=108, minconf=0)
    assert coin(1, coinbase=True).is_spendable(tip=109, minconf=0)


def test_draft_is_ordered_by_bip_69():
    """Inputs by the id as people read it, outputs by value and then script."""
    low_bytes, high_bytes = bytes([1]) + bytes([9]) * 31, bytes([9]) * 31 + bytes([1])
    chosen = Selection(
        (
            Coin(OutPoint(low_bytes, 1), Sat(5), P2WPKH, 0, 0, 1),
            Coin(OutPoint(high_bytes, 1), Sat(5), P2WPKH, 0, 0, 1),
            Coin(OutPoint(high_bytes, 0), Sat(5), P2WPKH, 0, 0, 1),
        ),
        value=Sat(9),
        fee=Sat(1),
        change=Sat(5),
    )
    made = draft(chosen, script=P2WSH, change_script=CHANGE)
    assert [i.outpoint for i in made.tx.inputs] == [
        OutPoint(high_bytes, 0),
        OutPoint(high_bytes, 1),
        OutPoint(low_bytes, 1),
    ]
    assert [o.value for o in made.tx.outputs] == [5, 9]
    assert (made.output_index, made.change_index) == (1, 0)
    assert made.tx.version == 2
    assert {i.sequence for i in made.tx.inputs} == {0xFFFFFFFD}


def test_equal_values_are_ordered_by_script():
    chosen = Selection((coin(10),), value=Sat(4), fee=Sat(2), change=Sat(4))
    made = draft(chosen, script=P2WSH, change_script=CHANGE)
    assert [o.script_pubkey for o in made.tx.outputs] == [CHANGE, P2WSH]
    assert (made.output_index, made.change_index) == (1, 0)


@given(
    values=st.lists(st.integers(300, 5_000_000), max_size=12),
    wanted=st.integers(330, 6_000_000),
    rate=st.integers(253, 30_000),
)
def test_selection_balances_pays_its_way_and_makes_no_dust(values: list[int], wanted: int, rate: int):
    useful = [v for v in values if v > 272 * rate // 1000 + 1]
    if sum(useful) < wanted + fee_of(len(useful), (P2WSH,), FeeratePerKw(rate)):
        with pytest.raises(CommandRefused):
            pay(coins(*values), wanted, rate=FeeratePerKw(rate))
        return
    chosen = pay(coins(*values), wanted, rate=FeeratePerKw(rate))
    assert sum(c.value for c in chosen.coins) == chosen.value + chosen.fee + (chosen.change or 0)
    assert chosen.change is None or chosen.change >= 294
    weight = signed_weight(chosen, P2WSH)
    assert chosen.fee * 1000 >= 4 * ((weight + 3) // 4) * rate
