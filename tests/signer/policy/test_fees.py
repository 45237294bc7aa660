"""What a commitment may burn: a stolen node that pays a miner, or burns our balance out of malice."""

import pytest

from protocol.amounts import FeeratePerKw
from protocol.bolt3.commitment import Side
from protocol.bolt3.exposure import at_risk, commitment_fee_limit, trimmed_limit
from protocol.hashes import sha256
from signer.service import SignerService
from tests.signer.support import CAPACITY, World, htlc

OURS = 600_000_000
LIMIT = commitment_fee_limit(CAPACITY)


def highest(world: World, htlcs: int = 0) -> FeeratePerKw:
    """The highest feerate that this channel's commitment may have with so many HTLCs."""
    weight = (1124 if world.params.anchors else 724) + 172 * htlcs
    room = LIMIT - (660 if world.params.anchors else 0)
    return FeeratePerKw(((room + 1) * 1000 - 1) // weight)


@pytest.fixture(params=[True, False], ids=["anchors", "static_remotekey"])
def world(request: pytest.FixtureRequest, service: SignerService) -> World:
    return World(service, anchors=request.param)


def test_the_fee_of_a_commitment_that_we_pay_for_is_bounded(world: World) -> None:
    """Attack: all that we have goes to a miner."""
    most = highest(world)
    above = FeeratePerKw(most + 1)
    for bad in (above, FeeratePerKw(400_000)):
        assert world.refuses(world.validate(1, OURS, feerate=bad)) == "commitment-fee"
        assert world.refuses(world.sign(1, OURS, feerate=bad)) == "commitment-fee"
    world.grants(world.validate(1, OURS, feerate=most), world.sign(1, OURS, feerate=most))


def test_the_outputs_of_htlcs_count_whoever_offered_them(world: World) -> None:
    items = (htlc(True, 0, 120_000_000), htlc(False, 0, 120_000_000))
    most = highest(world, 2)
    left = OURS - 120_000_000
    assert world.refuses(world.sign(1, left, items, FeeratePerKw(most + 1))) == "commitment-fee"
    world.grants(world.sign(1, left, items, most))


def test_our_trimmed_htlcs_count_with_the_fee(service: SignerService) -> None:
    world = World(service, anchors=False)
    rate = FeeratePerKw(100_000)  # 72,400 sat; all below 66,846 sat is trimmed
    items = [htlc(True, n, 14_000_000, sha256(bytes((n,)))) for n in range(2)]
    assert world.refuses(world.sign(1, OURS - 28_000_000, items, rate)) == "commitment-fee"
    world.grants(world.sign(1, OURS - 14_000_000, items[:1], rate))
    # Those of the peer are its own loss, and it could add them at any time.
    world.grants(world.validate(1, OURS, [htlc(False, n, 14_000_000) for n in range(2)], rate))


def test_the_fee_that_the_peer_pays_is_its_own_affair(service: SignerService) -> None:
    world = World(service, push_msat=400_000_000, holder_is_opener=False)
    world.grants(world.validate(1, 400_000_000, feerate=FeeratePerKw(400_000)))


@pytest.mark.parametrize("holder_is_opener", [True, False])
def test_our_trimmed_htlcs_are_bounded_in_any_channel(service: SignerService, holder_is_opener: bool) -> None:
    """Attack: small HTLCs of ours, a close, and a friend with a mine."""
    world = World(service, anchors=False, push_msat=400_000_000, holder_is_opener=holder_is_opener)
    ours = world.opening[0]
    small = [htlc(True, n, 1_000_000, sha256(bytes((n,)))) for n in range(101)]  # below 546 + 663 sat
    tag = "commitment-fee" if holder_is_opener else "dust-exposure"
    assert world.refuses(world.sign(1, ours - 101_000_000, small)) == tag
    if not holder_is_opener:
        world.grants(world.sign(1, ours - 100_000_000, small[:100]))
        many = [htlc(False, n, 1_000_000, sha256(bytes((n,)))) for n in range(200)]
        world.grants(world.validate(1, ours, many))


def test_fees_that_trim_our_htlcs_are_refused(service: SignerService) -> None:
    """Attack: the peer raises the feerate, so that what had an output has none."""
    world = World(service, anchors=False, push_msat=400_000_000, holder_is_opener=False)
    items = [htlc(True, n, 30_000_000, sha256(bytes((n,)))) for n in range(4)]
    left = world.opening[0] - 120_000_000
    world.both_move(1, left, items)
    assert world.refuses(world.validate(2, left, items, FeeratePerKw(46_000))) == "dust-exposure"
    world.grants(world.validate(2, left, items, FeeratePerKw(40_000)))


def test_the_limits_grow_with_the_channel() -> None:
    assert [commitment_fee_limit(c) for c in (200_000, 500_000, 500_010)] == [50_000, 50_000, 50_001]  # type: ignore[arg-type]
    assert [trimmed_limit(c) for c in (200_000, 1_000_000, 1_000_010)] == [100_000, 100_000, 100_001]  # type: ignore[arg-type]


def test_a_regtest_feerate_of_45000_passes_from_200000_sat_on(service: SignerService) -> None:
    world = World(service, anchors=False)
    fee, trimmed = at_risk(
        world.params, Side.HOLDER, world.content(Side.HOLDER, 1, OURS, feerate=FeeratePerKw(45_000))
    )
    assert (fee, trimmed) == (32_580, 0)
    assert fee <= commitment_fee_limit(200_000)  # type: ignore[arg-type]


def test_parts_of_a_satoshi_are_rounded_up(service: SignerService) -> None:
    world = World(service)
    content = world.content(Side.COUNTERPARTY, 1, OURS - 3, (htlc(True, 0, 3),))
    assert at_risk(world.params, Side.COUNTERPARTY, content) == (1124 + 660, 1)
