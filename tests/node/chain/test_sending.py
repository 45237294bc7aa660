"""Packages through the chain service: a child that pays for its parents, now and after each block."""

import asyncio
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import structlog

from node.chain.backend import PACKAGES, Outcome
from protocol.bitcoin.transaction import OutPoint, Transaction, txid_hex
from protocol.bus.messages.chain import Broadcast, Forget, GetTip
from protocol.errors import CommandRefused
from tests.node.chain.regtest.wallet import ELSEWHERE, SCRIPT, confirmed_coin, spend
from tests.node.chain.test_electrum import make_electrum
from tests.node.chain.test_service import Rig, until

ROWS = "SELECT txid, height FROM transactions ORDER BY txid"


def pair(
    coin: tuple[OutPoint, int], parent_fee: int = 200, child_fee: int = 9_000
) -> tuple[Transaction, Transaction]:
    value = coin[1] - parent_fee
    parent = spend([coin], [(value, SCRIPT)])
    return parent, spend([(OutPoint(parent.txid, 0), value)], [(value - child_fee, ELSEWHERE)])


def as_package(parent: Transaction, child: Transaction, *, keep: bool = True) -> Broadcast:
    return Broadcast(child.serialize(), "a child", keep=keep, parents=(parent.serialize(),))


def saved(rig: Rig) -> dict[bytes, int | None]:
    assert rig.database is not None
    return {bytes(txid): height for txid, height in rig.database.writer.read(ROWS)}


