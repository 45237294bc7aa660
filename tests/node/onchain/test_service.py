"""Closed channels in the running node: service, resolver, wallet and chain together (BOLT 5)."""

import importlib.util
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from node.channel.state import Online
from protocol.amounts import FeeratePerKw
from protocol.bitcoin.transaction import Transaction
from protocol.bus.messages import channel as said
from tests.node.onchain.services import Node, Pair
from tests.node.wallet.support import until
from tests.support import need

BIG = 200_000_000


@pytest.fixture(params=[False, True], ids=["static_remotekey", "anchors"])
async def pair(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Pair]:
    need("kernel", importlib.util.find_spec("pbk") is not None, "py-bitcoinkernel is not installed")
    made = Pair(tmp_path)
    await made.start()
    await made.open(anchors=request.param)
    yield made
    await made.stop()


async def resolved(pair: Pair, *nodes: Node, restart_every: int = 0) -> None:
    for n in range(120):
        if all([(await node.channel()).state == "CLOSED" for node in nodes]):
            return
        await pair.mine()
        if restart_every and n % restart_every == 0:
            for node in nodes:
                await node.restart()
    raise AssertionError([(await node.channel(), node.channels._resolver.states()) for node in nodes])


@pytest.mark.parametrize("restart_every", [0, 3], ids=["calm", "restarts"])
async def test_an_expired_htlc_closes_the_channel_and_comes_back(pair: Pair, restart_every: int) -> None:
    """checklist 43, 44, 47, 52: the peer is away; two blocks after the expiry the node goes on chain by itself."""
    height = pair.chain.height
    htlc = await pair.offer(pair.alice, BIG, height + 20)
    pair.disconnect()
    await pair.mine_to(height + 21)
    assert (await pair.alice.channel()).state == "CHANNELD_NORMAL"
    await pair.mine()
    assert (await pair.alice.channel()).state == "AWAITING_UNILATERAL"
    assert "expired" in (await pair.alice.channel()).why
    await resolved(pair, pair.alice, pair.bob, restart_every=restart_every)
    outcome: said.Origins = await pair.alice.bus.request("channel", said.LiveOrigins())
    assert [entry[:2] for entry in outcome.origins] == [(htlc.payment_hash.hex(), "failed")]
    if not restart_every:
        (failed,) = pair.alice.payments.failed
        assert failed.origin == htlc.payment_hash.hex()
        assert [event.fulfilled for event in pair.bob.payments.resolved] == [False]
    total = await pair.alice.balance() + await pair.bob.balance()
    assert 4 * 12_000_000 - total < 20_000  # fees alone are gone
    assert await pair.bob.balance() > 24_000_000 + 3_000_000 - 5_000


async def test_a_fulfilled_htlc_is_claimed_before_it_expires(pair: Pair) -> None:
    """checklist 43, 46: the payee gave the preimage, the payer is away; 18 blocks before the expiry the payee goes
    on chain, and the payer takes the preimage from there."""
    height = pair.chain.height
    htlc = await pair.offer(pair.alice, BIG, height + 30)
    pair.disconnect()
    await _fulfil_unheard(pair, htlc)
    await pair.mine_to(height + 11)
    assert (await pair.bob.channel()).state == "CHANNELD_NORMAL"
    await pair.mine()
    assert (await pair.bob.channel()).state == "AWAITING_UNILATERAL"
    await resolved(pair, pair.alice, pair.bob)
    (fulfilled,) = pair.alice.payments.fulfilled
    assert fulfilled.origin == htlc.payment_hash.hex()
    assert [event.fulfilled for event in pair.bob.payments.resolved] == [True]
    settled: said.Settled = await pair.bob.bus.request("channel", said.SettledReceived((htlc.payment_hash,)))
    assert settled.amounts == ((htlc.payment_hash, BIG),)
    assert await pair.bob.balance() > 24_000_000 + 3_000_000 + BIG // 1000 - 5_000


