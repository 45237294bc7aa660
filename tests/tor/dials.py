"""Dials every kind of address by the transports that a config gives: `python -m tests.tor.dials TABLE ADDRESS…`."""

import asyncio
import json
import sys
import tempfile
from pathlib import Path

from node.peer import roads, transports
from protocol.transport import DialFailed
from tests.node.peer.test_roads import config


async def dial_all(table: dict[str, str], addresses: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        made = transports.load(roads.wanted(config("signet", tor=table)), Path(folder))
        for address in addresses:
            try:
                (await transports.dial(made, address, b"peer")).close()
            except (DialFailed, ValueError) as error:
                print(f"{address}: {error}")


if __name__ == "__main__":
    asyncio.run(dial_all(json.loads(sys.argv[1]), sys.argv[2:]))
