"""Which addresses Tor can reach, and how an onion address is built (Tor rend-spec-v3, "Encoding onion addresses")."""

import base64
import hashlib
import ipaddress

from protocol.transport import format_host_port, parse_host_port

_VERSION = b"\x03"
_LABEL = 56


def is_onion(host: str) -> bool:
    return host.rstrip(".").lower().endswith(".onion")


def onion_host(host: str) -> str:
    """The address in its one spelling. ValueError says what is wrong with it."""
    label = host.rstrip(".").lower().removesuffix(".onion")
    if len(label) == 16:
        raise ValueError(
            f"{host!r} is an onion address of version 2, which Tor has given up: ask for a new one"
        )
    if len(label) != _LABEL:
        raise ValueError(
            f"{host!r} is not an onion address: {_LABEL} characters stand before .onion, not {len(label)}"
        )
    try:
        raw = base64.b32decode(label.upper())
    except ValueError as error:
        raise ValueError(
            f"{host!r} is not an onion address: it has characters other than a-z and 2-7"
        ) from error
    key, checksum, version = raw[:32], raw[32:34], raw[34:]
    if version != _VERSION or checksum != hashlib.sha3_256(b".onion checksum" + key + version).digest()[:2]:
        raise ValueError(f"{host!r} is misspelled: its checksum is wrong")
    return f"{label}.onion"


def through_tor(address: str) -> tuple[str, int]:
    """Host and port for Tor. ValueError for what no Tor exit can reach."""
    host, port = parse_host_port(address)
    if is_onion(host):
        return onion_host(host), port
    try:
        place = ipaddress.ip_address(host)
    except ValueError:
        if not host.isascii() or len(host) > 253 or any(not 0 < len(part) < 64 for part in _labels(host)):
            raise ValueError(f"{address!r}: {host!r} is not a host name") from None
        if "." not in host or host.rstrip(".").lower().endswith(
            (".local", ".localhost", ".lan", ".internal")
        ):
            raise ValueError(
                f"{address!r} is in a local network, which Tor does not reach; it needs tor.clear = direct"
            ) from None
    else:
        if not place.is_global:
            raise ValueError(
                f"{address!r} is in a local network, which Tor does not reach; it needs tor.clear = direct"
            )
    return host, port


def _labels(host: str) -> list[str]:
    return host.removesuffix(".").split(".")


def loopback_endpoint(address: str, setting: str) -> tuple[str, int]:
    """`host:port` of a program of ours. A name would have to be resolved, so an IP address must stand there."""
    host, port = parse_host_port(address)
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise ValueError(
            f"{setting} is {address!r}: write an IP address, such as {format_host_port('127.0.0.1', port)}"
        ) from None
    return host, port