async def test_what_was_promised_is_claimed_though_its_preimage_never_left(pair: Pair) -> None:
    """checklist 43: a hold invoice was settled and the goods handed over, while the payer stays away to have the money
    back at the expiry."""
    height = pair.chain.height
    htlc = await pair.offer(pair.alice, BIG, height + 30)
    pair.disconnect()
    pair.bob.bus.send("channel", said.FulfilHtlc(htlc.channel_id, htlc.htlc_id, promised=True))
    await pair.mine_to(height + 11)
    assert (await pair.bob.channel()).state == "CHANNELD_NORMAL"
    await pair.mine()
    assert (await pair.bob.channel()).state == "AWAITING_UNILATERAL"
    await resolved(pair, pair.alice, pair.bob)
    assert [event.fulfilled for event in pair.bob.payments.resolved] == [True]
    assert await pair.bob.balance() > 24_000_000 + 3_000_000 + BIG // 1000 - 5_000


async def test_a_preimage_in_the_mempool_is_passed_on_before_any_block_has_it(pair: Pair) -> None:
    """checklist 46: the payee claims from the payer's commitment, and no miner has taken it yet."""
    htlc = await pair.offer(pair.alice, BIG, pair.chain.height + 60)
    pair.disconnect()
    await pair.alice.bus.request("channel", said.CloseChannel(htlc.channel_id.hex(), 1))
    await pair.mine(2)
    pair.fulfil(pair.bob, htlc)
    await until(lambda: bool(pair.alice.payments.fulfilled))
    assert pair.chain.mempool.entries
    await resolved(pair, pair.alice, pair.bob)
    assert len(pair.alice.payments.fulfilled) == 1
    assert pair.alice.payments.fulfilled[0].origin == htlc.payment_hash.hex()


async def test_a_commitment_of_the_peer_that_waits_is_raised_by_the_running_node(pair: Pair) -> None:
    """checklist 46, 48: seen in the mempool; the channel goes on until a block has it, and its fee is our matter while
    an HTLC of ours has a deadline."""
    await pair.offer(pair.alice, BIG, pair.chain.height + 20)
    pair.disconnect()
    info = await pair.alice.channel()
    pair.alice.backend.estimate = FeeratePerKw(8000)
    pair.chain.generate_block([])
    for node in pair.nodes:
        await node.at_tip()
    closed = await pair.bob.bus.request("channel", said.CloseChannel(info.channel_id.hex(), 1))
    theirs = Transaction.parse(closed.tx)
    await until(lambda: bool(pair.alice.channels._resolver.states()))
    if info.anchors:
        await until(lambda: len(pair.chain.mempool.children_of(theirs)) == 1)
    assert (await pair.alice.channel()).state == "CHANNELD_NORMAL"
    pair.alice.backend.estimate = FeeratePerKw(1000)
    await resolved(pair, pair.alice, pair.bob)
    assert await pair.alice.balance() > 24_000_000 - 3_000_000 - 60_000


async def _fulfil_unheard(pair: Pair, htlc: said.HtlcReceived) -> None:
    """Bob's fulfil is signed and sent into a line that loses everything."""
    pair.connect()
    channels = [c for node in pair.nodes for c in node.channels._channels.values()]
    await until(lambda: all(c.state.volatile.link == Online(pair.connections) for c in channels))
    pair.bob.connection = -1
    pair.fulfil(pair.bob, htlc)
    (channel,) = pair.bob.channels._channels.values()
    await until(lambda: any(row.preimage for row in channel.state.htlcs.values()))
    pair.disconnect()


