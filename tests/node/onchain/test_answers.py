"""What a refusal of the signer may cost us, and what it may not (BOLT 5; checklist 30, 47, 50, 52)."""

from msgspec.structs import replace

from node.onchain import machine
from node.onchain.budget import ceiling_of
from node.onchain.events import Env, Event, Forget, NewBlock, NotSigned, NotTaken, Publish, Sign, Signed, Step
from node.onchain.state import Claim, Facts, HtlcFact, Kind, Output, Role, State
from protocol.amounts import FEERATE_FLOOR, BlockHeight, FeeratePerKw, Msat, Sat
from protocol.bitcoin.transaction import OutPoint, Transaction, TxIn, TxOut
from tests.protocol.bolt3.channel import params

TIP, EXPIRY = BlockHeight(100), 140
RATE = FeeratePerKw(1000)
ENV = Env(TIP, RATE, RATE, RATE)
FACTS = Facts(b"", bytes(32), params(anchors=False), Kind.OURS, 7, b"", bytes(32))
OURS = HtlcFact(False, 3, Msat(50_000_000), bytes(32), EXPIRY, True, True, claim=True)


def waiting(role: Role, kind: Kind = Kind.OURS, tx: bytes | None = None, rate: int = RATE) -> State:
    """One claim of one output, for which the signer is being asked."""
    key = OURS.key if role in (Role.OUR_RECEIVED, Role.THEIR_OFFERED) else None
    ceiling = ceiling_of(role, Sat(50_000), FACTS)
    output = Output(bytes(32), 0, Sat(50_000), b"", role, key, TIP, ceiling=ceiling)
    facts = replace(FACTS, kind=kind, htlcs=(OURS,), point=params().holder.keys.payment_basepoint)
    signed = FeeratePerKw(0 if tx is None else rate)
    claim = Claim(1, (output.at,), FeeratePerKw(rate), tx=tx, tx_feerate=signed)
    return State(facts, TIP, outputs=(output,), claims=(claim,), next_claim=2)


def after(state: State, event: Event, height: int = TIP) -> Step:
    return machine.step(state, event, replace(ENV, height=BlockHeight(height)))


def given_up(step: Step) -> bool:
    (output,) = step.state.outputs
    assert bool(step.state.claims) is not bool(output.given_up)
    return bool(output.given_up)


def spend(value: int = 40_000) -> bytes:
    return Transaction(2, (TxIn(OutPoint(bytes(32), 0)),), (TxOut(Sat(value), b"\x51"),), 0).serialize()


def test_a_second_stage_is_left_only_when_its_state_was_lost() -> None:
    """checklist 30: of a commitment that we know, the refusal of a signer that has not heard all yet costs no HTLC; and
    of one that was lost our balance is never left with the HTLCs."""
    lost, other = NotSigned(1, "sweep-number", "commitment 7"), NotSigned(1, "channel-state", "not ready")
    assert given_up(after(waiting(Role.OUR_RECEIVED, Kind.OURS_LOST), lost))
    assert not given_up(after(waiting(Role.OUR_RECEIVED, Kind.OURS_LOST), other))
    assert not given_up(after(waiting(Role.OUR_RECEIVED), lost))
    assert not given_up(after(waiting(Role.TO_LOCAL, Kind.OURS_LOST), lost))


def test_a_preimage_that_is_not_given_is_waited_for_until_the_expiry() -> None:
    """checklist 43: the other parts of a payment may still come, or be told again after a restart."""
    refused = NotSigned(1, "release-amount", "1 of 2 parts")
    for role in (Role.OUR_RECEIVED, Role.THEIR_OFFERED):
        assert not given_up(after(waiting(role), refused, EXPIRY - 1))
        assert given_up(after(waiting(role), refused, EXPIRY))
        assert not given_up(after(waiting(role), NotSigned(1, "", "the signer is away"), EXPIRY))


def test_what_is_too_dear_is_tried_for_less_and_left_only_at_the_floor() -> None:
    """checklist 52: and never while a transaction that spends it is on its way."""
    refused = NotSigned(1, "close-fee", "9 sat")
    step = after(waiting(Role.TO_LOCAL), refused)
    assert not given_up(step)
    (asked,) = [effect.request for effect in step.effects if isinstance(effect, Sign)]
    assert asked.feerate_per_kw == step.state.claims[0].limit == 750
    assert given_up(after(waiting(Role.TO_LOCAL, rate=FEERATE_FLOOR), refused))
    assert not given_up(after(waiting(Role.TO_LOCAL, tx=spend(), rate=FEERATE_FLOOR), refused))
    sent = after(waiting(Role.TO_LOCAL, tx=spend()), refused)
    assert not sent.effects and sent.state.claims[0].tx == spend()


def test_second_stages_part_when_one_of_them_is_in_the_way() -> None:
    """checklist 47, 50: the peer pins one of several HTLCs; the others are not held up. Balances, which nobody can pin,
    stay together."""
    anchors = params(anchors=True)
    for role, parts in ((Role.OUR_RECEIVED, 2), (Role.TO_REMOTE, 0)):
        state = waiting(role, tx=spend())
        (first,) = state.outputs
        second = replace(first, index=1)
        claim = replace(state.claims[0], outputs=(first.at, second.at))
        facts = replace(state.facts, params=anchors, htlcs=(OURS,))
        state = replace(state, facts=facts, outputs=(first, second), claims=(claim,))
        step = after(state, NotTaken(Transaction.parse(spend()).txid, "insufficient fee"))
        assert [len(c.outputs) for c in step.state.claims] == ([1] * parts or [2])


def test_what_is_signed_is_sent_at_each_block_and_at_each_start() -> None:
    """checklist 52: mempools forget. One that was sent once and never again may be nowhere."""
    state = waiting(Role.TO_REMOTE, tx=spend())
    assert [e.tx for e in after(state, NewBlock()).effects if isinstance(e, Publish)] == [spend()]


def test_the_feerate_of_an_answer_is_the_one_that_was_asked_for() -> None:
    """checklist 52: meanwhile the market rose. Noted with the new feerate, the old form would never be replaced."""
    state = waiting(Role.TO_REMOTE, tx=spend(), rate=3000)
    step = after(state, Signed(1, spend(39_000), FeeratePerKw(1500)))
    assert step.state.claims[0].tx_feerate == 1500
    forgotten = [e.txid for e in step.effects if isinstance(e, Forget)]
    assert forgotten == [Transaction.parse(spend()).txid]  # or the chain service would go on sending both
    assert not [
        e
        for e in after(step.state, Signed(1, spend(39_000), FeeratePerKw(1500))).effects
        if isinstance(e, Forget)
    ]


def test_a_refusal_of_one_transaction_is_laid_to_no_other() -> None:
    """checklist 50: the peer pins one output; what spends the others is not raised for it."""
    state = waiting(Role.TO_REMOTE, tx=spend())
    assert not after(state, NotTaken(b"\x01" * 32, "insufficient fee")).save
    assert not after(state, NotTaken(Transaction.parse(spend()).txid, "non-final")).save
    refused = after(state, NotTaken(Transaction.parse(spend()).txid, "insufficient fee")).state
    assert refused.claims[0].refused == "insufficient fee"
    accepted = after(refused, Signed(1, spend(39_000), FeeratePerKw(1500))).state
    assert not accepted.claims[0].refused  # else it would rise to its ceiling, block by block
