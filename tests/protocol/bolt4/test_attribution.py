"""Attribution data (BOLT 4; checklist 39): the published vectors, and who is blamed when."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.bolt4 import attribution, failure_onion
from protocol.bolt4.attribution import SIZE, Told, hold_units, keys_of, read, update
from protocol.bolt4.failure import TemporaryNodeFailure
from protocol.errors import MalformedMessage
from protocol.hashes import sha256
from protocol.secret import Secret
from tests.support import vectors

SECRETS = [Secret(sha256(bytes([n]))) for n in range(5)]


def travel(
    secrets: list[Secret], times: list[int], *, packet: bool = True, silent: tuple[int, ...] = ()
) -> tuple[bytes, bytes]:
    """The return packet and the data as the first hop gives them to the origin."""
    carried = failure_onion.create(secrets[-1], TemporaryNodeFailure()) if packet else b""
    data: bytes | None = None
    plain = _before_own_layer(secrets[-1], carried)
    for index in range(len(secrets) - 1, -1, -1):
        is_source = index == len(secrets) - 1
        data = update(keys_of(secrets[index]), plain, times[index], data, is_source=is_source)
        if index in silent:
            data = None
        if not is_source and packet:
            carried = failure_onion.wrap(secrets[index], carried)
        plain = carried
    return carried, data or b""


def _before_own_layer(secret: Secret, packet: bytes) -> bytes:
    return failure_onion.wrap(secret, packet) if packet else b""


def test_the_published_data_of_a_failure_and_of_a_success() -> None:
    """checklist 39: at each of five hops, byte for byte."""
    published = vectors("bolt04/attributable_errors.json")
    failure = published["failure"]
    hops = failure["hops"]
    times = {hop["node"]: time for hop, time in zip(hops, failure["hold_times"], strict=True)}
    secrets = {hop["node"]: Secret(bytes.fromhex(hop["shared_secret"])) for hop in hops}
    packet, data = bytes.fromhex(failure["raw_error_packet"]), None
    for hop in hops:
        node = hop["node"]
        data = update(keys_of(secrets[node]), packet, times[node], data, is_source=node == len(hops) - 1)
        packet = failure_onion.wrap(secrets[node], packet)
        assert packet.hex() == hop["error_packet"]
        assert data.hex() == hop["attribution_data"]
    route = [secrets[node] for node in sorted(secrets)]
    assert data is not None
    assert read(route, packet, data) == Told(tuple(times[node] for node in sorted(times)))
    data = None
    for hop in published["success_attribution"]:
        node = hop["node"]
        data = update(keys_of(secrets[node]), b"", times[node], data, is_source=node == len(hops) - 1)
        assert data.hex() == hop["attribution_data"]


def test_one_published_hop_stands_here() -> None:
    """checklist 39: the source's data for a success, first and last bytes, for a clone without the vectors."""
    secret = Secret(bytes.fromhex("b5756b9b542727dbafc6765a49488b023a725d631af688fc031217e90770c328"))
    data = update(keys_of(secret), b"", ONE_TIME, None, is_source=True)
    assert (data[:16].hex(), len(data)) == (ONE_START, 920)


ONE_TIME = 1
ONE_START = "d77d0711b5f71d1d1be56bd88b3bb7eb"


@given(st.integers(1, 20), st.booleans(), st.data())
def test_every_hop_is_heard_on_routes_of_any_length(count: int, packet: bool, data: st.DataObject) -> None:
    """checklist 39"""
    secrets = [Secret(sha256(bytes([n]))) for n in range(count)]
    times = data.draw(st.lists(st.integers(0, 2**32 - 1), min_size=count, max_size=count))
    carried, told = travel(secrets, times, packet=packet)
    assert read(secrets, carried, told) == Told(tuple(times))


@given(st.integers(0, SIZE - 1), st.integers(1, 255))
def test_a_changed_byte_is_blamed_on_the_first_hop_or_on_nobody(at: int, difference: int) -> None:
    """checklist 39: bytes that belong to places beyond the route do not count."""
    carried, told = travel(SECRETS, [1, 2, 3, 4, 5])
    changed = told[:at] + bytes([told[at] ^ difference]) + told[at + 1 :]
    found = read(SECRETS, carried, changed)
    assert found.spoiled_at in (0, None)
    if at < 20:
        assert found.spoiled_at == 0


@pytest.mark.parametrize("at", range(1, 20))
def test_a_hop_that_gives_none_is_where_the_knowledge_ends(at: int) -> None:
    """checklist 39: zeros are filled in for it, and the hops before it are still heard, on the longest route too."""
    secrets = [Secret(sha256(bytes([n]))) for n in range(20)]
    carried, told = travel(secrets, list(range(20)), silent=(at,))
    assert read(secrets, carried, told) == Told(tuple(range(at)), spoiled_at=at, silent=True)


def test_behind_the_hop_that_failed_it_nobody_is_asked() -> None:
    """checklist 39: the hops behind had no part in it, and have no data in it that they could have spoiled."""
    carried, told = travel(SECRETS[:3], [3, 2, 1])
    assert read(SECRETS, carried, told, source=2) == Told((3, 2, 1))


@pytest.mark.parametrize(
    ("given", "silent"),
    [
        (None, True),
        (bytes(SIZE), True),
        (b"!" * SIZE, False),
        (b"!!!!" + bytes(SIZE - 4), False),  # a hold time, and no HMAC
        (bytes(80) + b"!!!!" * 20 + bytes(SIZE - 160), False),  # its HMACs, and no hold time
    ],
)
def test_silence_is_told_from_garbage(given: bytes | None, silent: bool) -> None:
    """checklist 39: garbage is the work of the hop or the one before; where nothing came, others may be at fault."""
    carried, _ = travel(SECRETS[1:], [2, 3, 4, 5])
    data = update(keys_of(SECRETS[0]), carried, 1, given)
    packet = failure_onion.wrap(SECRETS[0], carried)
    assert read(SECRETS, packet, data) == Told((1,), 1, silent)


def test_a_spoiled_packet_is_blamed_on_who_spoiled_it() -> None:
    """checklist 39: the data covers the packet as each hop passed it on."""
    carried, told = travel(SECRETS, [1, 2, 3, 4, 5])
    assert read(SECRETS, carried[:-1] + bytes([carried[-1] ^ 1]), told).spoiled_at == 0


def test_data_of_another_size_is_no_attribution() -> None:
    """checklist 39: 80 + 840 bytes"""
    assert SIZE == 80 + 840
    assert read(SECRETS, b"", bytes(919)) == Told((), 0)
    with pytest.raises(MalformedMessage):
        update(keys_of(SECRETS[0]), b"", 0, bytes(921))
    with pytest.raises(ValueError, match="20 hops"):
        read([SECRETS[0]] * 21, b"", bytes(SIZE))


def test_hold_times_count_in_tenths_of_a_second() -> None:
    """checklist 39: units of 100 ms"""
    assert [hold_units(seconds) for seconds in (0.0, 0.099, 0.1, 0.35, -1.0, 1e12)] == [
        0,
        0,
        1,
        3,
        0,
        2**32 - 1,
    ]
    assert attribution.HOLD_TIME_UNIT_MS == 100
