"""Keys of the gateway: its own CURVE pair, the clients that may connect, and pairing strings (ZeroMQ RFC 26).

A pairing string holds all that a client needs. It is a password: whoever has it can move the node's money,
within what the signer allows. The client's key is drawn for it, and taking the key off the list ends it.
"""

import os
from pathlib import Path

import zmq
from msgspec import Struct
from zmq.utils import z85

from protocol.errors import CommandRefused
from protocol.pairing import Pairing
from protocol.secret import Secret

KEY_FILE = "gateway.key"
CLIENTS_FILE = "gateway-clients"
LOCAL_FILE = "lnp-tui.pairing"
LOCAL_NAME = "this-machine"


class GatewayKey(Struct, frozen=True):
    """Both in Z85, 40 bytes."""

    public: bytes
    secret: Secret


def own_key(directory: Path) -> GatewayKey:
    """Drawn at the first use."""
    path = directory / KEY_FILE
    if not path.exists():
        public, secret = zmq.curve_keypair()
        _write(path, public + b"\n" + secret + b"\n")
    words = path.read_bytes().split()
    if len(words) != 2 or any(len(word) != 40 for word in words):
        raise CommandRefused(f"{path} is damaged", what_to_do="Remove it, start lnpd, and pair again.")
    return GatewayKey(words[0], Secret(words[1]))


def clients(directory: Path) -> dict[bytes, str]:
    """Public key to name. A line that cannot be read lets nobody in."""
    path = directory / CLIENTS_FILE
    found: dict[bytes, str] = {}
    if not path.exists():
        return found
    for line in path.read_text(errors="replace").splitlines():
        key, _, name = line.strip().partition(" ")
        if is_key(key):  # no other rule: a key may begin with any sign of Z85, two slashes among them
            found[key.encode()] = name
    return found


def add_client(directory: Path, key: bytes, name: str) -> None:
    if not is_key(key.decode("ascii", "replace")):
        raise CommandRefused(
            "a client key has 40 characters", what_to_do="Copy it from the output of `lnp-tui --show-key`."
        )
    known = clients(directory)
    known[key] = " ".join(name.split()) or "unnamed"
    _write_clients(directory, known)


def remove_client(directory: Path, name: str) -> int:
    """How many were taken off."""
    known = clients(directory)
    kept = {key: other for key, other in known.items() if other != name}
    if len(kept) != len(known):
        _write_clients(directory, kept)
    return len(known) - len(kept)


def pair(directory: Path, endpoint: str, network: str, name: str) -> Pairing:
    """A client that is let in from now on, its secret key in the pairing and nowhere else."""
    public, secret = zmq.curve_keypair()
    add_client(directory, public, name)
    return Pairing(endpoint, own_key(directory).public.decode(), public.decode(), secret.decode(), network)


def keep_local(directory: Path, endpoint: str, network: str) -> Path:
    """Lets our own user in on this machine, as the RPC socket does: whoever can read this directory is us."""
    path = directory / LOCAL_FILE
    try:
        kept = Pairing.read(path.read_text())
        if (
            kept.endpoint == endpoint
            and kept.client_public.encode() in clients(directory)
            and kept.server_key.encode() == own_key(directory).public
        ):
            return path
    except (OSError, CommandRefused):
        pass  # there is none that can be used
    remove_client(directory, LOCAL_NAME)
    _write(path, pair(directory, endpoint, network, LOCAL_NAME).text().encode() + b"\n")
    return path


def is_key(text: str) -> bool:
    try:
        return len(text) == 40 and len(z85.decode(text.encode())) == 32
    except (KeyError, ValueError, UnicodeEncodeError):
        return False


def _write_clients(directory: Path, known: dict[bytes, str]) -> None:
    lines = ["// Programs that may connect to the gateway: key, name. `lnpd pair-tui` adds one."]
    lines += [f"{key.decode()} {name}" for key, name in known.items()]
    _write(directory / CLIENTS_FILE, "\n".join(lines).encode() + b"\n")


def _write(path: Path, content: bytes) -> None:
    part = path.with_name(f"{path.name}.part")
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
