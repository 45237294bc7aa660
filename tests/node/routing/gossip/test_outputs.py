"""Funding outputs of public channels: the chain is told of them all, and tells of their spends (checklist 56)."""

from pathlib import Path

from msgspec.structs import replace

from node.routing.gossip.outputs import AGAIN_BLOCKS
from node.routing.gossip.store import FILE
from protocol.amounts import BlockHeight
from protocol.bus.messages import chain
from tests.node.routing.gossip import synth
from tests.node.routing.gossip.conftest import Make
from tests.node.routing.gossip.house import TIP, House, turns, until
from tests.node.routing.gossip.synth import NOW, Public

PUBLIC = [synth.channel(number, number + 1, 700 + number) for number in range(1, 5)]
ONE, TWO = PUBLIC[:2]


def outpoint(public: Public, number: int) -> bytes:
    return bytes([number]) * 32 + (public.place & 0xFFFF).to_bytes(4, "little")


OUTPOINTS = [outpoint(public, number) for number, public in enumerate(PUBLIC, 1)]


async def living(house: Make, *, number: int = 50, able: bool = True, **more: object) -> House:
    one = await house(number, start=False, **more)
    one.chain.able = able
    for at, public in enumerate(PUBLIC, 1):
        place = replace(public.output, txid=bytes([at]) * 32)
        one.chain.outputs[public.place] = place
    await one.start()
    one.up(9)
    await turns()
    return one


async def told_of(one: House, *channels: Public) -> None:
    for public in channels:
        await one.told(9, public.frame, public.update(0))
    await one.tick(1)


async def spent(one: House, height: int, *outpoints: bytes) -> None:
    one.bus.publish(chain.OutpointsSpent(BlockHeight(height), outpoints))
    await turns()


async def test_the_chain_is_told_of_every_funding_output_once(house: Make):
    """checklist 56"""
    one = await living(house)
    await told_of(one, *PUBLIC[:3])
    assert one.chain.watched == set(OUTPOINTS[:3])
    calls = len(one.chain.since)
    await one.tick(1)
    assert len(one.chain.since) == calls, "nothing new, nothing said"
    await told_of(one, PUBLIC[3])
    assert one.chain.watched == set(OUTPOINTS) and set(one.chain.since) == {TIP}


async def test_a_spend_is_noticed_with_its_block_and_without_a_question(house: Make):
    """checklist 56: closed channels leave 72 blocks later."""
    one = await living(house)
    await told_of(one, ONE, TWO)
    one.chain.asked.clear()
    await spent(one, TIP + 1, OUTPOINTS[0], b"\x77" * 36)
    await one.block(TIP + 1)
    assert one.gossip.book.spent == {ONE.place: TIP + 1} and one.chain.asked == []
    assert ONE.place not in one.gossip.relay.take().channels
    await one.block(TIP + 72)
    assert ONE.place in one.graph.channels
    await one.block(TIP + 73)
    await one.tick(1)
    assert list(one.graph.channels) == [TWO.place]
    assert one.chain.watched == {OUTPOINTS[1]}, "nobody asks about it any more"


async def test_a_spend_that_left_the_chain_is_forgiven_at_once(house: Make):
    """checklist 56: reorganised."""
    one = await living(house)
    await told_of(one, ONE)
    await spent(one, TIP + 1, OUTPOINTS[0])
    one.bus.publish(chain.OutpointsUnspent(BlockHeight(TIP + 1), (OUTPOINTS[0], b"\x77" * 36)))
    await turns()
    assert one.gossip.book.spent == {}
    await one.block(TIP + 80)
    assert ONE.place in one.graph.channels


async def test_two_channels_of_one_transaction_are_told_apart(house: Make):
    one = await living(house)
    book = one.gossip.book
    for index in range(3):
        book.add((800 << 40) + (1 << 16) + index, b"\2" * 33, b"\3" * 33, 1, NOW, b"\x55" * 32)
    assert book.at_outpoint(b"\x55" * 32 + b"\1\0\0\0") == (800 << 40) + (1 << 16) + 1
    assert book.at_outpoint(b"\x55" * 32 + b"\3\0\0\0") is None
    book.drop((800 << 40) + (1 << 16) + 1)
    assert book.at_outpoint(b"\x55" * 32 + b"\1\0\0\0") is None
    assert book.outpoint((800 << 40) + (1 << 16) + 2) == b"\x55" * 32 + b"\2\0\0\0"


async def test_after_a_stop_what_is_spent_is_known_and_the_rest_is_asked_for(house: Make, tmp_path: Path):
    """checklist 56: the 72 blocks go on, and blocks that came or went meanwhile are read."""
    path = tmp_path / FILE
    one = await living(house, path=path)
    await told_of(one, *PUBLIC[:3])
    early, late = TIP - 30, TIP - 1
    await spent(one, early, OUTPOINTS[0])
    await spent(one, late, OUTPOINTS[1])
    await one.stop()
    again = await living(house, number=51, path=path)
    assert again.gossip.book.spent == {ONE.place: early}, "the late one may have left the chain meanwhile"
    await again.tick(1)
    assert again.chain.since == [late - AGAIN_BLOCKS] and again.chain.watched == set(OUTPOINTS[:3])
    await spent(again, late, OUTPOINTS[1])
    assert again.gossip.book.spent == {ONE.place: early, TWO.place: late}


async def test_where_the_chain_cannot_tell_channels_are_looked_at_in_turn(house: Make):
    """checklist 56: an Electrum server has no blocks."""
    one = await living(house, able=False)
    await told_of(one, ONE, TWO)
    assert one.chain.watched == set() and one.chain.since
    one.chain.outputs[ONE.place] = replace(ONE.output, unspent=False)
    await one.block(TIP + 1)
    assert one.gossip.book.spent == {ONE.place: TIP + 1}
    calls = len(one.chain.since)
    await told_of(one, PUBLIC[2])
    assert len(one.chain.since) == calls, "it is not asked again"


async def test_what_could_not_be_read_again_is_looked_at_in_one_round(house: Make):
    """The node was off for longer than the blocks go back."""
    one = await living(house)
    one.chain.complete = False
    await told_of(one, ONE, TWO)
    one.chain.complete = True
    one.chain.outputs.pop(ONE.place)
    await one.block(TIP + 1)
    assert one.gossip.book.spent == {ONE.place: TIP + 1}
    one.chain.asked.clear()
    await one.block(TIP + 2)
    assert one.chain.asked == [], "one round is enough"


async def test_a_chain_that_is_away_is_told_with_the_next_block(house: Make):
    one = await living(house)
    await one.told(9, ONE.frame)
    one.chain.away = True
    await one.tick(1)
    assert one.chain.watched == set()
    one.chain.away = False
    await one.tick(1)
    assert one.chain.watched == set(), "not each second"
    await one.block(TIP + 1)
    await one.tick(1)
    await until(lambda: one.chain.watched == {OUTPOINTS[0]})
    assert one.chain.since == [TIP], "from where it was known"
