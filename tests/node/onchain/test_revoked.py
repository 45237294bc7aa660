"""A peer that publishes what it revoked loses all of it (BOLT 5, "Revoked Transaction Close Handling";
checklist 50)."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.channel.events import Fail, Fulfil
from node.onchain.events import OutputSpent
from node.onchain.state import Kind, Role
from protocol.amounts import BlockHeight, Msat, Sat
from protocol.bitcoin.transaction import Transaction, TxOut
from protocol.bolt4 import failure as failures
from tests.node.onchain.world import Copy, Watcher, World
from tests.support import need

BIG = 200_000_000
EXPIRY = 160


def cheat(world: World) -> tuple[Copy, bytes, bytes]:
    """Bob's commitment with an HTLC each way, after both HTLCs were resolved and it was revoked."""
    alice, bob = world.pair.ends
    there, back = world.offer(alice, BIG, EXPIRY), world.offer(bob, BIG + 1000, EXPIRY)
    world.offer(alice, 100_000, EXPIRY)  # trimmed
    copy = world.copy(bob)
    bob.do(Fulfil(0))
    reason = failures.encode(failures.IncorrectOrUnknownPaymentDetails(Msat(BIG), 110))
    alice.do(Fail(0, reason))
    world.pair.quiet()
    world.offer(alice, BIG + 5000, EXPIRY)  # alive in the newest state, unknown to the revoked one
    return copy, there, back


def all_of_it(world: World, copy: Copy, watcher: Watcher) -> int:
    outputs = [output.value for output in copy.tx.outputs if output.value != 330]
    return sum(outputs) - world.fees_of(watcher)


@pytest.mark.parametrize("crashes", [False, True], ids=["calm", "crashes"])
def test_everything_of_a_revoked_commitment_is_taken(world: World, crashes: bool) -> None:
    copy, _, _ = cheat(world)
    world.alice.crashes = crashes
    world.bob.offline = True
    world.chain.submit(copy.tx)
    world.mine_until_done(world.alice)
    assert world.alice.state.facts.kind is Kind.REVOKED
    assert world.alice.income() == all_of_it(world, copy, world.alice)
    assert {o.role for o in world.alice.state.outputs} == {
        Role.TO_REMOTE,
        Role.REVOKED_TO_LOCAL,
        Role.REVOKED_HTLC,
    }
    assert world.pair.alice.signer._channels[copy_handle(world)].state.frozen
    # What ended in peace before stands in the revoked commitment too: told again, a paid one would fail upstream.
    assert not {(True, 0), (False, 0)} & set(world.alice.outcomes)


def copy_handle(world: World) -> bytes:
    assert world.pair.alice.state is not None
    return world.pair.alice.state.committed.params.handle


def test_the_newest_payment_is_failed_once_the_penalty_is_deep(world: World) -> None:
    """checklist 44: it is in no output of the revoked commitment."""
    copy, _, _ = cheat(world)
    world.bob.offline = True
    world.chain.submit(copy.tx)
    world.mine(5)
    assert (True, 2) not in world.alice.outcomes
    world.mine()
    assert not world.alice.outcomes[True, 2].paid


@pytest.mark.parametrize("first", [True, False], ids=["stages_first", "penalty_first"])
def test_second_stages_of_the_cheat_are_punished_too(world: World, first: bool) -> None:
    """checklist 46, 50: the peer is faster with HTLC-success and HTLC-timeout; their outputs are taken, and what our
    first penalty could not spend any more is spent by another one."""
    copy, there, _ = cheat(world)
    world.bob.offline = True
    world.mine_to(EXPIRY)
    world.chain.submit(copy.tx)
    world.alice.offline = first
    world.mine()
    success = copy.htlc_transaction(0, offered=False, preimage=world.preimages[there])
    timeout = copy.htlc_transaction(0, offered=True)
    # Past every policy, since with anchors they pay no fee; the miner may be a friend.
    world.chain.generate_block([success, timeout])
    world.mined.update((success.txid, timeout.txid))
    world.alice.offline = False
    world.alice.look()
    world.mine_until_done(world.alice)
    stages = [o for o in world.alice.state.outputs if o.role is Role.REVOKED_SECOND_STAGE]
    assert len(stages) == 2
    lost = sum(world.fee_of(tx) for tx in (success, timeout))
    assert world.alice.income() == all_of_it(world, copy, world.alice) - lost


def stage_of_the_cheat(world: World) -> tuple[Copy, Transaction]:
    """HTLC-success of the cheat stands in the newest block, and alice knows its output."""
    copy, there, _ = cheat(world)
    world.bob.offline = True
    world.chain.submit(copy.tx)
    world.alice.offline = True
    world.mine()
    success = copy.htlc_transaction(0, offered=False, preimage=world.preimages[there])
    world.chain.generate_block([success])
    world.mined.add(success.txid)
    world.alice.offline = False
    world.alice.look()
    (stage,) = [o for o in world.alice.state.outputs if o.role is Role.REVOKED_SECOND_STAGE]
    assert stage.txid == success.txid
    return copy, success


