"""connect, disconnect, listpeers."""

from typing import Any

from node.rpc.errors import Code, RpcError, invalid_params
from node.rpc.methods import ask
from node.rpc.params import REQUIRED, Arguments, Param, boolean, ignored, integer, node_id, text
from node.rpc.table import Context, Method, Result
from protocol.bus.bus import OutcomeUnknown
from protocol.bus.messages.peer import Connect, Disconnect, PeerInfo
from protocol.errors import CommandRefused

DEFAULT_PORT = 9735
CONNECT_SECONDS = 300.0
"""Longer than any road waits for a link and its handshake: the peer service gives up first, and says why."""
_CONNECT_CODES = (
    Code.CONNECT_NO_ADDRESS,
    Code.CONNECT_FAILED,
    Code.CONNECT_DISCONNECTED,
    Code.INVALID_PARAMS,
)


async def connect(context: Context, arguments: Arguments) -> Result:
    peer, host, port = _target(arguments["id"], arguments["host"], arguments["port"])
    address = None if host is None else _join(host, port or DEFAULT_PORT)
    try:
        info: PeerInfo = await context.bus.request("peer", Connect(peer, address), deadline=CONNECT_SECONDS)
    except CommandRefused as error:
        # Clients tell "no address" and "cannot be reached" apart by these numbers.
        code = error.code if error.code in _CONNECT_CODES else Code.CONNECT_FAILED
        raise RpcError(code, str(error)) from error
    except OutcomeUnknown as error:
        message = f"{peer.hex()} did not answer within {CONNECT_SECONDS:g} seconds; check the address"
        raise RpcError(Code.CONNECT_FAILED, message) from error
    return {
        "id": info.node_id.hex(),
        "features": info.features.hex(),
        "direction": "out" if info.outbound else "in",
        "address": address_object(info.address),
    }


async def disconnect(context: Context, arguments: Arguments) -> Result:
    await context.bus.request("peer", Disconnect(arguments["id"], arguments["force"]))
    return {}


async def listpeers(context: Context, arguments: Arguments) -> Result:
    found = await ask.peers(context, arguments["id"])
    counts: dict[bytes, int] = {}
    for channel in await ask.channels(context, arguments["id"]):
        counts[channel.peer] = counts.get(channel.peer, 0) + 1
    return {"peers": [_peer(info, counts.get(info.node_id, 0)) for info in found]}


def _peer(info: PeerInfo, num_channels: int) -> dict[str, Any]:
    peer: dict[str, Any] = {
        "id": info.node_id.hex(),
        "connected": info.connected,
        "num_channels": num_channels,
    }
    if info.connected:
        peer["netaddr"] = [info.address]
        peer["features"] = info.features.hex()
        peer["road"] = info.road
    return peer


def address_object(address: str) -> dict[str, Any]:
    """`host:port` as the dialect spells an address."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if host.endswith(".onion"):
        kind = "torv3"
    elif ":" in host:
        kind = "ipv6"
    elif host.replace(".", "").isdigit():
        kind = "ipv4"
    else:
        kind = "dns"
    return {"type": kind, "address": host, "port": int(port) if port.isdigit() else 0}


def _target(peer: str, host: str | None, port: int | None) -> tuple[bytes, str | None, int | None]:
    """`id`, `id@host`, `id@host:port`, or the three apart."""
    peer, at, rest = peer.partition("@")
    if at:
        if host is not None:
            raise invalid_params("host: should be left out when id is of the form id@host:port")
        host = rest
    if host is not None and port is None:
        host, port = _split_port(host)
    if at and not host:
        raise invalid_params("id: the host after the @ is missing")
    try:
        return node_id(peer), host, port
    except ValueError as error:
        raise invalid_params(f"id: {error}, not {peer[:80]!r}") from error


def _split_port(host: str) -> tuple[str, int | None]:
    """A bare IPv6 address has colons and no port."""
    head, colon, tail = host.rpartition(":")
    if not colon or (":" in head and not head.endswith("]")):
        return host.strip("[]"), None
    if not tail.isdigit() or not 0 < int(tail) < 65536:
        raise invalid_params(f"port: should be a whole number from 1 to 65535, not {tail[:80]!r}")
    return head.strip("[]"), int(tail)


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


METHODS = (
    Method(
        "connect",
        (Param("id", text, REQUIRED), Param("host", text, None), Param("port", integer(1, 65535), None)),
        connect,
        "Connect to a node: id@host:port, or id, host and port.",
        "network",
    ),
    Method(
        "disconnect",
        (Param("id", node_id, REQUIRED), Param("force", boolean, False)),
        disconnect,
        "Hang up on a peer; with force even if there is a channel.",
        "network",
    ),
    Method(
        "listpeers",
        (Param("id", node_id, None), Param("level", ignored, None)),
        listpeers,
        "The peers that are connected or have a channel with us.",
        "network",
    ),
)
