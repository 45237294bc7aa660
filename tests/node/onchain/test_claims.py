"""What is asked of signer and wallet for a transaction of ours, and at which feerate (BOLT 5; checklist 46-52)."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from node.onchain import claims, machine
from node.onchain.budget import ceiling_of, fee_of_commitment, paid_by, top_rate, weight_of
from node.onchain.events import (
    CoinsFound,
    Confirmed,
    Env,
    FindPoint,
    NeedCoins,
    NewBlock,
    Publish,
    ReleaseCoins,
    Resume,
    Sign,
    Unconfirmed,
    Watch,
)
from node.onchain.recognise import own_anchor
from node.onchain.state import Claim, Facts, HtlcFact, Kind, Output, Role
from protocol.amounts import FEERATE_FLOOR, BlockHeight, FeeratePerKw, Msat, Sat
from protocol.bitcoin.transaction import Transaction
from protocol.bolt3.fees import fee_of_weight
from protocol.bus.messages.signer import MAX_CLOSING_FEE, SignSecondStage, SignSweep, WalletCoin
from tests.node.onchain.world import World
from tests.protocol.bolt3.channel import params
from tests.support import need

TIP = BlockHeight(100)
ENV = Env(TIP, FeeratePerKw(4000), FeeratePerKw(2000), FeeratePerKw(1000))
FACTS = Facts(b"", bytes(32), params(anchors=True), Kind.OURS, 7, b"", bytes(32))
ANCHOR = Output(bytes(32), 9, Sat(330), b"", Role.ANCHOR, None, None, ceiling=Sat(50_000))
EXPIRY = 140


def htlc(
    *, offered: bool, id: int = 3, expiry: int = EXPIRY, present: bool = True, **known: object
) -> HtlcFact:
    return HtlcFact(offered, id, Msat(50_000_000), bytes(32), expiry, present, True, **known)  # type: ignore[arg-type]


def output(role: Role, of: HtlcFact | None, value: int = 50_000, index: int = 1) -> Output:
    key = None if of is None else of.key
    ceiling = ceiling_of(role, Sat(value), FACTS)
    return Output(bytes(32), index, Sat(value), b"", role, key, TIP, ceiling=ceiling)


def left(*known: HtlcFact) -> int | None:
    return claims.blocks_left((ANCHOR,), {h.key: h for h in known}, FACTS, ENV)


def test_a_commitment_has_a_deadline_while_an_htlc_of_it_is_ours_to_lose() -> None:
    """checklist 48: six blocks before its HTLC is due. A received one whose preimage we gave out is money of ours, and
    the peer takes it back when the commitment stays out of the chain; others oblige us to nothing."""
    assert left(htlc(offered=False, claim=True)) == EXPIRY - claims.BEFORE_ITS_HTLCS - TIP
    assert left(htlc(offered=True)) == EXPIRY + 18 - claims.BEFORE_ITS_HTLCS - TIP
    assert left(htlc(offered=False)) is None
    assert left(htlc(offered=True, present=False), htlc(offered=False, claim=True, present=False)) is None
    assert left(htlc(offered=True), htlc(offered=False, claim=True)) == EXPIRY - 6 - TIP


def test_the_earliest_deadline_of_what_shares_a_transaction_counts() -> None:
    """checklist 43: one of them is lost when the feerate waits for the other."""
    first, second = htlc(offered=False, claim=True, id=1, expiry=120), htlc(offered=False, claim=True, id=2)
    known = {h.key: h for h in (first, second)}
    both = [output(Role.OUR_RECEIVED, first), output(Role.OUR_RECEIVED, second)]
    assert claims.blocks_left(both, known, FACTS, ENV) == 20


@pytest.mark.parametrize(
    ("old", "asked", "now"), [(300, 500, 300), (300, 560, 560), (4000, 4900, 4000), (4000, 5000, 5000)]
)
def test_a_replacement_pays_enough_more_to_be_relayed(old: int, asked: int, now: int) -> None:
    """BIP 125, rule 4: what adds less than the relay fee is refused, and the claim never rises. checklist 52"""
    mine = [output(Role.TO_REMOTE, None, value=1_000_000)]
    claim = Claim(1, (mine[0].at,), FeeratePerKw(old), tx=b"x", tx_feerate=FeeratePerKw(old))
    env = replace(ENV, slow=FeeratePerKw(asked))
    facts = replace(FACTS, point=params().holder.keys.payment_basepoint)
    assert claims.next_rate(claim, mine, {}, facts, env) == now


def test_miners_are_paid_the_next_blocks_price_in_the_last_six_blocks() -> None:
    """checklist 43: a claim that waits for a cheap block then may see the peer's timeout instead. A claim never costs
    more than its ceiling, however often it was refused. checklist 52"""
    near, far = htlc(offered=False, claim=True, id=1, expiry=TIP + 6), htlc(offered=False, claim=True, id=2)
    known = {h.key: h for h in (near, far)}
    cheap = output(Role.OUR_RECEIVED, near, value=19_000), output(Role.OUR_RECEIVED, far, value=19_000)
    assert top_rate(cheap[:1], known, FACTS) == 4_148
    assert claims.wanted_rate(cheap[:1], known, FACTS, ENV) >= 4_000
    assert claims.wanted_rate(cheap[1:], known, FACTS, ENV) == 2_000
    low = FeeratePerKw(2_000)
    soon = replace(near, cltv_expiry=TIP + 7)
    waits = Claim(1, (cheap[0].at,), FeeratePerKw(4_000), tx=b"x", tx_feerate=FeeratePerKw(3_200))
    still = replace(ENV, fast=low, normal=low)
    assert claims.next_rate(waits, cheap[:1], {near.key: soon}, FACTS, still) == 3_200
    assert (
        claims.next_rate(waits, cheap[:1], {near.key: near}, FACTS, still) == 4_000
    )  # a quarter more each block
    old = FeeratePerKw(3_000)
    pinned = Claim(1, (cheap[1].at,), old, tx=b"x", tx_feerate=old, refused="insufficient fee")
    assert claims.next_rate(pinned, cheap[1:], known, FACTS, ENV) == 3_750
    pinned = replace(pinned, tx_feerate=FeeratePerKw(3_500))
    assert (
        claims.next_rate(pinned, cheap[1:], known, FACTS, ENV) == 3_500
    )  # a quarter more is more than 4,148
    pinned = replace(pinned, tx_feerate=FeeratePerKw(2_000), limit=FeeratePerKw(2_400))
    assert claims.next_rate(pinned, cheap[1:], known, FACTS, ENV) == 2_000


def test_what_payments_know_of_an_htlc_reaches_the_signer() -> None:
    """checklist 46: the preimage of a forwarded payment, and the parts of one that came over several channels; without
    them the signer gives nothing out and the peer takes the HTLC back. Of an offered one it needs no preimage."""
    others = ((b"\x07" * 32, (5,)),)
    known = htlc(offered=False, claim=True, preimage=b"\x05" * 32, others=others)
    back = htlc(offered=True, preimage=b"\x06" * 32)
    both = {known.key: known, back.key: back}
    claim = Claim(1, (), FeeratePerKw(1000), coins=(WalletCoin(bytes(32), 0, Sat(9000), 0, 0),))
    asked = claims.request(claim, [output(Role.OUR_RECEIVED, known)], both, FACTS)
    assert isinstance(asked, SignSecondStage)
    assert (asked.htlcs[0].preimage, asked.htlcs[0].others) == (b"\x05" * 32, others)
    asked = claims.request(claim, [output(Role.OUR_OFFERED, back)], both, FACTS)
    assert isinstance(asked, SignSecondStage) and asked.htlcs[0].preimage is None
    swept = claims.request(claim, [output(Role.THEIR_OFFERED, known)], both, FACTS)
    assert isinstance(swept, SignSweep) and swept.inputs[0].htlc is not None
    assert (swept.inputs[0].htlc.preimage, swept.inputs[0].htlc.others) == (b"\x05" * 32, others)
    for role, of in ((Role.THEIR_RECEIVED, back), (Role.REVOKED_HTLC, known)):
        swept = claims.request(claim, [output(role, of)], both, FACTS)
        assert isinstance(swept, SignSweep) and swept.inputs[0].htlc is not None
        assert swept.inputs[0].htlc.preimage is None and not swept.inputs[0].htlc.others


@pytest.mark.parametrize("role", list(Role))
def test_no_output_costs_more_than_its_share(role: Role) -> None:
    """checklist 50, 52: a fee market, or whoever pins us, takes a quarter, of a penalty half, 50,000 sat at most."""
    penalty = role in (Role.REVOKED_TO_LOCAL, Role.REVOKED_HTLC, Role.REVOKED_SECOND_STAGE)
    assert ceiling_of(role, Sat(10_000), FACTS) == (5_000 if penalty else 2_500)
    assert ceiling_of(role, Sat(10_000_000), FACTS) == MAX_CLOSING_FEE == 50_000
    fixed = replace(FACTS, params=params(anchors=False))
    staged = role in (Role.OUR_OFFERED, Role.OUR_RECEIVED)
    assert bool(ceiling_of(role, Sat(10_000), fixed)) is not staged


@pytest.fixture
def crowded(tmp_path: Path) -> Iterator[World]:
    """A channel with anchors and 40 HTLCs of the peer's."""
    need("kernel", importlib.util.find_spec("pbk") is not None, "py-bitcoinkernel is not installed")
    made = World(tmp_path, anchors=True)
    for _ in range(40):
        made.offer_unheard(made.pair.bob, 2_000_000, EXPIRY)
    made.offer(made.pair.alice, 100_000_000, EXPIRY)
    commitment = made.force_close(made.pair.alice)
    made.alice.rates = (FeeratePerKw(5000),) * 3
    made.alice.published_commitment(commitment)
    yield made
    made.close()


