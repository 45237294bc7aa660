"""Budgets of gossip: a burst, a rate, and a bound on how much is remembered."""

from node.routing.gossip.rates import Bucket, GossipLimits, Rates


def test_a_bucket_refills_at_its_rate_up_to_its_burst():
    bucket = Bucket(rate=2.0, burst=10.0, now=0.0)
    assert bucket.spend(10, 0.0) and not bucket.spend(1, 0.0)
    assert not bucket.spend(2, 0.9) and bucket.spend(2, 1.0)
    assert bucket.has(10, 100.0) and not bucket.has(11, 100.0)


def test_what_we_asked_for_comes_on_top_and_does_not_fade():
    bucket = Bucket(rate=1.0, burst=10.0, now=0.0)
    bucket.grant(1_000, 0.0)
    assert bucket.spend(1_005, 50.0) and not bucket.spend(6, 50.0)


def test_a_clock_that_goes_back_gives_nothing_and_takes_nothing():
    bucket = Bucket(rate=1.0, burst=10.0, now=100.0)
    assert bucket.spend(10, 100.0)
    assert not bucket.spend(1, 50.0) and bucket.spend(1, 51.0)


def test_each_channel_has_its_own_burst():
    """checklist 59: a burst of ten, then one a minute."""
    limits = GossipLimits()
    rates = Rates(limits.updates_per_second, limits.update_burst, limits.rated)
    assert [rates.spend("a", 0.0) for _ in range(11)] == [True] * 10 + [False]
    assert rates.spend("b", 0.0)
    assert not rates.spend("a", 59.0) and rates.spend("a", 60.0) and not rates.spend("a", 61.0)


def test_asking_whether_there_is_room_takes_none():
    rates = Rates(1.0, 1.0, 10)
    assert rates.allows("a", 0.0) and rates.allows("a", 0.0)
    assert rates.spend("a", 0.0) and not rates.allows("a", 0.5) and rates.allows("a", 1.0)


def test_channels_without_traffic_are_forgotten_first():
    rates = Rates(1.0, 2.0, 100)
    for number in range(100):
        rates.spend(number, 0.0)
    for _ in range(2):
        rates.spend("busy", 10.0)
    assert len(rates) == 1 and not rates.allows("busy", 10.5)


def test_a_flood_of_busy_channels_does_not_take_memory_without_end():
    rates = Rates(0.0, 1.0, 100)
    for number in range(10_000):
        rates.spend(number, 0.0)
    assert len(rates) <= 100
