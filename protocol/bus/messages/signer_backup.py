"""The signer contract around backups: the static channel backup, and channels whose state may be stale.

Part of `protocol.bus.messages.signer`, which lists the requests. A backup holds what the seed does not tell: which
channel keys were drawn and for which channels. It is sealed with a key of the seed, so any place may keep it.
"""

from msgspec import Struct

from protocol.bus.messages.fixed_bytes import Bytes16, Bytes33


class SealBackup(Struct, frozen=True, tag="seal_backup"):
    """Seals the signer's list of channels together with `node_part`, which the signer does not look into."""

    node_part: bytes


class OpenBackup(Struct, frozen=True, tag="open_backup"):
    """What a sealed backup holds; changes nothing."""

    blob: bytes


class RestoreBackup(Struct, frozen=True, tag="restore_backup"):
    """Takes the channels of a backup that this signer does not know; each of them is frozen as stale."""

    blob: bytes


class MarkStale(Struct, frozen=True, tag="mark_stale"):
    """Freezes a channel of which this signer may have an old state.

    From then on it signs no commitment and releases no secret; sweeps and penalties of what is in the chain go on.
    """

    channel: Bytes16


class BackupSealed(Struct, frozen=True, tag="seal_backup"):
    """`counter` grows with every backup of this signer: of two backups the higher one is the newer."""

    counter: int
    blob: bytes


class BackedUpChannel(Struct, frozen=True, array_like=True):
    """`set_up`: its parameters are in the backup too. `known`: this signer has it already."""

    channel: Bytes16
    peer: Bytes33
    set_up: bool
    known: bool


class BackupOpened(Struct, frozen=True, tag="open_backup"):
    """`signer_counter` below `counter`: this signer's database is older than the backup."""

    counter: int
    signer_counter: int
    channels: tuple[BackedUpChannel, ...]
    node_part: bytes


class BackupRestored(Struct, frozen=True, tag="restore_backup"):
    channels: tuple[Bytes16, ...]


class MarkedStale(Struct, frozen=True, tag="mark_stale"):
    pass
