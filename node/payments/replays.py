"""Onions that came before (BOLT 4, "Onion Decryption"; checklist 32): each ephemeral key may come with one HTLC only.

A key is kept until the HTLC that it came with has expired. A copy that comes later fails by its own expiry.
"""

Key = tuple[bytes, int]
"""Channel and id of the incoming HTLC."""


class Replays:
    def __init__(self) -> None:
        self._keys: dict[bytes, tuple[Key, int]] = {}

    def add(self, onion_key: bytes, htlc: Key, expiry: int) -> None:
        if onion_key:
            self._keys.setdefault(onion_key, (htlc, expiry))

    def is_replay(self, onion_key: bytes, htlc: Key) -> bool:
        """The same HTLC said again, after a restart, is none."""
        found = self._keys.get(onion_key)
        return found is not None and found[0] != htlc

    def forget(self, height: int) -> None:
        for key in [key for key, (_, expiry) in self._keys.items() if expiry <= height]:
            del self._keys[key]
