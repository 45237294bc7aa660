"""How much of a commitment may go to miners (BOLT 3, "Trimmed Outputs")."""

from hypothesis import given
from hypothesis import strategies as st

from protocol.amounts import FeeratePerKw, Msat, Sat
from protocol.bitcoin.transaction import OutPoint
from protocol.bolt3.commitment import ChannelKeys, CommitmentParams, SideParams, build
from protocol.bolt3.content import CommitmentContent, CommitmentHtlc
from protocol.bolt3.exposure import at_risk, commitment_fee_limit, trimmed_limit
from protocol.bolt3.params import Side
from protocol.curve import point_of

CAPACITY = Sat(1_000_000)


def keys(first: int) -> ChannelKeys:
    return ChannelKeys(*(point_of(bytes((first + n,)) * 32) for n in range(5)))


def params(*, anchors: bool) -> CommitmentParams:
    sides = [SideParams(keys(start), Sat(546), 144) for start in (1, 11)]
    return CommitmentParams(anchors, OutPoint(b"\x01" * 32, 0), CAPACITY, True, *sides)


HTLCS = st.lists(st.tuples(st.booleans(), st.integers(1, 5_000_000)), max_size=12)


@given(HTLCS, st.booleans(), st.sampled_from(tuple(Side)), st.integers(253, 3000))
def test_the_miner_gets_what_is_at_risk_and_the_dust_of_the_peer(
    items: list[tuple[bool, int]], anchors: bool, owner: Side, rate: int
) -> None:
    """Held against the transaction itself: capacity less outputs."""
    htlcs = tuple(
        CommitmentHtlc(offered, number, Msat(amount), bytes(32), 500)
        for number, (offered, amount) in enumerate(items)
    )
    half = 500_000_000
    content = CommitmentContent(
        1, FeeratePerKw(rate), Msat(half), Msat(half - sum(amount for _, amount in items)), htlcs
    )
    terms = params(anchors=anchors)
    fee, trimmed = at_risk(terms, owner, content)
    mirrored = at_risk(terms.mirror(), owner.other, content)
    assert mirrored[0] == fee
    commitment = build(terms, owner, content, point_of(b"\x21" * 32))
    paid = commitment.fee + (2 * 330 if anchors else 0)
    # Each balance and each HTLC is rounded down by less than a satoshi; each sum of trimmed ones up.
    assert abs(paid - (fee + trimmed + mirrored[1])) <= len(items) + 4


def test_limits_have_a_floor_and_a_share() -> None:
    assert commitment_fee_limit(Sat(20_000)) == 50_000 and trimmed_limit(Sat(20_000)) == 100_000
    assert commitment_fee_limit(Sat(16_000_000)) == trimmed_limit(Sat(16_000_000)) == 1_600_000
