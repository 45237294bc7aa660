"""What the backup service says and hears: the static channel backup and where it is kept."""

from msgspec import Struct

from protocol.amounts import Sat


class ExportChannels(Struct, frozen=True, tag="backup.channels"):
    """Asked of the channel service; answered with `ChannelRecords`: every channel whose end is not known."""


class ChannelRecord(Struct, frozen=True):
    """`terms`: what the channel service needs to know the channel again without its state."""

    channel_id: bytes
    peer: bytes
    capacity: Sat
    funding_txid: bytes
    funding_outnum: int
    terms: bytes


class ChannelRecords(Struct, frozen=True, tag="backup.records"):
    channels: tuple[ChannelRecord, ...]


class GetBackupStatus(Struct, frozen=True, tag="backup.get_status"):
    """Answered with `BackupStatus`."""


class Target(Struct, frozen=True):
    """A place that a backup goes to. `sentence`: what is the matter with it; empty when all is well."""

    name: str
    written_at: int | None = None
    counter: int = 0
    sentence: str = ""


class BackupStatus(Struct, frozen=True, tag="backup.status"):
    """`pending`: channels changed and the new backup is not written yet. `warning`: what a person should act on."""

    counter: int
    channels: int
    size: int
    made_at: int | None
    pending: bool
    targets: tuple[Target, ...]
    warning: str = ""


class ExportBackup(Struct, frozen=True, tag="backup.export"):
    """Makes a new backup and answers with it, as `ExportedBackup`."""


class ExportedBackup(Struct, frozen=True, tag="backup.exported"):
    counter: int
    blob: bytes
    channels: int


class VerifyBackup(Struct, frozen=True, tag="backup.verify"):
    """Opens a backup with the signer and holds it against the channels of this node. None: every target's own copy."""

    blob: bytes | None = None


class VerifiedBackup(Struct, frozen=True):
    """`missing`: channels of this node that the backup lacks."""

    name: str
    counter: int
    newest: bool
    channels: int
    missing: tuple[bytes, ...]
    sentence: str = ""


class VerifiedBackups(Struct, frozen=True, tag="backup.verified"):
    backups: tuple[VerifiedBackup, ...]
