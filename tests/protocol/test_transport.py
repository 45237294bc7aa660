"""Addresses and link profiles (protocol/transport.py)."""

import pytest

from protocol.transport import LinkProfile, format_host_port, parse_host_port


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("203.0.113.7:9735", ("203.0.113.7", 9735)),
        ("[2001:db8::7]:1", ("2001:db8::7", 1)),
        ("node.example:65535", ("node.example", 65535)),
    ],
)
def test_addresses_are_read_and_written(text, parts):
    assert parse_host_port(text) == parts
    assert format_host_port(*parts) == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("203.0.113.7", "host:port"),
        (":9735", "host:port"),
        ("", "host:port"),
        ("2001:db8::7:9735", "brackets"),
        ("[2001:db8::7:9735", "partner"),
        ("[]:9735", "partner"),
        ("[node.example]:9735", "brackets"),
        ("node.example:0", "port"),
        ("node.example:65536", "port"),
        ("node.example:９735", "port"),
        ("node.example:", "port"),
        ("no de:9735", "blanks"),
    ],
)
def test_a_bad_address_says_what_is_wrong(text, why):
    with pytest.raises(ValueError, match=why):
        parse_host_port(text)


def test_port_0_is_for_listening_only():
    assert parse_host_port("127.0.0.1:0", lowest_port=0) == ("127.0.0.1", 0)


TIMERS = (
    "dial_timeout",
    "handshake_timeout",
    "ping_interval",
    "pong_wait",
    "revocation_wait",
    "steady_after",
)
OTHER_TIMERS = ("crossing_dials", "closing_wait", "first_reconnect", "longest_reconnect")


@pytest.mark.parametrize("timer", TIMERS + OTHER_TIMERS)
def test_every_timer_grows_with_latency_loss_and_waiting_for_air_time(timer):
    base = getattr(LinkProfile(latency=1), timer)
    assert getattr(LinkProfile(latency=5), timer) > base
    assert getattr(LinkProfile(latency=1, lossy=True), timer) > base
    assert getattr(LinkProfile(latency=1, duty_cycle=0.01), timer) > 10 * base


@pytest.mark.parametrize("latency", [0.001, 0.2, 3, 60])
def test_an_answer_has_time_for_three_round_trips(latency):
    profile = LinkProfile(latency=latency)
    for timer in TIMERS:
        assert getattr(profile, timer) >= 3 * profile.round_trip
    assert profile.ping_interval > profile.pong_wait


@pytest.mark.parametrize(
    "fields",
    [
        {"latency": 0},
        {"latency": 1, "duty_cycle": 0},
        {"latency": 1, "duty_cycle": 1.1},
        {"latency": 1, "cost_per_byte": -1},
        {"latency": 1, "setup": -1},
        {"latency": 1, "datagram_size": 0},
    ],
)
def test_a_profile_that_cannot_be_is_refused(fields):
    with pytest.raises(ValueError):
        LinkProfile(**fields)


def test_a_link_that_takes_long_to_set_up_is_dialled_longer_and_no_slower_afterwards():
    quick, slow = LinkProfile(latency=1), LinkProfile(latency=1, setup=75)
    assert slow.dial_timeout == quick.dial_timeout + 75
    assert slow.handshake_timeout == quick.handshake_timeout
