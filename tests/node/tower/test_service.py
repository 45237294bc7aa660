"""The tower service of a running node: nothing is lost, and nothing is done when nobody asked (issue "channel", 3)."""

import importlib.util
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from node.config import BitcoindConfig, Config, SignerConfig, TowerConfig, load, save
from node.signer_link.client import SignerAway
from node.storage import tower as rows
from node.tower import service as tower
from node.tower.lines import Book, parse
from node.tower.service import NoTower
from protocol.amounts import BlockHeight
from protocol.bitcoin.transaction import Transaction
from protocol.bus.local import LocalBus
from protocol.bus.messages import signer as sign
from protocol.bus.messages.chain import TipChanged
from protocol.bus.messages.signer_link import SignerLink
from protocol.bus.messages.tower import GetTowerStatus
from protocol.errors import CommandRefused
from signer.keys import COLD
from tests.node.tower.support import TowerNode, TowerPair
from tests.node.wallet.support import until
from tests.support import need

BIG = 200_000_000


async def opened(folder: Path, *, wants_tower: bool = True) -> TowerPair:
    need("kernel", importlib.util.find_spec("pbk") is not None, "py-bitcoinkernel is not installed")
    made = TowerPair(folder, wants_tower=wants_tower)
    await made.start()
    await made.open(anchors=False)
    return made


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[TowerPair]:
    made = await opened(tmp_path)
    yield made
    await made.stop()


def read(node: TowerNode) -> list[bytes]:
    return [raw for raw in node.file.read_bytes().splitlines(keepends=True) if parse(raw)]


async def test_every_revoked_commitment_gets_its_line(pair: TowerPair) -> None:
    published = [pair.bob.copy().tx.txid]
    for _ in range(3):
        await pair.pay(pair.alice, BIG)
        published.append(pair.bob.copy().tx.txid)
    await pair.alice.written()
    book = Book(pair.alice.file)
    book.refresh()
    assert len(read(pair.alice)) == pair.alice.revoked >= 6
    assert all(txid in book and book.penalties(txid) for txid in published[:-1])
    assert published[-1] not in book
    status = await pair.alice.status()
    assert (status.pending, status.sentence, status.written_at) == (0, "", 1_700_000_000)
    assert status.size == pair.alice.file.stat().st_size and status.written == pair.alice.revoked


async def test_nothing_in_the_file_shows_ids_amounts_or_keys(pair: TowerPair) -> None:
    htlc = await pair.offer(pair.alice, BIG, pair.chain.height + 60)
    copy = pair.bob.copy()
    await pair.settle(pair.alice, htlc)
    await pair.alice.written()
    raw = pair.alice.file.read_bytes()
    blobs = [found[1] for found in map(parse, read(pair.alice)) if found is not None]
    text = raw + b"".join(blobs) + b"".join(blob.hex().encode() for blob in blobs)
    book = Book(pair.alice.file)
    book.refresh()
    penalties = book.penalties(copy.tx.txid)
    (channel,) = pair.alice.service._channels.values()
    script = pair.alice.service.keys.wallet_script(COLD, channel.cold_index)
    public, funding = channel.secrets.public, copy.tx.inputs[0].outpoint.txid
    amounts = [output.value.to_bytes(8, "little") for output in copy.tx.outputs]
    hidden = [copy.tx.txid, copy.tx.txid[::-1], funding, script, copy.tx.txid[16:], *amounts, *penalties]
    hidden += [public.funding_pubkey, public.revocation_basepoint]
    assert penalties and all(Transaction.parse(tx).outputs[0].script_pubkey == script for tx in penalties)
    for secret in hidden:
        assert secret not in text and secret.hex().encode() not in text
    assert copy.tx.txid[:16].hex().encode() in raw  # the hint, and no more


async def test_without_a_tower_nothing_is_noted_or_signed(tmp_path: Path) -> None:
    pair = await opened(tmp_path, wants_tower=False)
    try:
        await pair.pay(pair.alice, BIG)
        assert pair.alice.pending == 0
        assert not pair.alice.file.exists()
    finally:
        await pair.stop()
    bus = LocalBus()
    off = NoTower(bus)
    await off.start()
    assert (await bus.request("tower", GetTowerStatus())).file == ""
    assert not off.hearers()
    await off.stop()


