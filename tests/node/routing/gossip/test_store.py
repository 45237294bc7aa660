"""The store of gossip: it survives a stop, loads into the graph, and is thrown away when it is damaged."""

import sqlite3
from pathlib import Path

import pytest

from node.routing.gossip.book import Book
from node.routing.gossip.store import FILE, GossipStore
from node.routing.sink import NoGraph
from protocol.bitcoin.network import MAINNET
from tests.node.routing.gossip import synth
from tests.node.routing.gossip.conftest import Make
from tests.node.routing.gossip.house import Graph, House, join, turns, until
from tests.node.routing.gossip.synth import CHAIN, NOW, node_id

ONE = synth.channel(1, 2, 700)
TWO = synth.channel(2, 3, 701)


async def filled(house: Make, path: Path, **more: object) -> House:
    one = await house(path=path, **more)
    one.chain.confirm(ONE, TWO)
    one.up(9)
    await turns()
    for public in (ONE, TWO):
        await one.told(9, public.frame, public.update(0), public.update(1))
    await one.told(9, synth.node(1), synth.node(2))
    return one


async def test_graph_is_there_again_after_a_restart(house: Make, tmp_path: Path):
    path = tmp_path / FILE
    one = await filled(house, path)
    await one.stop()
    again = await house(51, path=path)
    assert again.graph.channels == one.graph.channels
    assert again.graph.policies == one.graph.policies
    assert again.graph.nodes == one.graph.nodes
    assert again.graph.bulk == ["begin", "end"]
    assert again.gossip.book.timestamp(ONE.place, 1) == NOW
    again.up(9)
    await turns()
    again.chain.confirm(ONE)
    await again.told(9, ONE.frame, ONE.update(0))
    assert again.chain.asked == [] and again.gossip.intake.counts.duplicates == 2


async def test_dropped_channels_stay_dropped(house: Make, tmp_path: Path):
    one = await filled(house, tmp_path / FILE)
    one.gossip.intake.drop_channel(ONE.place)
    await one.stop()
    again = await house(51, path=tmp_path / FILE)
    assert list(again.graph.channels) == [TWO.place]
    assert node_id(1) not in again.graph.nodes and node_id(2) in again.graph.nodes


async def test_a_lost_file_only_costs_a_sync(house: Make, tmp_path: Path):
    teacher = await filled(house, tmp_path / "teacher.db")
    pupil = await filled(house, tmp_path / FILE, number=51)
    await pupil.stop()
    (tmp_path / FILE).unlink()
    again = await house(52, path=tmp_path / FILE)
    again.chain.confirm(ONE, TWO)
    assert again.graph.channels == {}
    join(teacher, again)
    await turns()
    await again.tick()
    await until(lambda: again.graph.policies == teacher.graph.policies)


@pytest.mark.parametrize("damage", ["rubbish", "empty", "other chain", "row", "page"])
async def test_a_damaged_file_is_thrown_away(
    house: Make, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / FILE
    one = await filled(house, path)
    await one.stop()
    if damage == "rubbish":
        path.write_bytes(b"this is no database" * 500)
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "other chain":
        with sqlite3.connect(path) as db:
            db.execute("UPDATE about SET value = ?", (MAINNET.chain_hash,))
    elif damage == "row":
        with sqlite3.connect(path) as db:
            db.execute("UPDATE policy SET raw = ? WHERE direction = 1", (TWO.update(0),))
    else:
        data = bytearray(path.read_bytes())
        data[4096:] = b"\xee" * (len(data) - 4096)
        path.write_bytes(bytes(data))
    capsys.readouterr()
    again = await house(51, path=path)
    assert again.graph.channels == {} and len(again.gossip.book) == 0
    assert ("gossip_thrown_away" in capsys.readouterr().out) == (damage != "empty")
    again.chain.confirm(ONE)
    again.up(9)
    await turns()
    await again.told(9, ONE.frame)
    assert again.gossip.store.channel(ONE.place) == ONE.frame


async def test_a_file_that_breaks_while_it_is_used_stops_nothing(tmp_path: Path):
    store = GossipStore(tmp_path / FILE, CHAIN)
    store.put_channel(ONE.place, 1, NOW, bytes(32), ONE.frame)
    await store.flush()
    with sqlite3.connect(tmp_path / FILE) as db:
        db.execute("DROP TABLE policy")
    store.put_policy(ONE.place, 0, ONE.update(0))
    await store.flush()
    assert store.broken and not (tmp_path / FILE).exists()
    store.put_policy(ONE.place, 1, ONE.update(1))
    await store.flush()
    assert store.policy(ONE.place, 1) == ONE.update(1)
    await store.close()


async def test_what_is_not_written_yet_is_read_from_memory(tmp_path: Path):
    store = GossipStore(tmp_path / FILE, CHAIN)
    store.put_node(node_id(1), b"first")
    assert store.node(node_id(1)) == b"first"
    await store.flush()
    assert store.node(node_id(1)) == b"first"
    store.put_node(node_id(1), b"second")
    assert store.node(node_id(1)) == b"second"
    store.put_channel(ONE.place, 1, NOW, bytes(32), ONE.frame)
    store.drop_channel(ONE.place, [node_id(1)])
    assert store.node(node_id(1)) is None and store.channel(ONE.place) is None
    await store.flush()
    assert store.node(node_id(1)) is None
    await store.close()


def test_rows_are_used_again_when_channels_come_and_go():
    """Memory stays that of the largest graph that we held."""
    book = Book()
    for number in range(50):
        book.add(number, node_id(number % 5), node_id(5 + number), 10, NOW, bytes(32))
        book.set_timestamp(number, 1, NOW + number)
    for number in range(50):
        book.drop(number)
    assert len(book) == 0 and list(book.nodes()) == []
    for number in range(100, 150):
        one, two = book.add(number, node_id(1), node_id(number % 7 + 20), 11, NOW, bytes(32))
        assert one is book.shared(node_id(1)) and two is book.shared(node_id(number % 7 + 20))
        assert (book.timestamp(number, 0), book.timestamp(number, 1)) == (0, 0)
    assert len(book._scid) == 50
    assert book.sorted_ids() == list(range(100, 150))


def test_graph_hears_a_channel_before_its_policies():
    """Rows of a policy without its channel, as a crash in between could leave, are passed over."""
    store = GossipStore(None, CHAIN)
    store.put_policy(ONE.place, 0, ONE.update(0))
    store._write(store._pending)
    graph = Graph()
    assert sum(store.load(Book(), graph)) == 1 and graph.policies == {}
    assert sum(store.load(Book(), NoGraph())) == 1
