"""Reading what bitcoind answers (Bitcoin Core's RPC reference): JSON of unknown shape, and what its errors mean."""

from typing import Any

from node.chain.backend import BackendUnusable
from node.chain.json_rpc import RpcError
from protocol.bitcoin.transaction import parse_txid

METHOD_NOT_FOUND = -32601


def is_missing(error: RpcError) -> bool:
    return error.code == METHOD_NOT_FOUND or "unimplemented" in error.message


def package_refusal(answer: Any, child: str) -> tuple[str, list[str]]:
    """What submitpackage has against the child, empty if nothing, and what it has against the others."""
    message, rows = field(answer, "package_msg", str), field(answer, "tx-results", dict)
    errors = {
        row.get("txid"): row["error"]
        for row in rows.values()
        if isinstance(row, dict) and isinstance(row.get("error"), str)
    }
    if message == "success" or (
        child not in errors and any(row.get("txid") == child for row in rows.values())
    ):
        return "", []
    others = [error for txid, error in errors.items() if txid != child]
    said = [f"parent: {error}" for error in others] + ([errors[child]] if child in errors else [])
    return f"{message}: {'; '.join(said)}" if said else message, others


def nonsense(what: str) -> BackendUnusable:
    return BackendUnusable(
        f"bitcoind answers {what} in a form that we do not know. Check its version (24 or newer)."
    )


def field(answer: Any, name: str, kind: type | tuple[type, ...]) -> Any:
    value = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(value, kind):
        raise nonsense(name)
    return value


def hash_of(text: Any) -> bytes:
    try:
        return parse_txid(text)
    except (ValueError, TypeError) as error:
        raise nonsense("a hash") from error


def bytes_of(text: Any) -> bytes:
    try:
        return bytes.fromhex(text)
    except (ValueError, TypeError) as error:
        raise nonsense("bytes") from error
