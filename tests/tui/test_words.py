"""What the interface says of events, in words."""

from protocol.amounts import Msat
from protocol.bus.messages.events import Event, ForwardNow, is_notable
from tui import words

FORWARD = ForwardNow(
    *(b"\x04" * 32, 7, Msat(5_001_000), b"\x06" * 32, Msat(5_000_000), Msat(1000), b"\x05" * 32, "settled"),
    received=1.0,
    resolved=2.0,
)


def test_a_forward_is_told_with_its_fee_or_its_reason() -> None:
    assert words.describe(Event(1, 2.0, FORWARD)) == "forward of 5,001 sat settled, fee 1 sat"
    failed = ForwardNow(
        *(b"\x04" * 32, 7, Msat(5_001_000), None, None, None, b"\x05" * 32, "local_failed", 1.0, 1.0),
        "no such channel\x1b[2J",
    )
    told = words.describe(Event(1, 2.0, failed))
    assert told.startswith("forward of 5,001 sat local failed: no such channel") and "\x1b" not in told


def test_payments_of_others_do_not_push_out_what_a_person_should_see() -> None:
    assert not is_notable(Event(1, 2.0, FORWARD))