@pytest.fixture
async def rig(regtest: Any, tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(*regtest, tmp_path / "node.db")
    await rig.start()
    await rig.caught_up()
    yield rig
    await rig.stop()


async def test_a_parent_below_the_market_goes_out_with_its_child(rig: Rig) -> None:
    parent, child = pair(confirmed_coin(rig.chain))
    rig.chain.mempool.set_floor(10_000)
    alone = await rig.ask(Broadcast(parent.serialize(), keep=False))
    assert not alone.accepted and "mempool min fee not met" in alone.reason
    together = await rig.ask(as_package(parent, child))
    assert (together.txid, together.accepted) == (child.txid, True)
    assert list(rig.chain.mempool.entries) == [parent.txid, child.txid]
    assert saved(rig) == {parent.txid: None, child.txid: None}
    rig.chain.generate(1)
    await until(lambda: saved(rig) == {parent.txid: rig.chain.height, child.txid: rig.chain.height})


async def test_a_package_that_pays_too_little_is_refused_with_both_reasons(rig: Rig) -> None:
    parent, child = pair(confirmed_coin(rig.chain), child_fee=500)
    rig.chain.mempool.set_floor(10_000)
    result = await rig.ask(as_package(parent, child, keep=False))
    assert not result.accepted
    assert result.reason.startswith("transaction failed: parent: mempool min fee not met, 700 <")
    assert saved(rig) == {} and not rig.chain.mempool.entries


async def test_a_package_is_sent_again_after_each_block_as_one(rig: Rig) -> None:
    """The market fell back below what both pay together, and still is above what the parent pays."""
    coin = confirmed_coin(rig.chain)
    parent, child = pair(coin, child_fee=2_000)
    rig.chain.mempool.set_floor(50_000)
    assert not (await rig.ask(as_package(parent, child))).accepted
    rig.chain.mempool.set_floor(5_000)
    rig.chain.generate_block([])
    await until(lambda: child.txid in rig.chain.mempool)
    rig.chain.mempool.set_floor(60_000)
    assert not rig.chain.mempool.entries
    rig.chain.mempool.set_floor(5_000)
    await rig.stop()
    await rig.start()  # which is not told that they belong together
    await until(lambda: {parent.txid, child.txid} <= set(rig.chain.mempool.entries))


async def test_what_is_sent_while_a_block_has_all_sent_again_is_no_bug(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim of the new block, with its parent, comes when the older ones are nearly through."""
    old, _ = pair(confirmed_coin(rig.chain))
    rig.chain.mempool.set_floor(10_000)
    assert not (await rig.ask(Broadcast(old.serialize()))).accepted
    parent, child = pair(confirmed_coin(rig.chain))
    send, sent, turns = rig.backend.broadcast, asyncio.Event(), count(1)

    async def broadcast(raw: bytes) -> Outcome:
        if next(turns) == 2:  # what was refused is offered once more, since its parent may have come after it
            await rig.ask(as_package(parent, child))
            sent.set()
        return await send(raw)

    monkeypatch.setattr(rig.backend, "broadcast", broadcast)
    with structlog.testing.capture_logs() as logs:
        rig.chain.generate_block([])
        await asyncio.wait_for(sent.wait(), 20)
        await rig.caught_up()
        rig.chain.generate_block([])
        await rig.caught_up()
    assert [entry for entry in logs if entry["event"] == "bug"] == []
    assert child.txid in rig.chain.mempool


async def test_what_is_forgotten_while_a_block_has_all_sent_again_is_not_sent(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever gave it up spends its coins otherwise."""
    rig.chain.mempool.set_floor(10_000)
    kept, given_up = (pair(confirmed_coin(rig.chain))[0] for _ in range(2))
    for each in (kept, given_up):
        assert not (await rig.ask(Broadcast(each.serialize()))).accepted
    await rig.caught_up()
    async with rig.service._lock:  # until nothing is sent again after the blocks of the coins
        pass
    send, sent = rig.backend.broadcast, list[bytes]()

    async def broadcast(raw: bytes) -> Outcome:
        sent.append(Transaction.parse(raw).txid)
        rig.service.forget(Forget(given_up.txid))
        return await send(raw)

    monkeypatch.setattr(rig.backend, "broadcast", broadcast)
    rig.chain.generate_block([])
    await until(lambda: len(sent) == 2)
    await rig.caught_up()
    async with rig.service._lock:
        pass
    assert sent == [kept.txid] * 2  # what is refused is offered twice
    await until(lambda: saved(rig) == {kept.txid: None})


async def test_a_parent_that_is_in_a_block_needs_no_package(rig: Rig) -> None:
    parent, child = pair(confirmed_coin(rig.chain))
    rig.chain.submit(parent)
    rig.chain.generate(1)
    await rig.caught_up()
    assert (await rig.ask(as_package(parent, child))).accepted
    assert child.txid in rig.chain.mempool


async def test_a_parent_that_the_server_finds_in_a_block_does_not_stop_the_child(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bitcoin Core then judges nothing else of the package."""
    parent, child = pair(confirmed_coin(rig.chain))
    rig.chain.submit(parent)
    rig.chain.generate(1)
    await rig.caught_up()
    ask, said = rig.backend._rpc.call, "txn-already-known"

    async def call(method: str, *params: Any) -> Any:
        if method != "submitpackage":
            return await ask(method, *params)
        given = [Transaction.parse(bytes.fromhex(raw)) for raw in params[0]]
        rows = zip(given, (said, "package-not-validated"), strict=True)
        results = {tx.wtxid.hex(): {"txid": txid_hex(tx.txid), "error": error} for tx, error in rows}
        return {"package_msg": "transaction failed", "tx-results": results, "replaced-transactions": []}

    monkeypatch.setattr(rig.backend._rpc, "call", call)
    assert (await rig.ask(as_package(parent, child))).accepted
    assert child.txid in rig.chain.mempool
    said = "scriptpubkey"
    other = await rig.ask(as_package(*pair(confirmed_coin(rig.chain)), keep=False))
    assert not other.accepted and other.reason == (
        "transaction failed: parent: scriptpubkey; package-not-validated"
    )


async def test_a_package_without_its_parent_s_child_is_refused_by_us(rig: Rig) -> None:
    parent, _ = pair(confirmed_coin(rig.chain))
    _, stranger = pair(confirmed_coin(rig.chain))
    with pytest.raises(CommandRefused, match="is no parent of"):
        await rig.ask(as_package(parent, stranger))
    with pytest.raises(CommandRefused, match="not a transaction"):
        await rig.ask(Broadcast(stranger.serialize(), parents=(b"\x00",)))
    assert saved(rig) == {}


async def test_a_forgotten_child_leaves_its_parent(rig: Rig) -> None:
    parent, child = pair(confirmed_coin(rig.chain), parent_fee=1_000)
    await rig.ask(as_package(parent, child))
    rig.bus.send("chain", Forget(child.txid))
    await rig.ask(GetTip())
    await until(lambda: saved(rig) == {parent.txid: None})


async def overtaken(rig: Rig) -> tuple[Transaction, Transaction, Transaction]:
    """A parent and its child of ours, and who spent the parent's coin in the newest block."""
    coin = confirmed_coin(rig.chain)
    parent, child = pair(coin, parent_fee=1_000)
    assert (await rig.ask(as_package(parent, child))).accepted
    rival = spend(
        [coin], [(coin[1] - 300, ELSEWHERE)]
    )  # a reorganisation brings it back, and ours replaces it
    rig.chain.generate_block([rival])
    await rig.caught_up()
    await until(lambda: set(saved(rig).values()) == {-rig.chain.height})
    return parent, child, rival


async def test_what_a_block_made_impossible_is_not_sent_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peer's commitment was mined: ours would be offered, and refused, with every block for ever."""
    parent, child, _ = await overtaken(rig)
    sent: list[bytes] = []
    offer = rig.backend.broadcast

    async def broadcast(raw: bytes) -> Outcome:
        sent.append(raw)
        return await offer(raw)

    monkeypatch.setattr(rig.backend, "broadcast", broadcast)
    for _ in range(2):
        rig.chain.generate(1)
        await rig.caught_up()
    again = await rig.ask(Broadcast(parent.serialize()))
    assert not again.accepted and "missing" in again.reason
    await rig.stop()
    await rig.start()
    rig.chain.generate(1)
    await rig.caught_up()
    assert sent == []
    assert saved(rig).keys() == {parent.txid, child.txid}


@pytest.mark.parametrize("restarted", [False, True])
async def test_what_a_block_made_impossible_is_sent_again_when_the_block_goes(
    rig: Rig, restarted: bool
) -> None:
    parent, child, _ = await overtaken(rig)
    if restarted:
        await rig.stop()
        await rig.start()
        await rig.ask(GetTip())
    rig.chain.reorg(1)
    await until(lambda: {parent.txid, child.txid} <= set(rig.chain.mempool.entries))
    await until(lambda: set(saved(rig).values()) == {None})


async def test_what_a_block_made_impossible_can_be_forgotten(rig: Rig) -> None:
    parent, child, _ = await overtaken(rig)
    rig.bus.send("chain", Forget(child.txid))
    await rig.ask(GetTip())
    await until(lambda: saved(rig).keys() == {parent.txid})
    rig.chain.reorg(1)
    await until(lambda: saved(rig) == {parent.txid: None})
    assert child.txid not in rig.chain.mempool


class OneByOneRig(Rig):
    async def start(self, **options: Any) -> None:
        await super().start(make=lambda: make_electrum(self.doors.electrum_endpoint), **options)


async def test_a_backend_without_packages_sends_one_by_one_and_says_what_failed(
    regtest: Any, tmp_path: Path
) -> None:
    rig = OneByOneRig(*regtest, tmp_path / "node.db")
    await rig.start()
    await rig.caught_up()
    assert PACKAGES in rig.backend.cannot
    good = pair(confirmed_coin(rig.chain), parent_fee=1_000)
    assert (await rig.ask(as_package(*good))).accepted
    rig.chain.generate(1)
    poor = pair(confirmed_coin(rig.chain))
    rig.chain.mempool.set_floor(10_000)
    result = await rig.ask(as_package(*poor, keep=False))
    assert not result.accepted
    assert "its parent: " in result.reason and "mempool min fee not met" in result.reason
    assert "no packages here" in result.reason
    await rig.stop()


async def test_what_a_block_just_confirmed_or_overtook_is_not_sent_for_ever(rig: Rig) -> None:
    """That it did may not be on disk yet when somebody who heard of the block asks."""
    coin, other = confirmed_coin(rig.chain), confirmed_coin(rig.chain)
    mined = spend([coin], [(coin[1] - 1_000, SCRIPT)])
    late = spend([other], [(other[1] - 1_000, SCRIPT)])
    assert (await rig.ask(Broadcast(mined.serialize()))).accepted
    rig.chain.mempool.set_floor(100_000)
    assert not (await rig.ask(Broadcast(late.serialize()))).accepted
    assert rig.database is not None
    writer, submit, held = rig.database.writer, rig.database.writer.submit, list[Any]()

    def slow(unit: Any, *, now: bool) -> Any:
        """A disk that has not done what need not be done at once."""
        if now:
            return submit(unit, now=True)
        held.append(unit)
        return asyncio.get_running_loop().create_future()

    writer.submit = slow  # type: ignore[method-assign]
    rig.chain.generate_block([mined, spend([other], [(other[1] - 9_000, ELSEWHERE)])])
    await rig.caught_up()
    assert (await rig.ask(Broadcast(mined.serialize()))).accepted
    assert not (await rig.ask(Broadcast(late.serialize()))).accepted
    assert not rig.service._watches.own
    writer.submit = submit  # type: ignore[method-assign]
    for unit in held:
        await submit(unit, now=True)
    assert saved(rig) == {mined.txid: rig.chain.height, late.txid: -rig.chain.height}


async def test_what_was_refused_and_not_kept_does_not_come_back_with_a_reorganisation(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block overtakes it while the server is asked: it was refused, so whoever asked takes the coins for free."""
    coin = confirmed_coin(rig.chain)
    refused = spend([coin], [(coin[1] - 1_000, SCRIPT)])
    await rig.caught_up()
    async with rig.service._lock:  # until nothing is sent again after the block of the coin
        pass
    send, turns = rig.backend.broadcast, count(1)

    async def broadcast(raw: bytes) -> Outcome:
        if next(turns) == 1:
            rig.chain.generate_block([spend([coin], [(coin[1] - 9_000, ELSEWHERE)])])
            await until(lambda: rig.service._watches.own_overtaken)
        return await send(raw)

    monkeypatch.setattr(rig.backend, "broadcast", broadcast)
    assert not (await rig.ask(Broadcast(refused.serialize(), keep=False))).accepted
    assert saved(rig) == {}
    rig.chain.reorg(1)
    await rig.caught_up()
    assert refused.txid not in rig.service._watches.own


async def test_what_somebody_keeps_stays_although_another_who_sent_it_gives_it_up(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commitment: the channel has it sent until it confirms, while the claims offer it as the parent of a child."""
    parent, child = pair(confirmed_coin(rig.chain), child_fee=500)
    rig.chain.mempool.set_floor(10_000)
    offer = rig.backend.submit_package

    async def submit_package(parents: list[bytes], last: bytes) -> Outcome:
        monkeypatch.undo()
        assert not (await rig.ask(Broadcast(parent.serialize(), keep=True))).accepted
        return await offer(parents, last)

    monkeypatch.setattr(rig.backend, "submit_package", submit_package)
    assert not (await rig.ask(as_package(parent, child, keep=False))).accepted
    assert saved(rig) == {parent.txid: None}
    rig.chain.mempool.set_floor(253)
    rig.chain.generate_block([])
    await until(lambda: parent.txid in rig.chain.mempool)
    assert child.txid not in rig.chain.mempool
