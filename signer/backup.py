"""The static channel backup: sealed with a key of the seed, opened by whoever has the seed (DESIGN, "Keys").

Layout: magic, version, counter (8 bytes), nonce (12 bytes), then ChaCha20-Poly1305 over the contents, with
everything before it as associated data. A channel that comes back from a backup has no state: it is frozen as
stale, signs no commitment and releases no secret, and sweeps what the peer's close pays to it.
"""

import secrets
from collections.abc import Callable

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from msgspec import Struct
from msgspec.structs import replace

from protocol.bus.messages.signer import SetupChannel
from protocol.bus.messages.signer_backup import BackedUpChannel, BackupOpened, BackupSealed
from signer import storage as db
from signer.books import Books
from signer.channel import Channel
from signer.channel_state import ChannelState, first_state, header_bytes
from signer.keys import NodeKeys
from signer.policy import backup as rules
from signer.policy.backup import STALE, readable
from signer.storage import Row, Storage

MAGIC = b"LNPB\x01"
COUNTER = "backup"
_HEADER = len(MAGIC) + 8
_NONCE = 12


class _BackedUp(Struct, frozen=True, array_like=True):
    handle: bytes
    request_id: bytes
    high: int
    low: int
    peer: bytes
    cold_index: int
    setup: bytes | None


class _Contents(Struct, frozen=True, array_like=True):
    next_cold: int
    channels: tuple[_BackedUp, ...]
    node_part: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Contents).decode
_decode_setup = msgspec.msgpack.Decoder(SetupChannel).decode
_LOST = header_bytes(ChannelState({}, {}, {}, frozen=STALE))
"""The header of a channel whose set-up may have been lost: with one and without the other it begins as stale."""
_ROWS = "SELECT handle, request_id, high, low, peer, cold_index, setup FROM channel ORDER BY id"


def seal(storage: Storage, books: Books, keys: NodeKeys, node_part: bytes) -> BackupSealed:
    """Of every channel that was drawn: a forgotten index could be drawn again."""
    counter = storage.counter(COUNTER) + 1
    channels = tuple(_BackedUp(*row) for row in storage.all(_ROWS))
    plain = _encode(_Contents(storage.counter("cold"), channels, node_part))
    header = MAGIC + counter.to_bytes(8, "big")
    nonce = secrets.token_bytes(_NONCE)
    blob = header + nonce + ChaCha20Poly1305(keys.backup_secret.reveal()).encrypt(nonce, plain, header)
    books.write(db.SET_COUNTER, (COUNTER, counter))
    return BackupSealed(counter, blob)


def _read(keys: NodeKeys, blob: bytes) -> tuple[int, _Contents]:
    readable(blob.startswith(MAGIC) and len(blob) > _HEADER + _NONCE, "it does not begin as a backup does")
    header, nonce = blob[:_HEADER], blob[_HEADER : _HEADER + _NONCE]
    plain = b""
    try:
        plain = ChaCha20Poly1305(keys.backup_secret.reveal()).decrypt(nonce, blob[_HEADER + _NONCE :], header)
    except InvalidTag:
        readable(False, "it was sealed by another seed, or it is damaged")
    return int.from_bytes(header[len(MAGIC) :], "big"), _decode(plain)


def open_backup(
    storage: Storage, keys: NodeKeys, channels: dict[bytes, Channel], blob: bytes
) -> BackupOpened:
    counter, contents = _read(keys, blob)
    listed = tuple(
        BackedUpChannel(entry.handle, entry.peer, entry.setup is not None, entry.handle in channels)
        for entry in contents.channels
    )
    return BackupOpened(counter, storage.counter(COUNTER), listed, contents.node_part)


def restore(
    storage: Storage,
    books: Books,
    keys: NodeKeys,
    channels: dict[bytes, Channel],
    blob: bytes,
    becomes: Callable[[Channel, ChannelState], None],
) -> tuple[bytes, ...]:
    """Channels that are known keep the state that they have, if the backup is not from later than this database.
    Repeating it is harmless."""
    counter, contents = _read(keys, blob)
    if counter > storage.counter(COUNTER):
        # This signer sealed it, and has forgotten that: what it knows of its channels may be as old.
        for channel in channels.values():
            if channel.state is not None:
                becomes(channel, stale(channel.state))
            else:
                channel.restored = True
                books.write(db.SET_UP_CHANNEL, (None, _LOST, channel.handle))
    added: list[Channel] = []
    for entry in contents.channels:
        if entry.handle in channels:
            continue
        channel = Channel(entry.handle, keys.channel(entry.high, entry.low), entry.peer, entry.cold_index)
        row: Row = (
            entry.handle,
            entry.request_id,
            entry.high,
            entry.low,
            entry.peer,
            entry.cold_index,
        )
        books.write(db.INSERT_CHANNEL, row)
        if entry.setup is not None:
            setup = _decode_setup(entry.setup)
            state = replace(first_state(setup.counterparty_first_point), frozen=STALE)
            channel.set_up(setup, state)
            channel.durable = state
            books.write(db.SET_UP_CHANNEL, (entry.setup, header_bytes(state), entry.handle))
        else:
            # It may have been set up and used after this backup.
            channel.restored = True
            books.write(db.SET_UP_CHANNEL, (None, _LOST, entry.handle))
        added.append(channel)
    books.adopt_cold(contents.next_cold)
    if counter > storage.counter(COUNTER):
        books.write(db.SET_COUNTER, (COUNTER, counter))
    books.keep()
    for channel in added:
        channels[channel.handle] = channel
    return tuple(channel.handle for channel in added)


def holder_point(channel: Channel, state: ChannelState, number: int) -> bytes:
    """To find our delayed output in a commitment whose state was lost. The secret behind it stays here."""
    rules.holder_point(state.frozen, number)
    return channel.point(number)


def stale(state: ChannelState) -> ChannelState:
    """One that published our commitment stays as it is: what is in the chain is followed to its end."""
    return state if state.frozen in ("force_close", STALE) else replace(state, frozen=STALE)
