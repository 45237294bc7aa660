"""Where the passphrase comes from: a file descriptor, a systemd credential, a file, or the terminal.

An unattended restart needs one of the first three; a passphrase is never an argument or an environment variable,
since both can be read by other processes.
"""

import getpass
import os
import sys
from pathlib import Path

from protocol.errors import CommandRefused
from protocol.secret import Secret

CREDENTIAL = "lnp-signer-passphrase"
_MOST = 4096


def read_fd(descriptor: int) -> Secret:
    """Everything up to the end, without the last newline."""
    parts = []
    try:
        while piece := os.read(descriptor, _MOST):
            parts.append(piece)
            if len(parts) > _MOST:
                break
    except OSError as error:
        raise CommandRefused(
            f"file descriptor {descriptor} cannot be read: {error.strerror}",
            what_to_do="Pass an open descriptor, such as `--passphrase-fd 3 3<file`.",
        ) from None
    return _without_newline(b"".join(parts))


def _without_newline(raw: bytes) -> Secret:
    return Secret(raw.removesuffix(b"\n").removesuffix(b"\r"))


def find(descriptor: int | None, file: Path | None) -> Secret:
    """To unlock a keystore that exists."""
    if descriptor is not None:
        return read_fd(descriptor)
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if file is None and directory is not None and (Path(directory) / CREDENTIAL).exists():
        file = Path(directory) / CREDENTIAL
    if file is not None:
        try:
            return _without_newline(file.read_bytes())
        except OSError as error:
            raise CommandRefused(
                f"the passphrase file cannot be read: {error.strerror}",
                what_to_do="Check its path and that this user may read it.",
            ) from None
    return _ask("Passphrase of the signer: ")


def choose(descriptor: int | None) -> Secret:
    """For a new keystore: typed twice, or read once from a descriptor."""
    if descriptor is not None:
        return read_fd(descriptor)
    first = _ask("New passphrase of the signer: ")
    if first != _ask("The same passphrase again: "):
        raise CommandRefused(
            "the two passphrases differ", what_to_do="Start again and type the same one twice."
        )
    return first


def _ask(prompt: str) -> Secret:
    if not sys.stdin.isatty():
        raise CommandRefused(
            "there is no terminal to ask for the passphrase",
            what_to_do="Use --passphrase-fd, --passphrase-file or a systemd credential.",
        )
    return Secret(getpass.getpass(prompt).encode())
