"""Node and signer are gone, the peer publishes what it revoked: the holder of the file takes it all (BOLT 5, "Revoked
Transaction Close Handling"; checklist 50)."""

import importlib.util
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from node.channel.content import content
from node.tower.lines import Book
from node.tower.watcher import Watcher
from protocol.bitcoin.transaction import Transaction
from protocol.bolt3.commitment import OutputKind, Side
from protocol.bus.messages import signer as sign
from signer.keys import COLD
from tests.node.onchain.world import Copy
from tests.node.tower.support import TowerChain, TowerPair
from tests.support import need

BIG = 200_000_000


@pytest.fixture(params=[False, True], ids=["static_remotekey", "anchors"])
async def pair(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[TowerPair]:
    need("kernel", importlib.util.find_spec("pbk") is not None, "py-bitcoinkernel is not installed")
    made = TowerPair(tmp_path)
    await made.start()
    await made.open(anchors=request.param)
    made.running = True  # type: ignore[attr-defined]
    yield made
    if made.running:  # type: ignore[attr-defined]
        for node in made.nodes:
            await node.stop()
    made.chain.close()


async def cheat(pair: TowerPair) -> Copy:
    """Bob's commitment with an HTLC each way, revoked since; then node and signer of Alice end, and Bob's node too."""
    there = await pair.offer(pair.alice, BIG, pair.chain.height + 60)
    back = await pair.offer(pair.bob, BIG + 1000, pair.chain.height + 60)
    copy = pair.bob.copy()
    assert len(copy.commitment.htlcs) == 2
    pair.fulfil(pair.alice, back)
    await pair.settle(pair.alice, there)
    await pair.alice.written()
    for node in pair.nodes:
        await node.stop()
        node.service.close()
    pair.running = False  # type: ignore[attr-defined]
    return copy


def cold_script(pair: TowerPair, copy: Copy) -> bytes:
    (channel,) = pair.alice.service._channels.values()
    return pair.alice.service.keys.wallet_script(COLD, channel.cold_index)


def watcher_of(pair: TowerPair) -> tuple[Watcher, TowerChain, list[str]]:
    chain, said = TowerChain(pair.chain), []  # type: ignore[var-annotated]
    return Watcher(Book(pair.alice.file), chain, said.append, back=20), chain, said


def punishable(copy: Copy) -> dict[int, int]:
    """Index and value of what the penalty may take: all but what is ours anyway, and the anchors."""
    kinds = (OutputKind.TO_LOCAL, OutputKind.OFFERED_HTLC, OutputKind.RECEIVED_HTLC)
    return {output.index: output.value for output in copy.commitment.outputs if output.kind in kinds}


async def test_the_tower_alone_takes_every_output_to_our_cold_script(pair: TowerPair) -> None:
    copy = await cheat(pair)
    watcher, chain, told = watcher_of(pair)
    watcher.look()
    assert not watcher.cases and not told
    pair.chain.submit(copy.tx)
    watcher.look()
    assert copy.tx.txid in watcher.cases
    pair.chain.generate(1)
    watcher.look()
    taken = {chain.spender(copy.tx.txid, index) for index in punishable(copy)}
    (penalty,) = taken
    assert penalty is not None
    assert {out.script_pubkey for out in penalty.outputs} == {cold_script(pair, copy)}
    fee = sum(punishable(copy).values()) - sum(out.value for out in penalty.outputs)
    # The dearest of the three that the network takes, and never more than half.
    assert 24_000 * penalty.weight // 1000 < fee < sum(punishable(copy).values()) // 2
    assert len([line for line in told if line.startswith("sent")]) == 1


async def test_a_tower_that_comes_late_finds_the_commitment_in_its_block(pair: TowerPair) -> None:
    copy = await cheat(pair)
    pair.chain.submit(copy.tx)
    pair.chain.generate(4)
    watcher, chain, _ = watcher_of(pair)
    watcher.look()
    pair.chain.generate(1)
    assert all(chain.spender(copy.tx.txid, index) for index in punishable(copy))


async def test_what_the_cheat_moved_by_second_stages_leaves_the_rest_to_us(pair: TowerPair) -> None:
    """checklist 46, 50: the batch conflicts, so each output is taken alone; without anchors what the second stage made
    is taken as well. With anchors nobody knows its transaction id beforehand."""
    copy = await cheat(pair)
    pair.chain.generate(61)  # the expiry of Bob's own HTLC
    (offered,) = [o for o in copy.commitment.htlcs if o.htlc.offered]
    timeout = copy.htlc_transaction(offered.htlc.id, offered=True)
    pair.chain.generate_block([copy.tx])
    pair.chain.generate_block([timeout])  # with anchors not before the next block
    watcher, chain, _ = watcher_of(pair)
    watcher.look()
    pair.chain.generate(1)
    left = {index for index in punishable(copy) if index != offered.index}
    assert len(left) == 2
    for index in left:
        penalty = chain.spender(copy.tx.txid, index)
        assert penalty is not None and penalty.outputs[0].script_pubkey == cold_script(pair, copy)
    stage = chain.spender(timeout.txid, 0)
    if copy.commitment.params.anchors:
        assert stage is None
    else:
        assert stage is not None and stage.outputs[0].script_pubkey == cold_script(pair, copy)


async def test_a_reorganisation_of_the_penalty_is_answered_again(pair: TowerPair) -> None:
    copy = await cheat(pair)
    pair.chain.submit(copy.tx)
    pair.chain.generate(1)
    watcher, chain, _ = watcher_of(pair)
    watcher.look()
    pair.chain.generate(1)
    watcher.look()
    pair.chain.generate(1)
    watcher.look()
    assert all(chain.spender(copy.tx.txid, index) for index in punishable(copy))
    assert len({Transaction.parse(raw).txid for raw in chain.sent}) == 1


async def test_an_honest_close_is_left_alone(pair: TowerPair) -> None:
    """Breaks the rule: the newest commitment is in no line."""
    await pair.pay(pair.alice, BIG)
    await pair.alice.written()
    newest = pair.bob.copy()
    pair.chain.submit(newest.tx)
    watcher, chain, told = watcher_of(pair)
    watcher.look()
    pair.chain.generate(1)
    watcher.look()
    assert not chain.sent and not told


async def test_a_penalty_for_an_unrevoked_commitment_is_never_signed(pair: TowerPair) -> None:
    (channel,) = pair.alice.channels._channels.values()
    committed = channel.state.committed
    newest = content(committed, channel.state.htlcs, Side.COUNTERPARTY, committed.remote_number)
    reply = await pair.alice.signer.call(sign.SignPenalties(committed.params.handle, newest, (1000,)))  # type: ignore[arg-type]
    assert isinstance(reply, sign.Refused) and reply.tag == "penalty-number"
