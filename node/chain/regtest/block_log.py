"""Every block that the kernel took, in a file of our own: the kernel writes its databases only when it closes,
so that a killed process would lose the chain since its start.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

_SIZE = struct.Struct("<I")


class BlockLog:
    """Appended to after each block; a record that a kill cut short is dropped at the next start."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._path.touch()
        self._end = self._find_end()
        self._file = path.open("r+b")
        self._file.truncate(self._end)
        self._file.seek(self._end)

    def _records(self) -> Iterator[tuple[bytes, int]]:
        """Each whole record, and where it ends."""
        end = 0
        with self._path.open("rb") as file:
            while len(head := file.read(_SIZE.size)) == _SIZE.size:
                (size,) = _SIZE.unpack(head)
                raw = file.read(size)
                if len(raw) < size:
                    return
                end += _SIZE.size + size
                yield raw, end

    def _find_end(self) -> int:
        return max((end for _, end in self._records()), default=0)

    def blocks(self) -> Iterator[bytes]:
        for raw, _ in self._records():
            yield raw

    def append(self, raw: bytes) -> None:
        self._file.write(_SIZE.pack(len(raw)) + raw)
        self._file.flush()

    def close(self) -> None:
        self._file.close()
