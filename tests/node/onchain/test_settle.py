"""When an HTLC has ended and a channel is resolved: too early loses money upstream (BOLT 5, "HTLC Output Handling",
"General Nomenclature")."""

from typing import Any

import pytest
from msgspec.structs import replace

from node.onchain.settle import is_resolved, outcome_of
from node.onchain.state import FINAL_DEPTH, Facts, HtlcFact, Kind, Outcome, Output, Role, Spent, State
from protocol.amounts import BlockHeight, Msat, Sat
from tests.protocol.bolt3.channel import params

MINED = 200
EXPIRY = 300
PREIMAGE = b"\x07" * 32
TXID = b"\x01" * 32


def htlc(*, offered: bool, **known: Any) -> HtlcFact:
    return HtlcFact(offered, 3, Msat(50_000_000), bytes(32), EXPIRY, present=True, live=True, **known)


def output(role: Role, of: HtlcFact | None, **known: Any) -> Output:
    key = None if of is None else of.key
    return Output(TXID, 1, Sat(50_000), b"", role, key, BlockHeight(MINED), **known)


def closed(*outputs: Output, htlcs: tuple[HtlcFact, ...] = (), kind: Kind = Kind.THEIRS) -> State:
    facts = Facts(b"", bytes(32), params(), kind, 7, b"", TXID, htlcs)
    return State(facts, BlockHeight(MINED), outputs=outputs)


def spent(height: int, preimage: bytes | None = None) -> Spent:
    return Spent(b"\x02" * 32, BlockHeight(height), preimage)


def ended(state: State, of: HtlcFact, height: int) -> str:
    match outcome_of(state, of, BlockHeight(height)):
        case None:
            return "open"
        case Outcome(paid=paid):
            return "paid" if paid else "failed"


def test_an_offered_htlc_that_no_valid_commitment_has_fails_with_the_first_block() -> None:
    """checklist 44"""
    ours = htlc(offered=True)
    assert ended(closed(), ours, MINED) == "failed"


def test_a_commitment_without_the_htlc_that_no_block_has_fails_nothing() -> None:
    """The peer shows it to our mempool, hears the failure upstream, and mines the other commitment. checklist 44"""
    ours = htlc(offered=True)
    seen = replace(closed(), height=None)
    for height in (MINED, EXPIRY, EXPIRY + 100):
        assert ended(seen, ours, height) == "open"


def test_an_offered_htlc_that_another_valid_commitment_has_waits_for_depth() -> None:
    """checklist 44, 51"""
    ours = htlc(offered=True, elsewhere=True)
    assert ended(closed(), ours, MINED + FINAL_DEPTH - 2) == "open"
    assert ended(closed(), ours, MINED + FINAL_DEPTH - 1) == "failed"


def test_an_offered_htlc_that_came_back_waits_for_depth() -> None:
    """checklist 44, 51: however long ago its expiry was."""
    ours = htlc(offered=True)
    at = EXPIRY + 50
    state = closed(output(Role.OUR_OFFERED, ours, spent=spent(at)))
    assert ended(state, ours, at + FINAL_DEPTH - 2) == "open"
    assert ended(state, ours, at + FINAL_DEPTH - 1) == "failed"


def test_an_offered_htlc_whose_output_stands_never_fails_by_time_alone() -> None:
    """The peer may have the preimage, and spends the output when the payer was told of the failure."""
    ours = htlc(offered=True)
    assert ended(closed(output(Role.OUR_OFFERED, ours)), ours, EXPIRY + 1000) == "open"


def test_an_output_that_is_left_fails_when_no_honest_peer_would_claim_it_any_more() -> None:
    ours = htlc(offered=True)
    state = closed(output(Role.THEIR_RECEIVED, ours, given_up="not worth its fee"))
    assert ended(state, ours, EXPIRY + FINAL_DEPTH - 1) == "open"
    assert ended(state, ours, EXPIRY + FINAL_DEPTH) == "failed"


@pytest.mark.parametrize("where", ["spend", "known", "known and taken back", "known and without output"])
def test_a_preimage_counts_at_once(where: str) -> None:
    """checklist 46: it brings the money back upstream, whatever the chain makes of this output."""
    ours = htlc(offered=True, preimage=PREIMAGE if "known" in where else None)
    state = {
        "spend": closed(output(Role.OUR_OFFERED, ours, spent=spent(MINED + 1, PREIMAGE))),
        "known": closed(output(Role.OUR_OFFERED, ours)),
        "known and taken back": closed(output(Role.OUR_OFFERED, ours, spent=spent(MINED + 1))),
        "known and without output": closed(),
    }[where]
    assert outcome_of(state, ours, BlockHeight(MINED + 50)) == Outcome(True, ours.id, True, PREIMAGE)
    assert ended(state, ours, MINED + 1) == "paid"


@pytest.mark.parametrize("credited", [False, True])
def test_a_received_htlc_without_an_output_ends_with_the_depth_of_the_commitment(credited: bool) -> None:
    theirs = htlc(offered=False, credited=credited)
    assert ended(closed(), theirs, MINED + FINAL_DEPTH - 2) == "open"
    assert ended(closed(), theirs, MINED + FINAL_DEPTH - 1) == ("paid" if credited else "failed")


