"""Large results are encoded in pieces, to the same bytes, while the loop goes on."""

import asyncio
from typing import Any

import msgspec
import pytest

from node.rpc import encode as module
from node.rpc.encode import LARGE, PIECE, encode


@pytest.mark.parametrize(
    "result",
    [
        {"channels": [{"n": n, "text": 'ä"x'} for n in range(LARGE + 1)]},
        {"first": 1, "list": list(range(LARGE * 2)), "empty": [], "last": {"a": [None, True]}},
        {"list": list(range(PIECE * 5)), "text": "x"},
        {},
        [1, 2],
        "text",
    ],
)
async def test_pieces_make_the_same_bytes_as_one_go(result: Any) -> None:
    assert await encode(result) == msgspec.json.encode(result)


async def test_a_large_result_is_encoded_in_a_thread_and_a_small_one_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads = []
    to_thread = asyncio.to_thread

    async def noted(*work: Any) -> Any:
        threads.append(work[0])
        return await to_thread(*work)

    monkeypatch.setattr(asyncio, "to_thread", noted)
    await encode({"channels": list(range(LARGE))})
    assert threads == []
    await encode({"channels": list(range(LARGE + 1))})
    assert threads == [module._in_pieces]
