"""What became of pending attempts after a start."""

from node.payments.reconcile import GaveBack, Keep, NeverSent, Settle, describe, reconcile
from protocol.bus.messages.channel import Origins
from tests.node.payments.support import PREIMAGE


def test_each_origin_gets_the_end_that_the_channels_know():
    origins = Origins(
        (
            ("a/0", "pending", None, None, None),
            ("b/0", "fulfilled", PREIMAGE, None, None),
            ("c/0", "failed", None, b"reason", None),
            ("stranger", "fulfilled", PREIMAGE, None, None),
        )
    )
    assert reconcile(["a/0", "b/0", "c/0", "d/0"], origins) == [
        Keep("a/0"),
        Settle("b/0", PREIMAGE),
        GaveBack("c/0", b"reason"),
        NeverSent("d/0"),
    ]


def test_what_is_not_known_to_be_over_is_kept():
    """A state without its proof must not make a second payment possible."""
    assert reconcile(["a/0"], Origins((("a/0", "fulfilled", None, None, None),))) == [Keep("a/0")]
    assert reconcile(["a/0"], Origins((("a/0", "resolving", None, None, None),))) == [Keep("a/0")]


def test_every_outcome_has_a_word_for_the_log():
    words = {describe(o) for o in (Keep("a"), Settle("a", b""), GaveBack("a", None), NeverSent("a"))}
    assert len(words) == 4
