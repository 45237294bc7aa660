"""The seed at rest: scrypt and ChaCha20-Poly1305 in one file of mode 0600 (RFC 7914, RFC 8439).

What is inside the seal is either the words of a BIP 39 mnemonic or an extended private key, and the secret half of
the CURVE key pair of the link. The network stands outside and is authenticated, so that a file cannot be moved to
another one.
"""

import hashlib
import os
import secrets
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from msgspec import Struct

from protocol.errors import CommandRefused
from protocol.secret import Secret

FILE_NAME = "keystore"
SCRYPT_COST = 1 << 15
_FORMAT = 1
_COSTS = frozenset(1 << power for power in range(1, 17))
"""scrypt takes powers of two only."""
_SCRYPT_MEMORY = 1 << 27


class Contents(Struct, frozen=True):
    """What is sealed. Exactly one of `mnemonic` and `xprv` is not empty."""

    mnemonic: Secret
    xprv: Secret
    curve_secret: Secret


class _Sealed(Struct, frozen=True):
    mnemonic: bytes
    xprv: bytes
    curve_secret: bytes


class _File(Struct, frozen=True):
    format: int
    network: str
    scrypt_cost: int
    salt: bytes
    nonce: bytes
    sealed: bytes


_encode = msgspec.msgpack.Encoder().encode


def _key(passphrase: Secret, salt: bytes, cost: int) -> bytes:
    return hashlib.scrypt(passphrase.reveal(), salt=salt, n=cost, r=8, p=1, maxmem=_SCRYPT_MEMORY, dklen=32)


def _header(network: str, cost: int) -> bytes:
    return f"lnp-signer keystore {_FORMAT} {network} {cost}".encode()


def exists(datadir: Path) -> bool:
    return (datadir / FILE_NAME).exists()


def make_private(datadir: Path) -> None:
    """The directory, readable by nobody else."""
    datadir.mkdir(parents=True, exist_ok=True, mode=0o700)
    datadir.chmod(0o700)


def seal(
    datadir: Path, network: str, contents: Contents, passphrase: Secret, *, scrypt_cost: int = SCRYPT_COST
) -> None:
    """Writes the keystore; never over another one, since that could be the only copy of a seed."""
    make_private(datadir)
    salt, nonce = secrets.token_bytes(16), secrets.token_bytes(12)
    key = _key(passphrase, salt, scrypt_cost)
    plain = _Sealed(contents.mnemonic.reveal(), contents.xprv.reveal(), contents.curve_secret.reveal())
    sealed = ChaCha20Poly1305(key).encrypt(nonce, _encode(plain), _header(network, scrypt_cost))
    try:
        handle = os.open(datadir / FILE_NAME, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise CommandRefused(
            f"{datadir} holds a keystore already",
            what_to_do="Choose another --datadir, or move the old one away after you have its words on paper.",
        ) from None
    with os.fdopen(handle, "wb") as file:
        file.write(_encode(_File(_FORMAT, network, scrypt_cost, salt, nonce, sealed)))
        file.flush()
        os.fsync(file.fileno())
    directory = os.open(datadir, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


def network_of(datadir: Path) -> str:
    return _read(datadir).network


def _read(datadir: Path) -> _File:
    try:
        raw = (datadir / FILE_NAME).read_bytes()
    except FileNotFoundError:
        raise CommandRefused(
            f"there is no keystore in {datadir}",
            what_to_do="Run `lnp-signer init` first, or check --datadir.",
        ) from None
    try:
        file = msgspec.msgpack.decode(raw, type=_File)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise _damaged(datadir) from None
    # The cost stands outside the seal: a bound, so that a changed file cannot eat all memory.
    if file.format != _FORMAT or file.scrypt_cost not in _COSTS or len(file.nonce) != 12:
        raise _damaged(datadir)
    return file


def _damaged(datadir: Path) -> CommandRefused:
    return CommandRefused(
        f"the keystore in {datadir} is damaged, or of another version of this program",
        what_to_do="Restore it from a backup, or from the words with `lnp-signer init --restore`.",
    )


def unlock(datadir: Path, passphrase: Secret) -> tuple[str, Contents]:
    """The network and the contents. Raises CommandRefused for a wrong passphrase."""
    file = _read(datadir)
    key = _key(passphrase, file.salt, file.scrypt_cost)
    try:
        opened = ChaCha20Poly1305(key).decrypt(
            file.nonce, file.sealed, _header(file.network, file.scrypt_cost)
        )
    except InvalidTag:
        raise CommandRefused(
            "this passphrase does not open the keystore",
            what_to_do="Type it again; if it is lost, restore from the words with `lnp-signer init --restore`.",
        ) from None
    plain = msgspec.msgpack.decode(opened, type=_Sealed)
    return file.network, Contents(Secret(plain.mnemonic), Secret(plain.xprv), Secret(plain.curve_secret))