async def test_a_crash_between_line_and_row_repeats_the_line_and_loses_none(pair: TowerPair) -> None:
    kept: list[object] = []
    submit = pair.alice.database.writer.submit

    def losing(unit, *, now):  # type: ignore[no-untyped-def]
        kept.extend(part for part in unit if part[0] == rows.DELETE)
        return submit([part for part in unit if part[0] != rows.DELETE], now=now)

    pair.alice.database.writer.submit = losing  # type: ignore[method-assign]
    await pair.pay(pair.alice, BIG)
    await until(lambda: len(kept) > 0 and pair.alice.tower._written >= pair.alice.revoked)
    before = pair.alice.pending
    assert before == pair.alice.revoked
    await pair.alice.restart()
    await until(lambda: not pair.alice.pending)
    assert len(read(pair.alice)) >= 2 * before
    hints = {found[0] for found in map(parse, read(pair.alice)) if found is not None}
    assert len(hints) == before


async def test_a_disk_that_is_full_loses_no_line(pair: TowerPair, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_path: Path, _lines: object) -> int:
        raise OSError(28, "No space left on device")

    append = tower.lines.append
    monkeypatch.setattr(tower.lines, "append", full)
    await pair.pay(pair.alice, BIG)
    await until(lambda: pair.alice.tower._sentence and pair.alice.pending == pair.alice.revoked)
    status = await pair.alice.status()
    assert "No space left" in status.sentence and status.pending == pair.alice.revoked >= 2
    monkeypatch.setattr(tower.lines, "append", append)
    pair.alice.bus.publish(TipChanged(BlockHeight(pair.chain.height), pair.chain.tip_hash, 0))
    await until(lambda: not pair.alice.pending)
    await until(lambda: not pair.alice.tower._sentence)
    assert len(read(pair.alice)) == pair.alice.revoked


async def test_a_signer_that_is_away_delays_the_lines(pair: TowerPair) -> None:
    def away(request: sign.Request) -> sign.Reply:
        if isinstance(request, sign.SignPenalties):
            raise SignerAway("stopped")
        return pair.alice.signer.node.ask(request)

    pair.alice.signer.instead = away
    await pair.pay(pair.alice, BIG)
    await until(lambda: "stopped" in pair.alice.tower._sentence)
    assert pair.alice.pending
    pair.alice.signer.instead = None
    pair.alice.bus.publish(SignerLink(True, ""))
    await pair.alice.written()


async def test_on_a_quiet_channel_the_signer_hears_of_the_revocation_from_the_tower(pair: TowerPair) -> None:
    """The last revocation is told with the next question of the channel, and none may come for days."""
    await pair.pay(pair.alice, BIG)
    (channel,) = pair.alice.channels._channels.values()
    (known,) = pair.alice.service._channels.values()
    await pair.alice.written()
    assert known.state is not None
    assert known.state.counterparty_revoked == pair.alice.revoked
    assert channel.state.committed.unaccepted is not None
    await pair.pay(pair.alice, BIG)  # the channel tells it once more, and goes on
    await pair.alice.written()


async def test_what_the_signer_refuses_for_good_stays_and_holds_up_nobody(pair: TowerPair) -> None:
    refused: list[int] = []

    def judge(request: sign.Request) -> sign.Reply:
        if isinstance(request, sign.SignPenalties) and request.content.number == 0:
            refused.append(request.content.number)
            return sign.Refused("content", "a rule", "seen", "limit", "Report it.")
        return pair.alice.signer.node.ask(request)

    pair.alice.signer.instead = judge
    await pair.pay(pair.alice, BIG)
    await until(lambda: pair.alice.tower._written >= pair.alice.revoked - 1)
    await pair.pay(pair.alice, BIG)
    await until(lambda: pair.alice.tower._written >= pair.alice.revoked - 1 and pair.alice.pending == 1)
    assert refused == [0]


def test_the_file_is_named_in_the_settings_and_off_without_a_name(tmp_path: Path) -> None:
    directory = tmp_path / "regtest"
    directory.mkdir()
    bitcoind = BitcoindConfig("http://127.0.0.1:1", cookie="/cookie")
    config = Config(network="regtest", signer=SignerConfig("ipc:///nowhere", "key"), bitcoind=bitcoind)
    save(directory, config)
    assert "tower" not in (directory / "lnp.toml").read_text()
    assert load(directory).tower.file == ""
    save(directory, replace(config, tower=TowerConfig("/usb/tower")))
    assert load(directory).tower.file == "/usb/tower"
    with pytest.raises(CommandRefused, match=r"no setting tower\.fil"):
        load(directory, ("tower.fil=/usb",))
