"""HTLCs too small for an output are bounded (BOLT 2, "Bounding exposure to trimmed in-flight HTLCs"; checklist 21)."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from node.channel import dust
from node.channel.events import FeerateMoved, FromPeer, Fulfil
from node.channel.state import Online
from protocol.amounts import FeeratePerKw, Msat, Sat
from protocol.wire.bolt2_update import UpdateFee
from tests.node.channel.pair import End, Pair, open_channel
from tests.node.channel.test_dance import balances, mirrored, offer

DUST = 353_000
"""Below every dust limit here."""
BOUND = Sat(1_000)


def opened(folder: Path, *, anchors: bool = True) -> Pair:
    pair = Pair(folder)
    open_channel(pair, push=3_000_000_000, anchors=anchors, feerate=1000)
    return pair


def strict(end: End) -> None:
    end.env = replace(end.env, max_dust=BOUND)


def test_dust_up_to_the_bound_is_offered_and_the_next_is_refused(tmp_path: Path) -> None:
    """checklist 21"""
    pair = opened(tmp_path)
    strict(pair.alice)
    for _ in range(3):
        offer(pair, pair.alice, DUST)
    pair.quiet()
    assert len(pair.alice.state.htlcs) == 2
    (refused,) = pair.alice.said.refused
    assert "too small" in refused.sentence
    offer(pair, pair.alice, 50_000_000)  # one with an output is none of them
    pair.quiet()
    assert len(pair.alice.state.htlcs) == 3


def test_dust_that_we_did_not_want_is_taken_and_failed_and_never_fulfilled(tmp_path: Path) -> None:
    """checklist 21"""
    pair = opened(tmp_path)
    strict(pair.bob)
    before = balances(pair)
    for _ in range(4):
        offer(pair, pair.alice, DUST)
    while not any(end.said.received for end in pair.ends):
        assert any([end.answer() or pair.deliver(end, 1000) for end in pair.ends])  # noqa: C419
    for n in range(4):
        pair.bob.do(Fulfil(n))
    pair.quiet()
    assert not pair.bob.drops
    assert [event.htlc_id for event in pair.bob.said.received] == [0, 1]
    assert len(pair.alice.said.failed) == 2
    assert len(pair.alice.said.fulfilled) == 2
    assert balances(pair) == (before[0] - 2 * DUST, before[1] + 2 * DUST)
    mirrored(pair)


def test_a_crash_does_not_change_what_was_decided_of_dust(tmp_path: Path) -> None:
    """checklist 21, 29: also when the other dust is gone by then."""
    pair = opened(tmp_path)
    strict(pair.bob)
    for _ in range(3):
        offer(pair, pair.alice, DUST)
    while len(pair.bob.state.htlcs) < 3:
        assert any([end.answer() or pair.deliver(end, 1000) for end in pair.ends])  # noqa: C419
    pair.disconnect()
    pair.bob.crash(lose_next=False)
    pair.bob.env = replace(pair.bob.env, max_dust=Sat(1_000_000))
    pair.connect()
    pair.quiet()
    assert {event.htlc_id for event in pair.bob.said.received} <= {0, 1}
    assert len(pair.alice.said.failed) == 1


def test_a_feerate_that_trims_too_much_is_not_proposed(tmp_path: Path) -> None:
    """checklist 21: without anchors; 20,000 sat have an output at 1,000 sat/kw and none at 50,000."""
    pair = opened(tmp_path, anchors=False)
    for _ in range(30):
        offer(pair, pair.bob, 20_000_000)
    pair.quiet()
    pair.alice.do(FeerateMoved(FeeratePerKw(50_000)))
    pair.quiet()
    assert pair.alice.state.committed.fees[-1].feerate_per_kw == 1000
    pair.alice.do(FeerateMoved(FeeratePerKw(2_000)))
    pair.quiet()
    assert pair.alice.state.committed.fees[-1].feerate_per_kw == 2000


@pytest.mark.parametrize("anchors", [True, False])
def test_a_feerate_that_trims_too_much_is_not_taken_without_anchors(tmp_path: Path, anchors: bool) -> None:
    """checklist 21: with anchors the second stages pay no fee, so it trims nothing more."""
    pair = opened(tmp_path, anchors=anchors)
    for _ in range(30):
        offer(pair, pair.bob, 20_000_000)
    pair.quiet()
    pair.bob.do(FromPeer(UpdateFee(pair.bob.state.committed.params.channel_id, FeeratePerKw(50_000))))
    assert isinstance(pair.bob.state.volatile.link, Online) is anchors


def test_the_bound_grows_with_the_feerate_where_trimming_does() -> None:
    assert dust.bound(Sat(50_000), FeeratePerKw(1000), anchors=False) == Msat(50_000_000)
    assert dust.bound(Sat(50_000), FeeratePerKw(20_000), anchors=False) == Msat(200_000_000)
    assert dust.bound(Sat(50_000), FeeratePerKw(20_000), anchors=True) == Msat(50_000_000)


@pytest.mark.parametrize("anchors", [True, False])
def test_the_sum_is_that_of_the_htlcs_without_an_output(tmp_path: Path, anchors: bool) -> None:
    """checklist 21: on each side by its own dust limit, and by who offers."""
    pair = opened(tmp_path, anchors=anchors)
    for amount in (DUST, 1_000_000, 1_020_000, 2_000_000):
        offer(pair, pair.alice, amount)
        offer(pair, pair.bob, amount)
    pair.quiet()
    for end in pair.ends:
        params, rate = end.state.committed.params, FeeratePerKw(1000)
        sums = [0, 0]
        for row in end.state.htlcs.values():
            flags = dust.trimmed(params, rate, offered=row.offered, amount_msat=row.amount_msat)
            sums = [n + row.amount_msat * flag for n, flag in zip(sums, flags, strict=True)]
        assert dust.exposure(params, end.state.htlcs, rate) == tuple(sums)
        assert sums[0] > 0
