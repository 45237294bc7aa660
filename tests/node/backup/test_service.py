"""The backup service: written at each open and close, to every target, and looked at (issue "channel", 6)."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import ClassVar

import pytest
import structlog

from node.backup import content as contents
from node.backup import targets
from node.backup.service import BackupService
from node.signer_link.client import SignerAway
from protocol.amounts import BlockHeight, Sat
from protocol.bus.local import LocalBus
from protocol.bus.messages import backup as said
from protocol.bus.messages import channel, peer
from protocol.bus.messages.chain import TipChanged
from protocol.bus.messages.signer import BackupOpened, OpenBackup, Reply, Request
from protocol.bus.service import Service, handles, hears
from protocol.errors import CommandRefused
from signer.service import SignerService
from tests.node.wallet.support import InProcessSigner, until
from tests.signer.support import PEER_WORDS, make_service

BOB = b"\x02" * 33


class FakeChannels(Service):
    """The channel service's answer to `ExportChannels`; the rest of it has no part here."""

    name: ClassVar[str] = "channel"
    records: tuple[said.ChannelRecord, ...] = ()

    @handles(said.ExportChannels)
    def export(self, _request: said.ExportChannels) -> said.ChannelRecords:
        return said.ChannelRecords(self.records)


class FakePeers(Service):
    name: ClassVar[str] = "peer"

    @handles(peer.ListPeers)
    def peers(self, _request: peer.ListPeers) -> peer.Peers:
        info = peer.PeerInfo(BOB, True, True, "127.0.0.1:9735", b"", 0)
        return peer.Peers((info, peer.PeerInfo(b"\x03" * 33, True, True, "127.0.0.1:9736", b"", 0)))


class FakeStorage(Service):
    name: ClassVar[str] = "peer_storage"

    def __init__(self, bus: LocalBus) -> None:
        super().__init__(bus)
        self.blobs: list[bytes] = []

    @hears(peer.PutOurBlob)
    def put(self, message: peer.PutOurBlob) -> None:
        self.blobs.append(message.blob)


def _away(_request: Request) -> Reply:
    raise SignerAway("the signer was stopped")


def record(number: int) -> said.ChannelRecord:
    return said.ChannelRecord(bytes([number]) * 32, BOB, Sat(1_000_000), bytes([number]) * 32, 0, b"terms")


class World:
    def __init__(self, place: Path, signer: SignerService, files: tuple[Path, ...]) -> None:
        self.bus = LocalBus()
        self.signer = InProcessSigner(signer)
        self.channels = FakeChannels(self.bus)
        self.peers = FakePeers(self.bus)
        self.storage = FakeStorage(self.bus)
        self.files = files
        self.now = 1_000.0
        self.service = BackupService(
            self.bus, signer=self.signer, network="regtest", files=files, clock=lambda: self.now
        )

    async def start(self) -> None:
        for service in (self.channels, self.peers, self.storage, self.service):
            await service.start()

    async def stop(self) -> None:
        for service in (self.service, self.storage, self.peers, self.channels):
            await service.stop()

    async def status(self) -> said.BackupStatus:
        found: said.BackupStatus = await self.bus.request("backup", said.GetBackupStatus())
        return found

    async def opened(self, blob: bytes) -> contents.Content:
        reply = await self.signer.call(OpenBackup(blob))
        assert isinstance(reply, BackupOpened)
        return contents.decode(reply.node_part)

    def changes(self, *records: said.ChannelRecord) -> None:
        self.channels.records = records
        self.bus.publish(
            channel.ChannelStateChanged(b"\x01" * 32, "OPENINGD", "CHANNELD_NORMAL", "", BlockHeight(1))
        )


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    signer = make_service(tmp_path / "signer")
    (tmp_path / "usb").mkdir()
    made = World(tmp_path, signer, (tmp_path / "channels.backup", tmp_path / "usb" / "copy.backup"))
    await made.start()
    await until(lambda: made.service._newest is not None)
    yield made
    await made.stop()
    signer.close()


async def test_every_open_and_close_is_written_to_every_target(world: World) -> None:
    world.changes(record(1))
    await until(lambda: len(world.storage.blobs) == 2)
    assert {path.read_bytes() for path in world.files} == {world.storage.blobs[-1]}
    content = await world.opened(world.storage.blobs[-1])
    assert content.channels == (record(1),)
    assert [entry.addresses for entry in content.peers] == [("127.0.0.1:9735",)]  # partners only
    world.changes()
    await until(lambda: len(world.storage.blobs) == 3)
    assert (await world.opened(world.files[0].read_bytes())).channels == ()
    status = await world.status()
    assert (status.channels, status.pending, status.counter) == (0, False, 3)


async def test_channel_is_in_the_backup_from_its_funding_on(world: World) -> None:
    """It changes its state only blocks later, and its money is in it already."""
    world.channels.records = (record(1),)
    world.bus.publish(channel.ChannelsTouched((record(1).channel_id,)))
    await until(lambda: len(world.storage.blobs) == 2)
    assert (await world.opened(world.files[0].read_bytes())).channels == (record(1),)


async def test_payments_in_a_channel_that_is_backed_up_write_nothing(world: World) -> None:
    world.channels.records = (record(1),)
    calls = world.signer.calls
    for _ in range(5):
        world.bus.publish(channel.ChannelsTouched((record(1).channel_id,)))
    await until(lambda: len(world.storage.blobs) == 2)
    await world.status()
    assert world.signer.calls == calls + 1


