"""What one round of a channel costs with so many HTLCs in flight: CPU, and bytes for the database (issue "channel").

`python -m tests.bench.commitments`. Two machines, two real signers and a database in memory, in one process.
"""

import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from node.channel import store
from node.channel.events import Offer
from node.channel.state import OfferWant
from protocol.amounts import Msat
from tests.node.channel.pair import Pair, invoice, onion_for, open_channel

COUNTS = (1, 10, 100, 483)
AMOUNT = 5_000_000
"""Above dust, so that each HTLC has its own output and signature."""


def offers(pair: Pair, count: int) -> list[Offer]:
    """HTLCs that Bob can read and lets stand."""
    made = [invoice(pair.bob, AMOUNT) for _ in range(count)]
    return [
        Offer(
            OfferWant(
                Msat(AMOUNT),
                one.payment_hash,
                200,
                onion_for(pair.bob, one, AMOUNT, 200),
                os.urandom(6).hex(),
            )
        )
        for one in made
    ]


def size_of(unit: store.Unit) -> int:
    """The values of a unit's rows, in bytes as the database takes them."""
    return sum(_size(value) for _, rows in unit for row in rows for value in row)


def _size(value: object) -> int:
    match value:
        case bytes() | str():
            return len(value)
        case None:
            return 0
        case _:
            return 8


class Counted:
    """A pair in which `standing` HTLCs stand. From then on what Alice's channel saves is counted."""

    def __init__(self, folder: Path, standing: int) -> None:
        self.pair = Pair(folder)
        open_channel(self.pair, funding=16_000_000, push=0)
        if standing:
            self.pair.alice.do(*offers(self.pair, standing))
            self.pair.quiet()
        self.bytes = self.rows = 0
        write = self.pair.alice.database.write

        def counting(unit: store.Unit, *, now: bool) -> None:
            self.bytes += size_of(unit)
            self.rows += sum(len(rows) for _, rows in unit)
            write(unit, now=now)

        self.pair.alice.database.write = counting  # type: ignore[method-assign]

    def add(self, count: int) -> float:
        """From the offers to a quiet line; the CPU milliseconds of both ends."""
        wanted = offers(self.pair, count)
        began = time.process_time()
        self.pair.alice.do(*wanted)
        self.pair.quiet()
        return 1000 * (time.process_time() - began)


def rows(counts: Iterable[int] = COUNTS) -> list[tuple[str, float, str, str]]:
    """(what, value, unit, aim) for `make bench`."""
    found = []
    for count in counts:
        with tempfile.TemporaryDirectory() as name:
            world = Counted(Path(name), 0)
            spent = world.add(count)
            found.append((f"{count} HTLCs added at once, both ends, each", spent / count, "ms CPU", "linear"))
            found.append((f"saved by the payer for each of {count}", world.bytes / count, "B", "linear"))
    return found


if __name__ == "__main__":
    for what, value, unit, _ in rows():
        print(f"{what:50} {value:12.2f} {unit}")
