"""The key of our onion address, kept so that the address stays. It can spend nothing (docs/threat-model.md)."""

import base64
import binascii
import os
from pathlib import Path

from protocol.secret import Secret
from transports.tor.control import ControlFailed

FILE = "onion.key"
_KIND = b"ED25519-V3:"


def load(directory: Path) -> Secret | None:
    """None when there is none yet. A damaged file is not replaced: peers know the address that it stands for."""
    path = directory / FILE
    try:
        text = path.read_bytes().strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ControlFailed(
            f"the key of our onion address, {path}, cannot be read: {error.strerror}"
        ) from error
    try:
        whole = text.startswith(_KIND) and len(base64.b64decode(text[len(_KIND) :], validate=True)) == 64
    except binascii.Error:
        whole = False
    if not whole:
        raise ControlFailed(
            f"the key of our onion address, {path}, is damaged. Bring it back from a copy; or remove it, and "
            "the node gets a new address"
        )
    return Secret(text)


def save(directory: Path, key: Secret) -> None:
    """Readable by us alone, and on the disk before the address is told to anyone."""
    part = directory / f"{FILE}.part"
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(key.reveal() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    part.replace(directory / FILE)
