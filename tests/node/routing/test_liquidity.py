"""What attempts teach of channels and nodes, and how it fades, is kept and is forgotten."""

from pathlib import Path

import pytest

from node.routing import liquidity as module
from node.routing.cost import HALF_LIFE, NO_BOUND
from node.routing.liquidity import BROKEN_NODE, FAILING_NODE, SUSPECT_NODE, Liquidity
from node.routing.scores import ScoreStore
from protocol.amounts import Msat
from protocol.bolt4.failure import FailureCode
from protocol.bus.messages.routing import RouteHop
from tests.node.routing.support import at, node

ROOM = 10_000_001
HOPS = (
    RouteHop(node(1), at(900), 0, Msat(1_020), 90),
    RouteHop(node(2), at(1), 0, Msat(1_010), 60),
    RouteHop(node(3), at(2), 1, Msat(1_005), 40),
    RouteHop(node(4), at(3), 0, Msat(1_000), 18),
)
KEYS = tuple(hop.short_channel_id << 1 | hop.direction for hop in HOPS)


def room(_key: int) -> int:
    return ROOM


def ended(known: Liquidity, failed_at: int | None, code: int | None = None, now: float = 100.0) -> None:
    known.started("p/0", HOPS)
    known.ended("p/0", failed_at, code, now, room)


def test_an_attempt_takes_liquidity_until_it_ends():
    known = Liquidity()
    known.started("p/0", HOPS)
    known.started("p/0", HOPS)  # told again after a restart
    known.started("p/1", HOPS)
    assert [known.notes()[key][3] for key in KEYS[1:]] == [2_020, 2_010, 2_000]
    assert KEYS[0] not in known.notes()  # of our own channel we know better
    known.ended("p/0", -1, None, 100.0, room)
    assert known.notes()[KEYS[1]][3] == 1_010
    known.ended("p/1", -1, None, 100.0, room)
    assert known.notes() == {}


def test_a_liquidity_failure_bounds_that_channel_from_above_and_those_before_from_below():
    known = Liquidity()
    ended(known, 2, FailureCode.TEMPORARY_CHANNEL_FAILURE)
    assert known.notes() == {KEYS[1]: (1_010, NO_BOUND, 100.0, 0), KEYS[2]: (0, 1_005, 100.0, 0)}


def test_other_attempts_in_flight_count_into_the_bounds():
    known = Liquidity()
    known.started("q/0", HOPS)
    ended(known, 2, FailureCode.TEMPORARY_CHANNEL_FAILURE)
    assert known.notes()[KEYS[1]] == (2_020, NO_BOUND, 100.0, 1_010)
    assert known.notes()[KEYS[2]] == (0, 2_010, 100.0, 1_005)


def test_a_failure_at_the_payee_shows_that_all_channels_carried_it():
    known = Liquidity()
    ended(known, 4, FailureCode.INCORRECT_OR_UNKNOWN_PAYMENT_DETAILS)
    assert [known.notes()[key][0] for key in KEYS[1:]] == [1_010, 1_005, 1_000]
    assert known.suspects(100.0) == []


def test_a_payment_that_arrived_moved_its_amount_to_the_other_side():
    known = Liquidity()
    known.restore([(KEYS[1], 5_000, 9_000, 100.0), (KEYS[1] ^ 1, 0, 2_000, 100.0)], [])
    ended(known, None)
    assert known.notes()[KEYS[1]][:2] == (3_990, 7_990)
    assert known.notes()[KEYS[1] ^ 1][:2] == (1_010, 3_010)
    assert known.notes()[KEYS[2]][:2] == (0, ROOM - 1_005)


def test_a_later_failure_of_less_takes_the_lower_bound_back():
    known = Liquidity()
    known.restore([(KEYS[2], 5_000, -1, 100.0)], [])
    ended(known, 2, FailureCode.TEMPORARY_CHANNEL_FAILURE)
    assert known.notes()[KEYS[2]][:2] == (0, 1_005)


def test_a_later_success_of_more_takes_the_upper_bound_back():
    known = Liquidity()
    known.restore([(KEYS[1], 0, 500, 100.0)], [])
    ended(known, 3, FailureCode.TEMPORARY_CHANNEL_FAILURE)
    assert known.notes()[KEYS[1]][:2] == (1_010, NO_BOUND)


def test_a_failure_of_our_own_teaches_nothing():
    known = Liquidity()
    ended(known, 0, FailureCode.TEMPORARY_CHANNEL_FAILURE)
    assert known.notes() == {}


@pytest.mark.parametrize(
    "code",
    [
        FailureCode.FEE_INSUFFICIENT,
        FailureCode.INCORRECT_CLTV_EXPIRY,
        FailureCode.AMOUNT_BELOW_MINIMUM,
        FailureCode.EXPIRY_TOO_SOON,
    ],
)
def test_terms_that_were_not_met_say_nothing_of_liquidity(code: FailureCode):
    known = Liquidity()
    ended(known, 2, code)
    assert KEYS[2] not in known.notes() and known.suspects(100.0) == []


