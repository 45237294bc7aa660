"""The signer's half of option_simple_close (BOLT 3, "Closing Transaction"; DESIGN, "Closing is one-way")."""

import pytest

from protocol.amounts import Msat, Sat
from protocol.bolt3 import simple_close
from protocol.bolt3.closing import Closing
from protocol.bus.messages import signer as contract
from protocol.curve import verify_ecdsa
from signer.service import SignerService
from tests.signer.support import CAPACITY, World, htlc

THEIRS = b"\x00\x14" + b"\x07" * 20
OURS = 600_000


def close(
    world: World,
    *,
    by_holder: bool,
    to_holder: int = OURS,
    fee: int = 500,
    variant: int = 3,
    locktime: int = 0,
    theirs: bytes = THEIRS,
    script: bytes | None = None,
) -> contract.SignMutualClose:
    own = world.drawn.shutdown_script if script is None else script
    simple = contract.SimpleClose(by_holder, locktime, variant)
    return contract.SignMutualClose(Sat(to_holder), Sat(CAPACITY - to_holder), own, theirs, Sat(fee), simple)


def built(world: World, operation: contract.SignMutualClose) -> Closing:
    assert operation.simple is not None
    ours = (Msat(1000 * operation.to_holder), operation.holder_script)
    theirs = (Msat(1000 * operation.to_counterparty), operation.counterparty_script)
    closer, closee = (ours, theirs) if operation.simple.by_holder else (theirs, ours)
    terms = simple_close.Terms(
        closer[0], closee[0], closer[1], closee[1], operation.fee, operation.simple.locktime
    )
    return simple_close.build(world.params, terms, simple_close.Variant(operation.simple.variant))


def signed(world: World, operation: contract.SignMutualClose) -> Closing:
    (result,) = world.grants(operation)
    assert isinstance(result, contract.MutualCloseSigned)
    close = built(world, operation)
    assert verify_ecdsa(world.drawn.keys.funding_pubkey, close.digest, result.signature)
    return close


def test_the_closer_pays_and_a_signature_fits_the_transaction_of_the_specification(world: World) -> None:
    """Checklist 55: sequence 0xFFFFFFFD and the locktime asked for."""
    tx = signed(world, close(world, by_holder=True, locktime=120)).tx
    assert (tx.inputs[0].sequence, tx.locktime) == (0xFFFFFFFD, 120)
    assert {output.script_pubkey: output.value for output in tx.outputs} == {
        world.drawn.shutdown_script: OURS - 500,
        THEIRS: CAPACITY - OURS,
    }


def test_a_close_that_the_peer_pays_costs_us_nothing(world: World) -> None:
    close_ = signed(world, close(world, by_holder=False, fee=60_000))
    assert {output.value for output in close_.tx.outputs} == {OURS, CAPACITY - OURS - 60_000}


def test_both_forms_may_be_signed_and_again_at_a_higher_fee(world: World) -> None:
    for fee in (500, 900):
        for variant in (1, 3):
            signed(world, close(world, by_holder=True, fee=fee, variant=variant))
    signed(world, close(world, by_holder=False))
    assert world.state.frozen == "mutual_close"


@pytest.mark.parametrize("by_holder", [True, False])
def test_less_than_our_lowest_balance_is_refused(world: World, by_holder: bool) -> None:
    assert world.refuses(close(world, by_holder=by_holder, to_holder=OURS - 1)) == "close-amounts"


def test_a_fee_of_ours_is_bounded(world: World) -> None:
    assert world.refuses(close(world, by_holder=True, fee=50_001)) == "close-fee"


def test_a_fee_that_the_peer_cannot_pay_is_its_fault(world: World) -> None:
    assert world.faults(close(world, by_holder=False, fee=CAPACITY - OURS + 1)) == "close-fee"


@pytest.mark.parametrize(("by_holder", "variant"), [(True, 2), (False, 1)])
def test_our_output_is_not_left_out(world: World, by_holder: bool, variant: int) -> None:
    assert world.refuses(close(world, by_holder=by_holder, variant=variant)) == "close-output"


@pytest.mark.parametrize(("by_holder", "variant"), [(True, 2), (False, 1)])
def test_our_output_is_left_out_when_it_is_dust(
    service: SignerService, by_holder: bool, variant: int
) -> None:
    poor = World(service, holder_is_opener=False, push_msat=293_000)
    least = close(poor, by_holder=by_holder, variant=variant, to_holder=294, fee=0)
    assert poor.refuses(least) == "close-output"
    signed(poor, close(poor, by_holder=by_holder, variant=variant, to_holder=293, fee=0))


def test_a_peer_that_burns_its_own_part_may(world: World) -> None:
    """Checklist 55: an OP_RETURN output has the amount 0."""
    close_ = signed(world, close(world, by_holder=False, theirs=b"\x6a\x06" + b"burned"))
    assert {output.value for output in close_.tx.outputs} == {OURS, 0}


def test_only_a_cold_script_is_paid(world: World) -> None:
    assert world.refuses(close(world, by_holder=True, script=THEIRS)) == "cold-script"


def test_only_the_three_forms_exist(world: World) -> None:
    assert world.refuses(close(world, by_holder=True, variant=0)) == "close-form"


def test_no_simple_close_while_an_htlc_lives(world: World) -> None:
    world.both_move(1, 1000 * (OURS - 50_000), [htlc(True, 0, 50_000_000)])
    assert world.refuses(close(world, by_holder=True)) == "close-htlcs"
