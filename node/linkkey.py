"""The node's own CURVE key pair for the signer link (ZeroMQ RFC 26): it opens the line, and can spend nothing."""

import os
from pathlib import Path

import zmq
from msgspec import Struct

from protocol.errors import CommandRefused
from protocol.secret import Secret

FILE = "signer-link.key"


class LinkKey(Struct, frozen=True):
    """Both in Z85, 40 bytes."""

    public: bytes
    secret: Secret

    @classmethod
    def load(cls, directory: Path) -> "LinkKey":
        path = directory / FILE
        try:
            words = path.read_bytes().split()
        except OSError as error:
            raise CommandRefused(
                f"the key of the signer link, {path}, cannot be read: {error.strerror}",
                what_to_do="Run `lnpd pair` for a new one, and do what that prints.",
            ) from error
        if len(words) != 2 or any(len(word) != 40 for word in words):
            raise CommandRefused(
                f"{path} is damaged",
                what_to_do="Remove it, run `lnpd pair` for a new one, and do what that prints.",
            )
        return cls(words[0], Secret(words[1]))

    @classmethod
    def make(cls, directory: Path) -> "LinkKey":
        """Draws a pair and keeps it, readable by us alone."""
        public, secret = zmq.curve_keypair()
        part = directory / f"{FILE}.part"
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(public + b"\n" + secret + b"\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(directory / FILE)
        return cls(public, Secret(secret))