@pytest.mark.parametrize(
    ("preimage", "credited", "how"),
    [(PREIMAGE, False, "paid"), (None, True, "paid"), (None, False, "failed")],
)
def test_a_received_htlc_ends_with_the_depth_of_its_spend(
    preimage: bytes | None, credited: bool, how: str
) -> None:
    """A claim of ours may still lose a race, and so may the peer's. checklist 51"""
    theirs = htlc(offered=False, credited=credited, claim=True)
    state = closed(output(Role.THEIR_OFFERED, theirs, spent=spent(MINED + 3, preimage)))
    assert ended(state, theirs, MINED + 3 + FINAL_DEPTH - 2) == "open"
    assert ended(state, theirs, MINED + 3 + FINAL_DEPTH - 1) == how


@pytest.mark.parametrize(
    ("claim", "given_up", "after"),
    [(True, "", "open"), (False, "", "failed"), (True, "not worth its fee", "failed")],
    ids=["claimed", "nobody wants it", "left"],
)
def test_a_received_htlc_that_stands_is_not_lost_before_its_expiry(
    claim: bool, given_up: str, after: str
) -> None:
    """Payments may want it until then; and one that we claim is a race until its output is spent."""
    theirs = htlc(offered=False, claim=claim)
    state = closed(output(Role.OUR_RECEIVED, theirs, given_up=given_up))
    assert ended(state, theirs, EXPIRY - 1) == "open"
    assert ended(state, theirs, EXPIRY) == after


DEEP = MINED + 20


@pytest.mark.parametrize(
    ("state", "resolved"),
    [
        (closed(), True),
        (replace(closed(), height=None), False),
        (replace(closed(), height=BlockHeight(DEEP - FINAL_DEPTH + 2)), False),
        (replace(closed(), height=BlockHeight(DEEP - FINAL_DEPTH + 1)), True),
        (closed(kind=Kind.REVOKED), False),
        (closed(kind=Kind.OURS_LOST), False),
        (closed(output(Role.TO_LOCAL, None)), False),
        (closed(output(Role.TO_LOCAL, None, spent=spent(DEEP - FINAL_DEPTH + 2))), False),
        (closed(output(Role.TO_LOCAL, None, spent=spent(DEEP - FINAL_DEPTH + 1))), True),
        (closed(output(Role.TO_LOCAL, None, given_up="not worth its fee")), True),
        (closed(output(Role.ANCHOR, None)), True),
        (closed(htlcs=(htlc(offered=True),)), False),
        (closed(htlcs=(replace(htlc(offered=True), live=False),)), True),
    ],
    ids=[
        "nothing is left",
        "in no block",
        "not deep",
        "just deep",
        "a penalty is not known yet",
        "ours and not known yet",
        "unspent",
        "spent and not deep",
        "spent and deep",
        "left",
        "an anchor",
        "somebody waits to hear",
        "nobody waits",
    ],
)
def test_a_channel_is_resolved_when_nothing_of_it_can_change(state: State, resolved: bool) -> None:
    """What is resolved is not worked on any more: an output that still stands would be the peer's. checklist 51"""
    assert is_resolved(state, BlockHeight(DEEP), FINAL_DEPTH) is resolved


def test_a_received_htlc_that_nobody_claims_holds_the_channel_until_it_expires() -> None:
    theirs = htlc(offered=False)
    state = closed(output(Role.OUR_RECEIVED, theirs), htlcs=(theirs,))
    told = replace(state, told=(Outcome(False, theirs.id, False),))
    assert not is_resolved(told, BlockHeight(EXPIRY - 1), FINAL_DEPTH)
    assert is_resolved(told, BlockHeight(EXPIRY), FINAL_DEPTH)
    wanted = replace(theirs, claim=True)
    assert not is_resolved(
        replace(told, facts=replace(told.facts, htlcs=(wanted,))), BlockHeight(EXPIRY), FINAL_DEPTH
    )


def test_a_penalty_that_is_still_out_is_not_left() -> None:
    """An HTLC of the cheat may expire while its output is pinned: the output stays ours to take. checklist 50"""
    theirs = htlc(offered=False)
    state = closed(output(Role.REVOKED_HTLC, theirs), htlcs=(replace(theirs, live=False),))
    assert ended(state, theirs, EXPIRY + 100) == "open"
    assert not is_resolved(state, BlockHeight(EXPIRY + 100), FINAL_DEPTH)


def test_an_htlc_ends_with_its_own_output_and_no_other() -> None:
    first = htlc(offered=True)
    second = replace(first, id=4)
    state = closed(
        output(Role.OUR_OFFERED, first, spent=spent(MINED, PREIMAGE)), output(Role.OUR_OFFERED, second)
    )
    assert ended(state, first, MINED + 1) == "paid"
    assert ended(state, second, EXPIRY + 100) == "open"
