"""Budgets, and the times at which a kept peer is dialled again."""

from node.peer.limits import Budget
from node.peer.reconnect import FIRST_WAIT, LONGEST_WAIT, STEADY_AFTER, Reconnects

PEER = bytes([2]) * 33


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
        again.lost(PEER, 0.0)
        waits.append(next(now for now in range(10_000) if again.due(now)))
    assert waits[:4] == [1, 2, 4, 8]
    assert waits[-1] == LONGEST_WAIT


def test_waits_are_spread():
    low, high = Reconnects(random=lambda: 0.0), Reconnects(random=lambda: 0.99)
    for one in (low, high):
        one.keep(PEER, 0.0)
        one.lost(PEER, 0.0)
    assert low.due(0.6) and not high.due(0.6)


def test_steady_connection_begins_the_waits_anew_and_a_short_one_does_not():
    for lasted, due in ((STEADY_AFTER, True), (1.0, False)):
        again = Reconnects(random=lambda: 0.5)
        again.keep(PEER, 0.0)
        for _ in range(5):
            again.lost(PEER, 0.0)
        again.lost(PEER, 0.0, lasted=lasted)
        assert bool(again.due(FIRST_WAIT)) is due


def test_peer_that_is_not_kept_is_never_due():
    again = Reconnects(random=lambda: 0.5)
    again.keep(PEER, 0.0)
    again.forget(PEER)
    again.lost(PEER, 0.0)
    assert again.due(1e9) == []
    assert PEER not in again
