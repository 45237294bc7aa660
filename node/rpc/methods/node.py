"""getinfo, counters, signmessage, checkmessage, help, stop."""

import asyncio
from collections import Counter
from typing import Any

from node.rpc.errors import Code, RpcError, invalid_params
from node.rpc.methods import ask, why
from node.rpc.methods.peers import address_object
from node.rpc.params import REQUIRED, Arguments, Param, node_id, text
from node.rpc.table import Context, Method, Result
from protocol import messages_signing
from protocol.bolt9 import OUR_INVOICE, OUR_NODE
from protocol.bus.bus import OutcomeUnknown
from protocol.bus.messages.chain import ChainStatus, GetTip, Tip
from protocol.bus.messages.node import Counters, GetCounters
from protocol.bus.messages.payments import SignText
from protocol.bus.messages.peer import Road
from protocol.bus.messages.signer import MessageSigned
from protocol.errors import CommandRefused, MalformedMessage

_ACTIVE = frozenset({"CHANNELD_NORMAL"})
_PENDING = frozenset(
    {"OPENINGD", "CHANNELD_AWAITING_LOCKIN", "DUALOPEND_OPEN_INIT", "DUALOPEND_AWAITING_LOCKIN"}
)
_GONE = frozenset({"ONCHAIN", "CLOSED"})
_NETWORK_NAMES = {"mainnet": "bitcoin"}
_MAX_MESSAGE = 65_535
TIP_SECONDS = 2.0


async def getinfo(context: Context, _arguments: Arguments) -> Result:
    facts = context.facts
    tip = await _tip(context)
    peers = await ask.peers(context)
    roads = await ask.roads(context)
    states = Counter(_group(channel.state) for channel in await ask.channels(context))
    result: Result = {
        "id": facts.node_id.hex(),
        "alias": facts.alias,
        "color": facts.color.hex(),
        "num_peers": sum(peer.connected for peer in peers),
        "num_pending_channels": states["pending"],
        "num_active_channels": states["active"],
        "num_inactive_channels": states["inactive"],
        "address": [
            *(_address(host, port) for host, port in facts.addresses),
            *(address_object(address) for road in roads for address in road.addresses),
        ],
        "binding": [_address(host, port) for host, port in facts.binding],
        "roads": [_road(road) for road in roads],
        "version": facts.version,
        "blockheight": 0 if tip is None else tip.height,
        "network": _NETWORK_NAMES.get(facts.network.name, facts.network.name),
        "lightning-dir": facts.lightning_dir,
        "our_features": {
            "init": facts.features.hex(),
            "node": OUR_NODE.to_bytes().hex(),
            "channel": "",
            "invoice": OUR_INVOICE.to_bytes().hex(),
        },
    }
    fees = await ask.fees_collected(context)
    if fees is not None:
        result["fees_collected_msat"] = fees
    status = await ask.chain_status(context)
    if status is not None:
        result["chain"] = _chain(status)
    if tip is None or not tip.synced:
        result["warning_bitcoind_sync"] = "the chain backend is away or still behind: channels wait for it"
    warned = await why.warnings(context)
    if warned:
        result["warning_channels"] = [f"{one.sentence}. {one.what_to_do}" for one in warned]
    return result


def _chain(status: ChainStatus) -> dict[str, Any]:
    """What is empty is left out."""
    found = {
        "backend": status.backend,
        "synced": status.synced,
        "cannot": list(status.cannot),
        "away": status.away,
        "behind": status.behind,
    }
    return {key: value for key, value in found.items() if value not in ("", [])}


def _road(road: Road) -> dict[str, Any]:
    """What is empty is left out."""
    found = {"name": road.name, "state": road.state, "inbound": road.inbound, "what": road.sentence}
    return {key: value for key, value in found.items() if value}


async def _tip(context: Context) -> Tip | None:
    """None while the chain service knows no tip: `getinfo` answers from the first second."""
    try:
        tip: Tip = await context.bus.request("chain", GetTip(), deadline=TIP_SECONDS)
    except (CommandRefused, OutcomeUnknown):
        return None
    return tip


def _group(state: str) -> str:
    if state in _ACTIVE:
        return "active"
    if state in _PENDING:
        return "pending"
    return "gone" if state in _GONE else "inactive"


def _address(host: str, port: int) -> dict[str, Any]:
    return address_object(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


async def counters(context: Context, _arguments: Arguments) -> Result:
    found: Counters = await context.bus.request("channel", GetCounters())
    return {"durable_commits": found.durable_commits, "signer_requests": found.signer_requests}


async def signmessage(context: Context, arguments: Arguments) -> Result:
    signed: MessageSigned = await context.bus.request("payments", SignText(arguments["message"]))
    return {"signature": signed.signature.hex(), "recid": f"{signed.recovery_id:02x}", "zbase": signed.zbase}


async def checkmessage(context: Context, arguments: Arguments) -> Result:
    """Without `pubkey` a signature proves something only if we know the key: any text names *some* key."""
    try:
        signer = messages_signing.signer_of(arguments["message"].encode(), arguments["zbase"])
    except MalformedMessage as error:
        raise invalid_params(f"zbase: {error}") from error
    if signer is None:
        raise invalid_params("zbase: no key could have made this signature")
    if arguments["pubkey"] is not None:
        return {"verified": signer == arguments["pubkey"], "pubkey": signer.hex()}
    if signer == context.facts.node_id or await ask.peers(context, signer):
        return {"verified": True, "pubkey": signer.hex()}
    raise RpcError(
        Code.KEY_NOT_KNOWN,
        f"the message is signed by {signer.hex()}, which we do not know; give the pubkey that you expect",
        {"claimed_key": signer.hex()},
    )


async def help_(context: Context, arguments: Arguments) -> Result:
    name = arguments["command"]
    if name is not None and name not in context.methods:
        raise RpcError(Code.METHOD_NOT_FOUND, f"unknown command {name[:80]!r}: `help` lists all")
    methods = context.methods.values() if name is None else (context.methods[name],)
    return {
        "help": [
            {
                "command": method.usage,
                "category": method.category,
                "description": method.help,
                "verbose": f"{method.help} Usage: {method.usage}",
            }
            for method in methods
        ]
    }


async def stop(context: Context, _arguments: Arguments) -> Result:
    # After this turn of the loop: the reply is written by then.
    asyncio.get_running_loop().call_soon(context.stop)
    return {"result": "Shutdown complete"}


def _message(value: Any) -> str:
    value = text(value)
    if len(value.encode()) > _MAX_MESSAGE:
        raise ValueError(f"should be at most {_MAX_MESSAGE} bytes")
    return str(value)


METHODS = (
    Method("getinfo", (), getinfo, "Who we are, and how many peers and channels we have.", "utility"),
    Method(
        "signmessage",
        (Param("message", _message, REQUIRED),),
        signmessage,
        "Sign a text as this node.",
        "utility",
    ),
    Method(
        "checkmessage",
        (
            Param("message", _message, REQUIRED),
            Param("zbase", text, REQUIRED),
            Param("pubkey", node_id, None),
        ),
        checkmessage,
        "Check which node signed a text.",
        "utility",
    ),
    Method("counters", (), counters, "Durable commits and signer requests since the start.", "utility"),
    Method("help", (Param("command", text, None),), help_, "All commands, or one.", "utility"),
    Method("stop", (), stop, "Stop the node.", "utility", moves_money=True),
)