def knows_no_stage(world: World) -> None:
    state = world.alice.state
    known = {output.at for output in state.outputs}
    assert not [o for o in state.outputs if o.role is Role.REVOKED_SECOND_STAGE]
    assert all(known.issuperset(claim.outputs) for claim in state.claims)


def test_a_second_stage_that_left_the_chain_holds_no_penalty_up(world: World) -> None:
    """One penalty for many outputs is no transaction if one of them is gone. checklist 50, 51"""
    copy, _ = stage_of_the_cheat(world)
    world.tolerated = ("insufficient fee", "non-BIP68-final", "bad-txns-inputs-missingorspent")
    fork = world.chain.height - 1
    world.chain.reorg(1, transactions=[])
    world.alice.lost(fork)
    knows_no_stage(world)
    world.chain.mempool.entries.clear()  # the miner was a friend, and is alone
    world.chain.mempool._spenders.clear()
    world.alice.look()
    world.mine_until_done(world.alice)
    assert world.alice.income() == all_of_it(world, copy, world.alice)


def test_a_spend_in_the_place_of_another_takes_its_second_stage_away(world: World) -> None:
    """The reorganisation came while we were off: nobody told that the first one was lost. checklist 50, 51"""
    _, success = stage_of_the_cheat(world)
    at = success.inputs[0].outpoint
    other = Transaction(success.version, success.inputs, (TxOut(Sat(1000), b"\x51"),), 7)
    height = BlockHeight(world.chain.height)
    world.alice.do(OutputSpent(at.txid, at.index, other.serialize(), height))
    knows_no_stage(world)


def test_the_first_commitment_can_be_punished_as_well(world: World) -> None:
    copy = world.copy(world.pair.bob)
    alice, bob = world.pair.ends
    world.offer(alice, BIG, EXPIRY)
    bob.do(Fulfil(0))
    world.pair.quiet()
    world.bob.offline = True
    world.chain.submit(copy.tx)
    world.mine_until_done(world.alice)
    assert world.alice.state.facts.number == 0
    assert world.alice.income() == all_of_it(world, copy, world.alice)


def test_alice_cannot_cheat_bob_either(world: World) -> None:
    alice, bob = world.pair.ends
    copy = world.copy(alice)
    world.offer(alice, BIG, EXPIRY)
    bob.do(Fulfil(0))
    world.pair.quiet()
    world.alice.offline = True
    world.chain.submit(copy.tx)
    world.mine_until_done(world.bob)
    assert world.bob.income() == all_of_it(world, copy, world.bob)


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[World]:
    """A channel with anchors in which a penalty has 40 blocks."""
    need("kernel", importlib.util.find_spec("pbk") is not None, "py-bitcoinkernel is not installed")
    made = World(tmp_path, anchors=True, delay=40)
    yield made
    made.close()


def test_penalties_share_a_transaction_while_there_is_time(patient: World) -> None:
    """checklist 50"""
    copy, _, _ = cheat(patient)
    patient.bob.offline = True
    patient.chain.submit(copy.tx)
    patient.mine()
    assert sorted(len(claim.outputs) for claim in patient.alice.state.claims) == [1, 3]
    patient.mine_until_done(patient.alice)
    assert len(patient.alice.published) == 2
    assert patient.alice.income() == all_of_it(patient, copy, patient.alice)


def test_penalties_part_and_rise_when_time_runs_out(patient: World) -> None:
    """checklist 50, 52: 18 blocks before the peer could spend, every revoked output has a penalty of its own, and in
    the last six each block raises it by a quarter."""
    copy, _, _ = cheat(patient)
    patient.bob.offline = True
    patient.chain.submit(copy.tx)
    patient.tolerated = ("insufficient fee",)
    patient.mine()
    rates = []
    for _ in range(39):
        patient.chain.generate_block([])  # a miner who takes nothing
        patient.alice.look()
        penalties = [c for c in patient.alice.state.claims if c.tx_feerate > 1000 or len(c.outputs) > 1]
        rates.append(max((c.tx_feerate for c in penalties), default=0))
        left = patient.alice.state.height + 40 - patient.chain.height
        assert any(len(c.outputs) > 1 for c in patient.alice.state.claims) is (left > 18)
    assert rates[-1] > 2 * rates[0]
    patient.mine_until_done(patient.alice)
    assert patient.alice.income() == all_of_it(patient, copy, patient.alice)
