"""Outputs of others of which only the spending matters, such as the funding outputs of public channels (BOLT 7).

There may be 50,000 of them: a key each and nothing else, some 8 MB (no I/O here).
"""

from collections.abc import Iterable, Iterator

from node.chain.blocks import Interest
from protocol.amounts import BlockHeight
from protocol.bus.messages.chain import OutpointsSpent, OutpointsUnspent
from protocol.errors import CommandRefused

OUTPOINT = 36
MOST = 250_000
"""As many as gossip takes channels."""
KEPT_BLOCKS = 144
"""As far as a reorganisation may reach."""


class Spends:
    """Fed with blocks in their order, and with old ones that are read again."""

    def __init__(self) -> None:
        self.wanted: set[bytes] = set()
        self._by_height: dict[int, dict[bytes, None]] = {}

    @property
    def interest(self) -> Interest:
        """Nothing but these."""
        return Interest(frozenset(), frozenset(), self.wanted)

    def watch(self, joined: bytes) -> None:
        new = set(_parts(joined)) - self.wanted
        if len(self.wanted) + len(new) > MOST:
            raise CommandRefused(
                f"no more than {MOST} outputs of others are watched",
                what_to_do="Look at the others by their place in the chain.",
            )
        self.wanted |= new

    def unwatch(self, joined: bytes) -> None:
        self.wanted.difference_update(_parts(joined))

    def connect(self, height: BlockHeight, spent: Iterable[bytes], tip: int) -> OutpointsSpent:
        outpoints = tuple(spent)
        if outpoints and height > tip - KEPT_BLOCKS:
            self._by_height.setdefault(height, {}).update(dict.fromkeys(outpoints))
        self._by_height.pop(tip - KEPT_BLOCKS, None)
        return OutpointsSpent(height, outpoints)

    def disconnect(self, height: BlockHeight) -> OutpointsUnspent | None:
        spent = self._by_height.pop(height, {})
        still = tuple(outpoint for outpoint in spent if outpoint in self.wanted)
        return OutpointsUnspent(height, still) if still else None


def _parts(joined: bytes) -> Iterator[bytes]:
    """Whole outpoints; a rest that is none is left out."""
    return (joined[at : at + OUTPOINT] for at in range(0, len(joined) - OUTPOINT + 1, OUTPOINT))
