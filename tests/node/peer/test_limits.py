"""Budgets, and the times at which a kept peer is dialled again."""

from node.peer.limits import Budget
from node.peer.reconnect import Reconnects
from protocol.transport import LinkProfile

PEER = bytes([2]) * 33


class Profile(LinkProfile):
    first_reconnect = 1.0
    longest_reconnect = 300.0
    steady_after = 60.0


PROFILE = Profile(latency=1)


def test_budget_refills_with_time_and_never_above_its_burst():
    budget = Budget(rate=2, burst=4, now=0.0)
    assert [budget.spend(2, 0.0) for _ in range(3)] == [True, True, False]
    assert not budget.spend(0, 0.9)
    assert budget.spend(0, 1.0)
    assert budget.spend(4, 1000.0)
    assert not budget.spend(0.1, 1000.0)


def test_what_was_taken_beyond_the_budget_is_owed():
    budget = Budget(rate=1, burst=1, now=0.0)
    assert not budget.spend(11, 0.0)
    assert budget.is_overdrawn(9.0)
    assert not budget.is_overdrawn(10.0)


def test_kept_peer_is_due_at_once_and_then_ever_less_often():
    again = Reconnects(random=lambda: 0.5)
    again.keep(PEER, 0.0)
    assert again.due(0.0) == [PEER]
    waits = []
    for _ in range(12):
        again.lost(PEER, 0.0, PROFILE)
        waits.append(next(now for now in range(10_000) if again.due(now)))
    assert waits[:4] == [1, 2, 4, 8]
    assert waits[-1] == PROFILE.longest_reconnect


def test_waits_are_spread():
    low, high = Reconnects(random=lambda: 0.0), Reconnects(random=lambda: 0.99)
    for one in (low, high):
        one.keep(PEER, 0.0)
        one.lost(PEER, 0.0, PROFILE)
    assert low.due(0.6) and not high.due(0.6)


def test_steady_connection_begins_the_waits_anew_and_a_short_one_does_not():
    for lasted, due in ((PROFILE.steady_after, True), (1.0, False)):
        again = Reconnects(random=lambda: 0.5)
        again.keep(PEER, 0.0)
        for _ in range(5):
            again.lost(PEER, 0.0, PROFILE)
        again.lost(PEER, 0.0, PROFILE, lasted=lasted)
        assert bool(again.due(PROFILE.first_reconnect)) is due


def test_peer_that_is_not_kept_is_never_due():
    again = Reconnects(random=lambda: 0.5)
    again.keep(PEER, 0.0)
    again.forget(PEER)
    again.lost(PEER, 0.0, PROFILE)
    assert again.due(1e9) == []
    assert PEER not in again


def test_the_road_of_a_peer_says_how_long_to_wait():
    again = Reconnects(random=lambda: 0.5)
    slow = LinkProfile(latency=60, lossy=True)
    again.keep(PEER, 0.0)
    again.lost(PEER, 0.0, slow)
    assert not again.due(slow.first_reconnect - 1) and again.due(slow.first_reconnect + 1)
    assert slow.first_reconnect > 100 * LinkProfile(latency=0.2).first_reconnect


def test_a_road_that_opens_ends_all_waiting():
    again = Reconnects(random=lambda: 0.5)
    again.keep(PEER, 0.0)
    for _ in range(9):
        again.lost(PEER, 0.0, PROFILE)
    assert not again.due(100.0)
    again.hurry(100.0)
    assert again.due(100.0) == [PEER]
    again.lost(PEER, 100.0, PROFILE)
    assert again.due(101.0) == [PEER]
