"""The scripts of the watch-only account, and how far ahead of the used ones we look (BIP 44, "Address gap limit").

Branches of m/9735'/chain'/2': 0 receive, 1 change, 2 cold (where closes and sweeps pay to), 3 fee reserve.
"""

from collections.abc import Iterable

from protocol.bitcoin.descriptor import KeyOrigin, WpkhDescriptor
from protocol.bitcoin.keys import ExtendedKey
from protocol.bitcoin.network import Network
from protocol.bitcoin.script import p2wpkh

RECEIVE, CHANGE, COLD, RESERVE = 0, 1, 2, 3
GAP = {RECEIVE: 20, CHANGE: 20, COLD: 200, RESERVE: 20}
"""The signer draws a cold index for every channel and sweep, and many are never paid to. So the cold branch is
watched further ahead than the wallets of others would."""


class Account:
    """All scripts that are watched, by what they are. Deriving one costs about 70 microseconds."""

    def __init__(self, xpub: str, origin: str, network: Network) -> None:
        self._descriptor = WpkhDescriptor(
            ExtendedKey.from_string(xpub, network), KeyOrigin.parse(origin) if origin else None
        )
        self._branches = {branch: self._descriptor.xpub.child(branch) for branch in GAP}
        self._scripts: dict[bytes, tuple[int, int]] = {}
        self._watched = dict.fromkeys(GAP, 0)
        self._used: dict[int, set[int]] = {branch: set() for branch in GAP}
        self._issued = dict.fromkeys(GAP, 0)
        self._rounds = 0
        self._new: list[bytes] = []
        for branch in GAP:
            self._look_ahead(branch)

    def place_of(self, script: bytes) -> tuple[int, int] | None:
        """Branch and index of a script of ours that is watched."""
        return self._scripts.get(script)

    def public_key(self, branch: int, index: int) -> bytes:
        return self._branches[branch].child(index).public_key()

    def script(self, branch: int, index: int) -> bytes:
        return p2wpkh(self.public_key(branch, index))

    def origin(self, branch: int, index: int) -> dict[bytes, KeyOrigin]:
        """The key of a script and where it comes from, as a PSBT tells it."""
        return {self.public_key(branch, index): self._descriptor.key_origin(branch, index)}

    def mark_used(self, branch: int, index: int) -> bool:
        """A coin was seen there. True when further scripts are watched from now on."""
        self._used[branch].add(index)
        return self._look_ahead(branch)

    def mark_issued(self, branch: int, index: int) -> None:
        """The address was given to somebody, so it is watched for ever."""
        self._issued[branch] = max(self._issued[branch], index + 1)
        self._look_ahead(branch)

    def take_new(self) -> list[bytes]:
        """Scripts that are watched since the last call: to be told to the chain service."""
        new, self._new = self._new, []
        return new

    def next_receive(self) -> int:
        """An index for a new address.

        After 20 that nobody has paid to, those come round again: a wallet that is restored from its seed alone
        stops looking there, and would miss what lies beyond.
        """
        used = max(self._used[RECEIVE], default=-1) + 1
        if self._issued[RECEIVE] - used < GAP[RECEIVE]:
            return max(self._issued[RECEIVE], used)
        self._rounds += 1
        return used + (self._rounds - 1) % GAP[RECEIVE]

    def next_free(self, branch: int, taken: Iterable[int] = ()) -> int:
        """The lowest index of the branch that no coin has used and no plan has taken."""
        occupied = self._used[branch].union(taken)
        index = 0
        while index in occupied:
            index += 1
        return index

    def _look_ahead(self, branch: int) -> bool:
        used = max(self._used[branch], default=-1) + 1
        until = max(used, self._issued[branch]) + GAP[branch]
        first = self._watched[branch]
        for index in range(first, until):
            script = self.script(branch, index)
            self._scripts[script] = (branch, index)
            self._new.append(script)
        self._watched[branch] = max(first, until)
        return until > first