def test_the_coins_for_an_anchor_reach_the_fee_of_a_commitment_with_many_htlcs(crowded: World) -> None:
    """checklist 48, 52: the peer fills the channel before a fee spike. With coins for a small commitment the signer
    would refuse each child, and the commitment stay where it is until the HTLCs in it are lost."""
    state = crowded.alice.state
    env = Env(
        state.outputs and crowded.alice.env.height, FeeratePerKw(9000), FeeratePerKw(8000), FeeratePerKw(7000)
    )
    step = machine.step(replace(state, claims=()), NewBlock(), env)
    (asked,) = [effect for effect in step.effects if isinstance(effect, NeedCoins)]
    (claim,) = step.state.claims
    anchor = own_anchor(state.facts)
    assert anchor is not None
    fee = fee_of_weight(weight_of((anchor,), {}, state.facts, 1), claim.feerate_per_kw)
    assert asked.value >= 2 * (fee - fee_of_commitment(state.facts))


def test_the_child_of_an_anchor_pays_for_both_and_stays_below_the_ceiling(crowded: World) -> None:
    """checklist 48: what the commitment pays by itself comes on top of what we may add."""
    facts = crowded.alice.state.facts
    found = own_anchor(facts)
    assert found is not None
    anchor = replace(found, ceiling=Sat(10_000))
    top, both = top_rate((anchor,), {}, facts), weight_of((anchor,), {}, facts, 1)
    assert top is not None
    own = fee_of_commitment(facts)
    assert both > Transaction.parse(facts.tx).weight + 4 * 100
    assert own + 10_000 - both // 1000 - 1 <= fee_of_weight(both, top) <= own + 10_000
    coin = WalletCoin(bytes(32), 0, Sat(10_000), 0, 0)
    assert paid_by((coin,), (anchor,), {}, facts) == top
    assert (
        paid_by((replace(coin, value=Sat(1)),), (replace(anchor, role=Role.TO_LOCAL),), {}, facts)
        == FEERATE_FLOOR
    )