@pytest.mark.parametrize(
    "code",
    [
        FailureCode.UNKNOWN_NEXT_PEER,
        FailureCode.PERMANENT_CHANNEL_FAILURE,
        FailureCode.CHANNEL_DISABLED,
        0x4FFF,
    ],
)
def test_a_channel_that_cannot_be_used_carries_nothing(code: int):
    known = Liquidity()
    ended(known, 2, code)
    assert known.notes()[KEYS[2]][:2] == (0, 1)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (FailureCode.TEMPORARY_NODE_FAILURE, FAILING_NODE),
        (FailureCode.PERMANENT_NODE_FAILURE, BROKEN_NODE),
        (FailureCode.REQUIRED_NODE_FEATURE_MISSING, BROKEN_NODE),
        (FailureCode.INVALID_ONION_PAYLOAD, BROKEN_NODE),
    ],
)
def test_a_node_that_fails_is_remembered_and_forgiven(code: int, expected: float):
    known = Liquidity()
    ended(known, 2, code)
    assert known.suspects(100.0) == [(node(2), pytest.approx(expected))]
    assert known.node_chance(node(2), 100.0 + HALF_LIFE) == pytest.approx((1 + expected) / 2)


def test_nobody_owned_up_so_each_forwarder_is_a_little_suspect():
    known = Liquidity()
    ended(known, -1)
    assert known.suspects(100.0) == [(node(n), pytest.approx(SUSPECT_NODE)) for n in (1, 2, 3)]
    ended(known, -1)
    assert known.node_chance(node(2), 100.0) == pytest.approx(SUSPECT_NODE**2)


def test_an_attempt_that_was_never_told_of_teaches_nothing():
    known = Liquidity()
    known.ended("p/0", 2, FailureCode.TEMPORARY_CHANNEL_FAILURE, 1.0, room)
    assert known.notes() == {}


def test_what_has_faded_is_pruned_and_so_is_the_oldest_of_too_much(monkeypatch: pytest.MonkeyPatch):
    known = Liquidity()
    known.restore([(1, 5, -1, 0.0), (2, 5, -1, 1e6), (3, 5, -1, 2e6)], [(node(1), 0.5, 0.0)])
    assert known.prune(1e6) == ([1], [node(1)])
    monkeypatch.setattr(module, "MOST_ENTRIES", 1)
    assert known.prune(1e6) == ([2], [])
    assert set(known.notes()) == {3}


def test_scores_outlive_a_restart(tmp_path: Path):
    store = ScoreStore(tmp_path / "scores.db")
    known = Liquidity()
    ended(known, 2, FailureCode.TEMPORARY_CHANNEL_FAILURE)
    ended(known, 2, FailureCode.TEMPORARY_NODE_FAILURE)
    store.save(*known.take_changes())
    assert known.take_changes() == ([], [])
    again = Liquidity()
    again.restore(*store.load())
    assert again.notes() == known.notes() and again.suspects(100.0) == known.suspects(100.0)
    store.save([], [], [KEYS[2]], [node(2)])
    scores, nodes = store.load()
    assert [row[0] for row in scores] == [KEYS[1]] and nodes == []


def test_scores_of_aliases_that_no_database_holds_are_left_out(tmp_path: Path):
    store = ScoreStore(tmp_path / "scores.db")
    store.save([(1 << 63, 0, 1, 1.0), ((1 << 63) - 1, 0, 1, 1.0)], [], [1 << 63])
    assert [row[0] for row in store.load()[0]] == [(1 << 63) - 1]


@pytest.mark.parametrize("content", [b"", b"not a database, but of some length" * 40])
def test_a_lost_or_damaged_file_is_begun_anew(tmp_path: Path, content: bytes):
    path = tmp_path / "scores.db"
    path.write_bytes(content)
    store = ScoreStore(path)
    assert store.load() == ([], [])
    store.save([(5, 1, 2, 3.0)], [])
    assert store.load() == ([(5, 1, 2, 3.0)], [])


def test_a_place_that_cannot_be_written_does_no_harm(tmp_path: Path):
    store = ScoreStore(tmp_path / "nowhere" / "scores.db")
    store.save([(5, 1, 2, 3.0)], [])
    assert store.load() == ([], [])


def test_rows_of_another_shape_are_not_believed(tmp_path: Path):
    store = ScoreStore(tmp_path / "scores.db")
    store.save([(5, "many", 2, 3.0)], [(b"\2", 7.0, 1.0), (b"\3", 0.5, 1.0)])  # type: ignore[list-item]
    assert store.load() == ([], [(b"\3", 0.5, 1.0)])


@pytest.mark.parametrize(
    ("suspects", "nodes"), [((0, 2), (1, 2)), ((1, 4), (2, 3)), ((2, 3), (3,)), ((3, 4), ())]
)
def test_where_attribution_data_names_nodes_only_those_are_suspect(
    suspects: tuple[int, int], nodes: tuple[int, ...]
):
    """checklist 39: and never the payee, which a payment cannot go round."""
    known = Liquidity()
    known.started("p/0", HOPS)
    known.ended("p/0", -1, None, 100.0, room, suspects)
    assert known.suspects(100.0) == [(node(n), pytest.approx(SUSPECT_NODE)) for n in nodes]
