"""Results as JSON. A list of 100,000 channels takes 200 ms to encode, so it is done in a thread and in pieces.

The encoder holds the interpreter until it is done: only between two pieces do others get their turn.
"""

import asyncio
from typing import Any

import msgspec

LARGE = 2_000
"""Items of a list from which it is worth a thread."""
PIECE = 500
"""About a millisecond."""


async def encode(result: Any) -> bytes:
    if not _is_large(result):
        return msgspec.json.encode(result)
    return await asyncio.to_thread(_in_pieces, result)


def _is_large(result: Any) -> bool:
    return isinstance(result, dict) and any(
        isinstance(value, list) and len(value) > LARGE for value in result.values()
    )


def _in_pieces(result: dict[str, Any]) -> bytes:
    """The same bytes as in one go."""
    encoded: list[bytes] = []
    for key, value in result.items():
        encoded.append(b"," if encoded else b"{")
        encoded += [msgspec.json.encode(key), b":"]
        if not isinstance(value, list):
            encoded.append(msgspec.json.encode(value))
            continue
        pieces = (msgspec.json.encode(value[at : at + PIECE])[1:-1] for at in range(0, len(value), PIECE))
        encoded += [b"[", b",".join(pieces), b"]"]
    encoded.append(b"}")
    return b"".join(encoded)
