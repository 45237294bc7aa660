"""The ring of events: numbers without holes, pages, and gaps that are told."""

from hypothesis import given
from hypothesis import strategies as st

from node.events.ring import Ring
from protocol.bus.messages.events import MAX_PAGE, CoinSeen, LogLine

RUN = b"this run"


def line(number: int) -> LogLine:
    return LogLine("info", f"line {number}", "")


def ring(count: int, capacity: int = 10) -> Ring:
    made = Ring(RUN, capacity)
    for number in range(1, count + 1):
        made.add(float(number), line(number))
    return made


def test_events_are_numbered_from_one() -> None:
    page = ring(3).since(RUN, 0, MAX_PAGE)
    assert [event.seq for event in page.events] == [1, 2, 3]
    assert (page.last, page.gap) == (3, False)


def test_who_saw_everything_gets_an_empty_page() -> None:
    page = ring(3).since(RUN, 3, MAX_PAGE)
    assert page.events == () and page.last == 3 and not page.gap


def test_a_page_ends_where_the_next_one_begins() -> None:
    kept = ring(7)
    first = kept.since(RUN, 0, 3)
    second = kept.since(RUN, first.last, 3)
    assert [event.seq for event in (*first.events, *second.events)] == [1, 2, 3, 4, 5, 6]


def test_what_fell_out_of_the_ring_is_a_gap() -> None:
    kept = ring(15, capacity=10)
    assert not kept.since(RUN, 5, MAX_PAGE).gap
    lost = kept.since(RUN, 4, MAX_PAGE)
    assert lost.gap and lost.events == () and lost.last == 15


def test_numbers_of_another_run_are_a_gap() -> None:
    assert ring(5).since(b"an earlier run", 3, MAX_PAGE).gap
    assert not ring(5).since(b"", 3, MAX_PAGE).gap, "who does not know the run may ask"


def test_a_number_from_the_future_is_a_gap() -> None:
    assert ring(5).since(RUN, 6, MAX_PAGE).gap
    assert ring(0).since(RUN, 1, MAX_PAGE).gap


def test_the_ring_never_holds_more_than_its_capacity() -> None:
    kept = ring(10_000, capacity=100)
    assert len(kept.since(RUN, 9_900, MAX_PAGE).events) == 100
    assert kept.since(RUN, 9_899, MAX_PAGE).gap


def test_the_newest_of_a_kind_come_oldest_first() -> None:
    kept = ring(5)
    kept.add(6.0, CoinSeen(bytes(32), 0, 1, 1))
    found = kept.newest(lambda event: isinstance(event.what, LogLine), 2)
    assert [event.seq for event in found] == [4, 5]


@given(count=st.integers(0, 60), seq=st.integers(-3, 70), most=st.integers(-1, 40))
def test_a_page_follows_or_says_that_it_does_not(count: int, seq: int, most: int) -> None:
    page = ring(count, capacity=16).since(RUN, seq, most)
    if page.gap:
        assert page.events == ()
        assert seq < 0 or seq > count or seq < count - 16
    else:
        assert [event.seq for event in page.events] == list(range(seq + 1, page.last + 1))