async def test_a_payment_that_is_wanted_after_the_close_is_claimed(pair: Pair) -> None:
    """checklist 46: the preimage comes when the channel is on chain already; our own commitment and the peer's."""
    height = pair.chain.height
    there = await pair.offer(pair.alice, BIG, height + 60)
    back = await pair.offer(pair.bob, BIG + 1000, height + 60)
    pair.disconnect()
    channel_id = there.channel_id.hex()
    closed = await pair.alice.bus.request("channel", said.CloseChannel(channel_id, 1))
    assert closed.kind == "unilateral"
    await pair.mine(2)
    pair.fulfil(pair.bob, there)
    pair.fulfil(pair.alice, back)
    await resolved(pair, pair.alice, pair.bob)
    for node, htlc in ((pair.alice, there), (pair.bob, back)):
        (fulfilled,) = node.payments.fulfilled
        assert fulfilled.origin == htlc.payment_hash.hex()
        assert [event.fulfilled for event in node.payments.resolved] == [True]
    assert await pair.bob.balance() > 24_000_000 + 3_000_000 - 10_000


async def test_a_revoked_commitment_is_punished_by_the_running_node(pair: Pair) -> None:
    """checklist 50, 52: also when the node was off while it was mined."""
    cheat = Transaction.parse(_signed_copy(pair.bob))
    htlc = await pair.offer(pair.bob, BIG, pair.chain.height + 60)
    pair.fulfil(pair.alice, htlc)
    await until(lambda: bool(pair.alice.payments.resolved))
    pair.disconnect()
    before = await pair.alice.balance()
    await pair.alice.stop()
    pair.chain.submit(cheat)
    pair.chain.generate(2)
    await pair.alice.start()
    await resolved(pair, pair.alice)
    gained = await pair.alice.balance() - before
    assert gained > 10_000_000 - 10_000
    assert "revoked" in (await pair.alice.channel()).why


def _signed_copy(node: Node) -> bytes:
    from protocol.bolt3.commitment import Side, build
    from protocol.curve import sign_ecdsa

    (channel,) = node.service._channels.values()
    assert channel.state is not None and channel.params is not None
    number = channel.state.holder_validated
    version = channel.state.holder[number][-1]
    commitment = build(channel.params, Side.HOLDER, version.content, channel.point(number))
    signature = sign_ecdsa(channel.secrets.funding.reveal(), commitment.digest)
    return commitment.signed(signature, version.signatures[0].commitment).serialize()


async def test_a_reorganisation_is_survived_by_the_running_node(pair: Pair) -> None:
    """checklist 51, 52: blocks with the close and the sweeps are replaced again and again."""
    height = pair.chain.height
    await pair.offer(pair.alice, BIG, height + 20)
    pair.disconnect()
    await pair.mine_to(height + 22)
    for _ in range(8):
        await pair.mine(3)
        pair.chain.reorg(2)
        for node in pair.nodes:
            await node.at_tip()
    await resolved(pair, pair.alice, pair.bob)
    assert await pair.bob.balance() > 24_000_000 + 3_000_000 - 5_000
    assert await pair.alice.balance() > 24_000_000 - 3_000_000 - 15_000
    (failed,) = pair.alice.payments.failed
    assert failed.htlc_id == 0


async def test_a_close_that_pays_too_little_is_raised_by_the_running_node(pair: Pair) -> None:
    """checklist 48, 52: with anchors, by a child that the wallet's coins pay for; also after a restart."""
    pair.disconnect()
    info = await pair.alice.channel()
    closed = await pair.alice.bus.request("channel", said.CloseChannel(info.channel_id.hex(), 1))
    await pair.alice.restart()
    pair.alice.backend.estimate = FeeratePerKw(8000)
    pair.chain.generate_block([])  # a miner who leaves it out
    for node in pair.nodes:
        await node.at_tip()
    commitment = Transaction.parse(closed.tx)
    if info.anchors:
        await until(lambda: len(pair.chain.mempool.children_of(commitment)) == 1)
    else:
        assert not pair.chain.mempool.children_of(commitment)
    pair.alice.backend.estimate = FeeratePerKw(1000)
    await resolved(pair, pair.alice, pair.bob)
    assert await pair.alice.balance() > 24_000_000 - 3_000_000 - 25_000