async def test_backup_too_large_for_peers_goes_to_files_and_says_so(world: World) -> None:
    large = said.ChannelRecord(b"\x09" * 32, BOB, Sat(1), bytes(32), 0, bytes(66_000))
    world.changes(large)
    await until(lambda: len(world.files[0].read_bytes()) > 65_531)
    status = await world.status()
    assert "use files" in status.targets[-1].sentence
    assert not status.targets[0].sentence
    assert len(world.storage.blobs) == 1


async def test_nothing_is_written_when_nothing_changed(world: World) -> None:
    world.changes()
    world.bus.publish(TipChanged(BlockHeight(2), b"", 0))
    await world.status()
    await asyncio.sleep(0)
    assert len(world.storage.blobs) == 1


async def test_target_that_fails_is_told_and_tried_again_with_each_block(world: World) -> None:
    lost = world.files[1].parent
    moved = lost.with_name("away")
    lost.rename(moved)
    world.changes(record(1))
    await until(lambda: world.service._targets[str(world.files[1])].sentence)
    status = await world.status()
    assert status.pending
    assert "No such file" in status.targets[1].sentence
    assert not status.targets[0].sentence  # the other one has it
    moved.rename(lost)
    world.bus.publish(TipChanged(BlockHeight(2), b"", 0))
    await until(lambda: not world.service._due)
    assert not any(target.sentence for target in (await world.status()).targets)


async def test_backup_waits_for_the_signer(tmp_path: Path) -> None:
    signer = make_service(tmp_path / "signer")
    world = World(tmp_path, signer, (tmp_path / "channels.backup",))
    world.signer.instead = _away
    await world.start()
    await until(lambda: world.signer.calls)
    assert (await world.status()).pending
    assert not world.files[0].exists()
    with structlog.testing.capture_logs() as logs, pytest.raises(CommandRefused, match="signer is away"):
        await world.bus.request("backup", said.ExportBackup())
    assert [entry for entry in logs if entry["event"] == "bug"] == []
    world.signer.instead = None
    world.bus.publish(TipChanged(BlockHeight(2), b"", 0))
    await until(lambda: world.files[0].exists())
    await world.stop()
    signer.close()


async def test_verify_names_channels_that_a_copy_lacks_and_copies_that_cannot_be_opened(world: World) -> None:
    old = world.files[0].read_bytes()
    world.changes(record(1))
    await until(lambda: len(world.storage.blobs) == 2)
    found: said.VerifiedBackups = await world.bus.request("backup", said.VerifyBackup())
    assert all(entry.newest and not entry.sentence for entry in found.backups)
    (judged,) = (await world.bus.request("backup", said.VerifyBackup(old))).backups
    assert judged.missing == (record(1).channel_id,)
    assert not judged.newest
    world.files[0].write_bytes(old[:50])
    world.files[1].unlink()
    found = await world.bus.request("backup", said.VerifyBackup())
    assert "cannot be opened" in found.backups[0].sentence
    assert "cannot be read" in found.backups[1].sentence


async def test_blob_of_a_peer_that_is_newer_than_the_signer_raises_the_alarm(
    world: World, tmp_path: Path
) -> None:
    """checklist 7: the guard against an old blob works the other way too: the signer may be the old one."""
    newer = make_service(tmp_path / "newer")  # the same seed, five backups on
    other = World(tmp_path, newer, ())
    for _ in range(5):
        other.service._newest = None
        await other.service._make(contents.Content(1, "regtest", 0, 0, 0, (), ()))
    assert other.service._newest is not None
    world.bus.publish(peer.OurBlobCameBack(BOB, other.service._newest.blob))
    await until(lambda: world.service._warning)
    assert "old copy" in (await world.status()).warning
    newer.close()


async def test_old_or_foreign_blob_of_a_peer_changes_nothing_and_it_gets_the_newest(
    world: World, tmp_path: Path
) -> None:
    """checklist 7: the storing peer is not trusted."""
    old = world.storage.blobs[0]
    world.changes(record(1))
    await until(lambda: len(world.storage.blobs) == 2)
    world.bus.publish(peer.OurBlobCameBack(BOB, old))
    await until(lambda: len(world.storage.blobs) == 3)
    assert world.storage.blobs[2] == world.storage.blobs[1]
    stranger = make_service(tmp_path / "stranger", words=PEER_WORDS)
    other = World(tmp_path, stranger, ())
    foreign = await other.service._make(contents.Content(1, "regtest", 0, 0, 0, (), ()))
    for blob in (foreign.blob, b"", b"\x00" * 65_531, old[:-1]):
        world.bus.publish(peer.OurBlobCameBack(BOB, blob))
    await world.status()
    assert not (await world.status()).warning
    stranger.close()


def test_file_is_whole_or_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "channels.backup"
    targets.write(path, b"old")
    assert path.stat().st_mode & 0o777 == 0o600
    (tmp_path / "channels.backup.part").mkdir()
    with pytest.raises(OSError, match="directory"):
        targets.write(path, b"new")
    assert path.read_bytes() == b"old"


def test_content_that_is_not_ours_is_refused() -> None:
    good = contents.encode(contents.Content(1, "regtest", 0, 0, 0, (record(1),), ()))
    assert contents.decode(good).channels == (record(1),)
    for raw in (
        b"",
        good[:-1],
        b"\x93\x01\x02\x03",
        contents.encode(contents.Content(2, "x", 0, 0, 0, (), ())),
    ):
        with pytest.raises(contents.MalformedMessage):
            contents.decode(raw)
