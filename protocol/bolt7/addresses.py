"""The address descriptors of a node_announcement (BOLT 7, "The `node_announcement` Message").

Descriptors stand in ascending order of their type, so what follows an unknown type is unknown as well. It stays in
the message, whose signature covers it.
"""

import base64
import hashlib
import ipaddress
import re
from typing import NamedTuple

from protocol.errors import MalformedMessage

IPV4, IPV6, TOR_V2, TOR_V3, DNS = 1, 2, 3, 4, 5
_HOST_BYTES = {IPV4: 4, IPV6: 16, TOR_V2: 10, TOR_V3: 35}
_ONION = ".onion"
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\Z")


class Address(NamedTuple):
    """`kind` is the type of the descriptor; `host` as people write it."""

    kind: int
    host: str
    port: int


class AddressList(NamedTuple):
    """`relayable`: whether the message that has this list may be passed on."""

    addresses: tuple[Address, ...]
    relayable: bool = True


def parse(data: bytes) -> AddressList:
    """Raises MalformedMessage when the bytes end inside a descriptor of a known type.

    Reading ends at the first unknown type. Tor v2 and port 0 are left out. After a second DNS name the rest is
    ignored and the message is not for others.
    """
    found: list[Address] = []
    pos, end, names = 0, len(data), 0
    while pos < end:
        kind = data[pos]
        pos += 1
        if kind == DNS:
            if pos == end:
                raise MalformedMessage("an address ends before the length of its host name")
            size = data[pos]
            pos += 1
        elif kind in _HOST_BYTES:
            size = _HOST_BYTES[kind]
        else:
            break
        stop = pos + size + 2
        if stop > end:
            raise MalformedMessage(f"an address of type {kind} has {end - pos} bytes, not {size + 2}")
        host, port = data[pos : pos + size], data[stop - 2] << 8 | data[stop - 1]
        pos = stop
        if kind == DNS:
            names += 1
            if names > 1:
                return AddressList(tuple(found), relayable=False)
        text = _text(kind, host)
        if text and port:
            found.append(Address(kind, text, port))
    return AddressList(tuple(found))


def _text(kind: int, host: bytes) -> str:
    """Empty for what we do not use."""
    if kind == IPV4:
        return str(ipaddress.IPv4Address(host))
    if kind == IPV6:
        return str(ipaddress.IPv6Address(host))
    if kind == TOR_V3:
        return base64.b32encode(host).decode().lower() + _ONION if _is_onion(host) else ""
    if kind == DNS and _is_name(host):
        return host.decode()
    return ""


def _is_onion(host: bytes) -> bool:
    return host[34] == 3 and host[32:34] == onion_checksum(host[:32])


def onion_checksum(public_key: bytes) -> bytes:
    return hashlib.sha3_256(b".onion checksum" + public_key + b"\x03").digest()[:2]


def _is_name(host: bytes) -> bool:
    """A host name as the DNS allows it: what is shown to people and dialled must be nothing else."""
    labels = host.decode("ascii", "replace").removesuffix(".").split(".")
    return all(_LABEL.match(label) for label in labels)


def of_host(host: str, port: int) -> Address:
    """From what stands in a config. Raises ValueError with what is wrong."""
    if not 1 <= port <= 0xFFFF:
        raise ValueError(f"port {port} cannot be announced")
    if host.endswith(_ONION):
        try:
            raw = base64.b32decode(host.removesuffix(_ONION).upper())
        except ValueError as error:
            raise ValueError(f"{host} is not an onion address of version 3") from error
        if len(raw) != 35 or not _is_onion(raw):
            raise ValueError(f"{host} is not an onion address of version 3")
        return Address(TOR_V3, host, port)
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        if not host.isascii() or not 1 <= len(host) <= 255 or not _is_name(host.encode()):
            raise ValueError(f"{host!r} is neither an address nor a host name in ASCII") from None
        return Address(DNS, host, port)
    return Address(IPV4 if address.version == 4 else IPV6, str(address), port)


def encode(addresses: tuple[Address, ...]) -> bytes:
    """Ascending, each once. Raises ValueError for more than one DNS name."""
    if sum(address.kind == DNS for address in addresses) > 1:
        raise ValueError("at most one DNS name may be announced")
    return b"".join(sorted(_descriptor(address) for address in set(addresses)))


def _descriptor(address: Address) -> bytes:
    kind, host, port = address
    if kind in (IPV4, IPV6):
        body = ipaddress.ip_address(host).packed
    elif kind == TOR_V3:
        body = base64.b32decode(host.removesuffix(_ONION).upper())
    elif kind == DNS:
        name = host.encode("ascii")
        body = bytes((len(name),)) + name
    else:
        raise ValueError(f"addresses of type {kind} are not announced")
    return bytes((kind,)) + body + port.to_bytes(2, "big")
