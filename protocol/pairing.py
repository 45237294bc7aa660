"""A pairing string: where a node's gateway is and the keys to it, as one word to paste (DESIGN, "The outside face")."""

import base64

import msgspec
from msgspec import Struct

from protocol.errors import CommandRefused

PREFIX = "lnp-pair1:"


class Pairing(Struct, frozen=True):
    """Keys in Z85. `client_secret` is empty where the client has a key of its own."""

    endpoint: str
    server_key: str
    client_public: str
    client_secret: str
    network: str

    def text(self) -> str:
        raw = msgspec.msgpack.encode(msgspec.structs.astuple(self))
        return PREFIX + base64.urlsafe_b64encode(raw).decode().rstrip("=")

    def __repr__(self) -> str:
        return f"Pairing({self.endpoint!r}, {self.network!r})"

    @classmethod
    def read(cls, text: str) -> "Pairing":
        word = "".join(text.split())  # terminals break long lines
        try:
            if not word.startswith(PREFIX):
                raise ValueError("it does not begin as one")
            body = word.removeprefix(PREFIX)
            raw = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
            pairing = cls(*msgspec.msgpack.decode(raw, type=tuple[str, str, str, str, str]))
            if len(pairing.server_key) != 40:
                raise ValueError("its key is too short")
        except (ValueError, msgspec.DecodeError) as error:
            raise CommandRefused(
                f"this is no pairing string: {error}", what_to_do="Copy the whole line from `lnpd pair-tui`."
            ) from error
        return pairing