def test_coins_that_come_for_a_claim_that_ended_are_given_back(crowded: World) -> None:
    """checklist 52: they would be set aside for ever, and the next close find the reserve empty."""
    coin = WalletCoin(bytes(32), 0, Sat(10_000), 0, 0)
    step = machine.step(crowded.alice.state, CoinsFound(77, (coin,)), crowded.alice.env)
    assert step.effects == (ReleaseCoins(77),) and not step.save


def test_a_restart_gives_back_the_coins_of_what_ended_and_of_nothing_else(crowded: World) -> None:
    """checklist 52: a crash between a save and its effects would set them aside for ever; and coins that a living claim
    spends, lent once more, make two transactions of ours fight."""
    state = replace(crowded.alice.state, next_claim=5)
    (claim,) = state.claims
    step = machine.step(state, Resume(), crowded.alice.env)
    freed = [effect.claim for effect in step.effects if isinstance(effect, ReleaseCoins)]
    assert freed == [n for n in range(1, 5) if n != claim.id]
    assert claim.tx in [effect.tx for effect in step.effects if isinstance(effect, Publish)]
    watched = [(effect.txid, effect.index) for effect in step.effects if isinstance(effect, Watch)]
    assert watched == [
        output.at for output in state.outputs
    ]  # or nothing that the peer spends is seen any more
    unsigned = replace(claim, tx=None, tx_feerate=FeeratePerKw(0))
    step = machine.step(replace(state, claims=(unsigned,)), Resume(), crowded.alice.env)
    assert [effect.claim for effect in step.effects if isinstance(effect, Sign)] == [claim.id]


