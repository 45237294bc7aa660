"""The backup service: a sealed static channel backup, made anew whenever a channel comes or goes.

A backup holds which channels there are and with whom, never their state: after a loss it asks each peer to close, and
brings home what the peer's commitment pays to us. The signer seals it, so that any place may keep it.
"""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import structlog
from msgspec.structs import replace

from node.backup import content as contents
from node.backup import targets
from node.backup.content import BackedUpPeer, Content
from node.signer_link.client import SignerAway, SignerClient
from protocol.bus.bus import Bus, OutcomeUnknown
from protocol.bus.messages import backup as said
from protocol.bus.messages import peer
from protocol.bus.messages.chain import TipChanged
from protocol.bus.messages.channel import ChannelStateChanged, ChannelsTouched
from protocol.bus.messages.signer import BackupOpened, BackupSealed, OpenBackup, Refused, SealBackup
from protocol.bus.messages.signer_link import SignerLink
from protocol.bus.service import Service, handles, hears
from protocol.errors import CommandRefused, MalformedMessage, ProtocolError
from protocol.wire.bolt1 import LARGEST_BLOB

log = structlog.get_logger()
FILE = "channels.backup"
PEERS = "peers"


class BackupService(Service):
    name: ClassVar[str] = "backup"

    def __init__(
        self,
        bus: Bus,
        *,
        signer: SignerClient,
        network: str,
        files: tuple[Path, ...],
        to_peers: bool = True,
        birth_height: Callable[[], int] = lambda: 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(bus)
        self._signer = signer
        self._network = network
        self._files = files
        self._to_peers = to_peers
        self._birth_height = birth_height
        self._clock = clock
        self._height = 0
        self._targets = {str(path): said.Target(str(path)) for path in files}
        if to_peers:
            self._targets[PEERS] = said.Target(PEERS)
        self._newest: said.ExportedBackup | None = None
        self._made_at: int | None = None
        self._saved: bytes | None = None
        """The fingerprint of what every target was given."""
        self._seen: set[bytes] = set()
        """Channels that a backup of this run was made for; one that failed stays due."""
        self._due = True
        self._warning = ""
        self._writing = asyncio.Lock()

    async def start(self) -> None:
        await super().start()
        self.run(self._write_if_due())

    @hears(ChannelsTouched)
    def channels_touched(self, event: ChannelsTouched) -> None:
        """Said for every payment too. A channel that is new here is one whose funding was just signed: from then on to
        forget it is to lose its money."""
        if not self._seen.issuperset(event.channel_ids):
            self._seen.update(event.channel_ids)
            self._begin_writing()

    @hears(ChannelStateChanged)
    def channel_changed(self, _event: ChannelStateChanged) -> None:
        self._begin_writing()

    def _begin_writing(self) -> None:
        self._due = True
        self.run(self._write_if_due())

    @hears(TipChanged)
    def tip_changed(self, event: TipChanged) -> None:
        """A target that failed is tried again with each block."""
        self._height = event.height
        if self._due:
            self.run(self._write_if_due())

    @hears(SignerLink)
    def signer_link(self, event: SignerLink) -> None:
        if event.up and self._due:
            self.run(self._write_if_due())

    @hears(peer.OurBlobCameBack)
    def blob_came_back(self, event: peer.OurBlobCameBack) -> None:
        self.run(self._judge_blob(event))

    @handles(said.GetBackupStatus)
    def status(self, _request: said.GetBackupStatus) -> said.BackupStatus:
        newest = self._newest
        return said.BackupStatus(
            counter=0 if newest is None else newest.counter,
            channels=0 if newest is None else newest.channels,
            size=0 if newest is None else len(newest.blob),
            made_at=self._made_at,
            pending=self._due,
            targets=tuple(self._targets.values()),
            warning=self._warning,
        )

    @handles(said.ExportBackup)
    async def export(self, _request: said.ExportBackup) -> said.ExportedBackup:
        async with self._writing:
            try:
                return await self._make(await self._content())
            except SignerAway as error:
                raise _no_signer(error) from error

    @handles(said.VerifyBackup)
    async def verify(self, request: said.VerifyBackup) -> said.VerifiedBackups:
        if request.blob is not None:
            return said.VerifiedBackups((await self._verified("given", request.blob),))
        found = []
        for path in self._files:
            try:
                found.append(await self._verified(str(path), path.read_bytes()))
            except OSError as error:
                sentence = f"it cannot be read: {error.strerror}"
                found.append(said.VerifiedBackup(str(path), 0, False, 0, (), sentence))
        return said.VerifiedBackups(tuple(found))

    # Making and keeping.

    async def _write_if_due(self) -> None:
        async with self._writing:
            if not self._due:
                return
            self._due = False
            try:
                content = await self._content()
                print_of = contents.fingerprint(content.channels, content.peers)
                if print_of != self._saved:
                    made = await self._make(content)
                    self._saved = print_of if self._keep(made) else None
            except (ProtocolError, OutcomeUnknown, SignerAway) as error:
                log.warning("backup_waits", reason=str(error))
                self._saved = None
            self._due |= self._saved is None

    async def _content(self) -> Content:
        records: said.ChannelRecords = await self.bus.request("channel", said.ExportChannels())
        known: peer.Peers = await self.bus.request("peer", peer.ListPeers())
        partners = {record.peer for record in records.channels}
        peers = tuple(
            BackedUpPeer(info.node_id, (info.address,))
            for info in sorted(known.peers, key=lambda info: info.node_id)
            if info.node_id in partners and info.address
        )
        return Content(
            contents.VERSION,
            self._network,
            int(self._clock()),
            self._height,
            self._birth_height(),
            tuple(sorted(records.channels, key=lambda record: record.channel_id)),
            peers,
        )

    async def _make(self, content: Content) -> said.ExportedBackup:
        reply = await self._signer.call(SealBackup(contents.encode(content)))
        if not isinstance(reply, BackupSealed):
            sentence = reply.rule if isinstance(reply, Refused) else type(reply).__name__
            raise CommandRefused(
                f"the signer did not seal the backup: {sentence}", what_to_do="See the signer's log."
            )
        self._newest = said.ExportedBackup(reply.counter, reply.blob, len(content.channels))
        self._made_at = content.made_at
        return self._newest

    def _keep(self, made: said.ExportedBackup) -> bool:
        """Whether every target has it."""
        now, all_well = int(self._clock()), True
        for path in self._files:
            name = str(path)
            try:
                targets.write(path, made.blob)
                self._targets[name] = said.Target(name, now, made.counter)
            except OSError as error:
                all_well = False
                sentence = f"it could not be written: {error.strerror}; the old backup is still there"
                self._targets[name] = replace(self._targets[name], sentence=sentence)
                log.error("backup_not_written", target=name, reason=error.strerror)
        if self._to_peers:
            self._give_to_peers(made, now)
        log.info("backup_made", counter=made.counter, channels=made.channels, bytes=len(made.blob))
        return all_well

    def _give_to_peers(self, made: said.ExportedBackup, now: int) -> None:
        if len(made.blob) > LARGEST_BLOB:
            sentence = f"it has {len(made.blob)} bytes, and peers keep {LARGEST_BLOB} at most: use files"
            self._targets[PEERS] = replace(self._targets[PEERS], sentence=sentence)
            return  # to try again would not help
        self.bus.send("peer_storage", peer.PutOurBlob(made.blob))
        self._targets[PEERS] = said.Target(PEERS, now, made.counter)

    # Looking at one.

    async def _open(self, blob: bytes) -> BackupOpened | str:
        try:
            reply = await self._signer.call(OpenBackup(blob))
        except SignerAway as error:
            raise _no_signer(error) from error
        if isinstance(reply, BackupOpened):
            return reply
        return reply.seen if isinstance(reply, Refused) else "the signer cannot open it now"

    async def _verified(self, name: str, blob: bytes) -> said.VerifiedBackup:
        opened = await self._open(blob)
        if isinstance(opened, str):
            return said.VerifiedBackup(name, 0, False, 0, (), f"it cannot be opened: {opened}")
        try:
            content = contents.decode(opened.node_part)
        except MalformedMessage as error:
            return said.VerifiedBackup(name, opened.counter, False, 0, (), str(error))
        records: said.ChannelRecords = await self.bus.request("channel", said.ExportChannels())
        has = {record.channel_id for record in content.channels}
        missing = tuple(r.channel_id for r in records.channels if r.channel_id not in has)
        newest = self._newest is not None and opened.counter >= self._newest.counter
        sentence = f"{len(missing)} of our channels are not in it" if missing else ""
        return said.VerifiedBackup(name, opened.counter, newest, len(content.channels), missing, sentence)

    async def _judge_blob(self, event: peer.OurBlobCameBack) -> None:
        """A peer's copy that is newer than the signer's own count means that the signer is an old copy."""
        try:
            opened = await self._open(event.blob)
        except CommandRefused:
            return
        if isinstance(opened, str):
            log.info("blob_from_peer_unreadable", peer=event.node_id.hex(), reason=opened)
            return
        if opened.counter > opened.signer_counter:
            self._warning = (
                f"peer {event.node_id.hex()} keeps backup {opened.counter} for us, and the signer has made only"
                f" {opened.signer_counter}: the signer runs on an old copy of its database. Stop, and restore with"
                " `lnpd restore --plan`."
            )
            log.error("signer_is_older_than_backup", peer=event.node_id.hex(), counter=opened.counter)
            return
        if self._newest is not None and opened.counter < self._newest.counter:
            log.info("blob_from_peer_is_old", peer=event.node_id.hex(), counter=opened.counter)
            self.bus.send("peer_storage", peer.PutOurBlob(self._newest.blob))


def _no_signer(error: SignerAway) -> CommandRefused:
    return CommandRefused(f"the signer is away: {error}", what_to_do="Start it, then try again.")
