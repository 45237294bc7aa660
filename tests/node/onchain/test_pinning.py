"""A cheat that pins what it owes us (BOLT 5, "Revoked Transaction Close Handling": "MAY use a single transaction …
SHOULD split"; checklist 50).

With anchors the cheat may add inputs and outputs to its second stage, and hang a large child of a low feerate on it:
whoever replaces it must pay more in total than the whole family does (BIP 125, rule 3).
"""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.chain.regtest import faucet
from node.onchain.state import Role
from protocol.amounts import Sat
from protocol.bitcoin.script import p2wpkh
from protocol.bitcoin.sighash import p2wpkh_script_code, segwit_v0
from protocol.bitcoin.transaction import OutPoint, Transaction, TxIn, TxOut
from protocol.bolt3.funding import bitcoin_signature
from protocol.bolt3.htlc_tx import with_witness
from protocol.curve import point_of, sign_ecdsa
from tests.node.onchain.test_revoked import BIG, EXPIRY, all_of_it, cheat
from tests.node.onchain.world import Copy, World
from tests.support import need

KEY = faucet._KEY
SCRIPT = p2wpkh(point_of(KEY))
PIN_COIN = Sat(3_000_000)


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[World]:
    need("kernel", importlib.util.find_spec("pbk") is not None, "py-bitcoinkernel is not installed")
    made = World(tmp_path, anchors=True, delay=60)
    yield made
    made.close()


def paid_by(tx: Transaction, index: int, value: Sat) -> Transaction:
    """The input signed with the miner's key."""
    digest = segwit_v0(tx, index, p2wpkh_script_code(SCRIPT), value)
    return with_witness(tx, index, (bitcoin_signature(sign_ecdsa(KEY, digest)), point_of(KEY)))


def pin(world: World, copy: Copy, preimage: bytes, outputs: int) -> tuple[Transaction, Transaction]:
    """The cheat's HTLC-success with a coin of its own, and a child of so many outputs at the lowest feerate."""
    coin = world.chain.fund(SCRIPT, PIN_COIN)
    world.mine()
    change = TxOut(Sat(PIN_COIN - 1000), SCRIPT)
    stage = copy.htlc_transaction(0, offered=False, preimage=preimage, coin=coin, change=change)
    stage = paid_by(stage, 1, PIN_COIN)
    each = Sat((PIN_COIN - 1000 - 34 * outputs) // outputs)
    made = tuple(TxOut(each, SCRIPT) for _ in range(outputs))
    child = Transaction(2, (TxIn(OutPoint(stage.txid, 1), sequence=0xFFFFFFFD),), made)
    child = paid_by(child, 0, change.value)
    return stage, child


def published(world: World, outputs: int) -> tuple[Copy, Transaction, Transaction]:
    """The revoked commitment is in a block and the pin in the mempool before alice looks."""
    copy, there, _ = cheat(world)
    world.bob.offline = world.alice.offline = True
    world.chain.submit(copy.tx)
    world.mine()
    stage, child = pin(world, copy, world.preimages[there], outputs)
    world.chain.submit(stage)
    world.chain.submit(child)
    world.tolerated = ("insufficient fee", "replacement-adds-unconfirmed")
    world.alice.offline = False
    world.alice.look()
    return copy, stage, child


def mine_all_but(world: World, left_out: tuple[Transaction, ...]) -> None:
    """A friend of the cheat mines: the pin stays in the mempool."""
    ids = {tx.txid for tx in left_out}
    chosen = [entry.tx for entry in world.chain.mempool if entry.tx.txid not in ids]
    world.chain.generate_block(chosen)
    world.mined.update(tx.txid for tx in chosen)
    world.alice.look()


def test_a_pinned_output_does_not_hold_up_the_others(patient: World) -> None:
    """checklist 50: the batch is refused, so it parts at once, long before the deadline; the one pinned output waits
    for the cheat's own second stage, and its output is taken as well."""
    world = patient
    copy, stage, child = published(world, 2000)
    penalties = [c for c in world.alice.state.claims if len(c.outputs) == 1]
    assert len(penalties) >= 3
    mine_all_but(world, (stage, child))
    spent = {o.role for o in world.alice.state.outputs if o.spent is not None}
    assert Role.REVOKED_TO_LOCAL in spent
    (pinned,) = [o for o in world.alice.state.outputs if o.spent is None and o.role is Role.REVOKED_HTLC]
    assert pinned.ceiling == 50_000
    rates = []
    for _ in range(45):
        mine_all_but(world, (stage, child))
        (claim,) = [c for c in world.alice.state.claims if pinned.at in c.outputs]
        assert "insufficient fee" in claim.refused
        ours = Transaction.parse(claim.tx or b"")
        assert world.fee_of(ours) <= pinned.ceiling  # rule 3 asks for more than the output may cost
        rates.append(claim.tx_feerate)
    assert rates == sorted(rates) and rates[-1] > 20 * rates[0]
    world.mine_until_done(world.alice)
    roles = [o.role for o in world.alice.state.outputs if o.txid == stage.txid]
    assert roles == [Role.REVOKED_SECOND_STAGE]
    assert world.alice.income() == all_of_it(world, copy, world.alice)


def test_a_batch_that_is_too_large_for_a_mempool_parts_at_once(patient: World) -> None:
    """checklist 50: 966 HTLCs of a revoked commitment come close to the largest transaction that is relayed."""
    patient.words_for = {"insufficient fee": "tx-size"}
    published(patient, 2000)
    assert len([c for c in patient.alice.state.claims if len(c.outputs) == 1]) >= 3


def test_a_pin_that_costs_less_than_the_ceiling_is_replaced(patient: World) -> None:
    """checklist 50, 52: rule 3 asks for more than the pin's family paid; the claim rises to that and no further."""
    world = patient
    copy, stage, child = published(world, 600)
    family = world.fee_of(stage) + world.fee_of(child)
    for _ in range(30):
        if child.txid not in world.chain.mempool:
            break
        mine_all_but(world, (stage, child))
    assert child.txid not in world.chain.mempool and stage.txid not in world.chain.mempool
    world.mine_until_done(world.alice)
    (pinned,) = [
        o for o in world.alice.state.outputs if o.at == (copy.tx.txid, stage.inputs[0].outpoint.index)
    ]
    assert pinned.spent is not None and pinned.spent.txid in world.alice.published
    paid = world.fee_of(world.alice.published[pinned.spent.txid])
    assert family < paid <= pinned.ceiling and paid < 2 * family
    assert world.alice.income() == all_of_it(world, copy, world.alice)


def test_a_batch_that_is_taken_stays_one(patient: World) -> None:
    """checklist 50: without a pin nothing parts, since each part costs fees."""
    world = patient
    copy, _, _ = cheat(world)
    world.bob.offline = True
    world.chain.submit(copy.tx)
    world.mine()
    assert sorted(len(claim.outputs) for claim in world.alice.state.claims) == [1, 3]
    assert not any(output.alone for output in world.alice.state.outputs)
    world.mine_until_done(world.alice)
    assert world.alice.income() == all_of_it(world, copy, world.alice)


def test_every_transaction_of_ours_may_be_replaced(patient: World) -> None:
    """checklist 52: BIP 125 rule 1, or nothing of the above works on a node without full replacement."""
    world = patient
    world.offer(world.pair.alice, BIG, EXPIRY)
    world.force_close(world.pair.alice)
    world.mine_until_done(world.alice)
    assert world.alice.published
    for tx in world.alice.published.values():
        # A second stage of the peer's terms waits one block by its sequence, which signals as well.
        assert any(spend.sequence <= 0xFFFFFFFD for spend in tx.inputs)