def test_an_anchor_costs_a_quarter_of_what_the_commitment_holds_for_us(crowded: World) -> None:
    """checklist 48: and one that is not worth its fee is not tried again at each block."""
    state, env = crowded.alice.state, replace(crowded.alice.env, normal=FeeratePerKw(8000))
    little = tuple(replace(o, value=Sat(4_000)) for o in state.outputs if o.role is Role.TO_LOCAL)
    step = machine.step(replace(state, claims=(), outputs=little), NewBlock(), env)
    (anchor,) = [o for o in step.state.outputs if o.role is Role.ANCHOR]
    assert anchor.ceiling == 1_000
    given_up = replace(
        step.state, claims=(), outputs=(*little, replace(anchor, given_up="not worth its fee"))
    )
    step = machine.step(given_up, NewBlock(), env)
    assert not step.save and not [e for e in step.effects if isinstance(e, NeedCoins | Sign)]


def test_an_anchor_has_done_its_work_when_the_commitment_is_in_a_block(crowded: World) -> None:
    """checklist 46, 48: a child for which no parent waits would hold coins of the reserve for ever. Outputs are watched
    from that block on, since a spend, and a preimage in it, may be in blocks that came while we were off."""
    state, height = crowded.alice.state, BlockHeight(crowded.chain.height - 3)
    assert [o.role for o in state.outputs if o.role is Role.ANCHOR]
    step = machine.step(state, Confirmed(height), crowded.alice.env)
    assert not [o for o in step.state.outputs if o.role is Role.ANCHOR] and not step.state.claims
    assert ReleaseCoins(state.claims[0].id) in step.effects
    since = {(e.txid, e.index): e.since for e in step.effects if isinstance(e, Watch)}
    assert since == {output.at: height for output in step.state.outputs} and since


def test_a_second_stage_has_a_height_of_its_own(crowded: World) -> None:
    """checklist 51: its delay counts from its own block. Taken for that of the commitment, each sweep of it, and all
    that is swept with it, would be refused as too early."""
    state = crowded.alice.state
    child = Output(b"\x09" * 32, 0, Sat(9_000), b"", Role.SECOND_STAGE, (True, 0), BlockHeight(150))
    state = replace(state, outputs=(*state.outputs, child), height=BlockHeight(120))
    for event in (Unconfirmed(), Confirmed(BlockHeight(121))):
        state = machine.step(state, event, crowded.alice.env).state
        assert state.outputs[-1] == child
        assert {o.height for o in state.outputs[:-1]} == {state.height}


def test_the_point_of_a_revoked_commitment_is_asked_for_until_it_is_known(crowded: World) -> None:
    """checklist 50: the cheat waits until the signer is away. Asked once only, there would be no penalty at all."""
    state = crowded.alice.state
    cheat = replace(state.facts, kind=Kind.REVOKED, point=None)
    waiting = replace(state, facts=cheat, outputs=(), claims=(), height=crowded.alice.env.height)
    for event in (NewBlock(), Resume()):
        step = machine.step(waiting, event, crowded.alice.env)
        assert step.effects == (FindPoint(cheat.number),)
