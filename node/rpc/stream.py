"""Cutting a byte stream into JSON objects that follow each other with nothing between (JSON-RPC 2.0 over a socket).

Only the borders are found here; whether an object is good JSON is for the decoder. Each byte is looked at once,
however the stream is cut into pieces.
"""

import re

MAX_REQUEST = 1_000_000
_OUTSIDE = re.compile(rb'["{}\[\]]')
_INSIDE = re.compile(rb'["\\]')
_SPACE = b" \t\r\n"


class NotJson(Exception):
    """The stream does not go on with an object: what follows cannot be told apart any more."""


class TooLarge(Exception):
    """A request longer than `MAX_REQUEST`."""


class JsonStream:
    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0
        self._depth = 0
        self._in_string = False

    def feed(self, data: bytes) -> list[bytes]:
        """The objects that are complete now."""
        self._buffer += data
        found = []
        while self._scan():
            found.append(bytes(self._buffer[: self._at]))
            if self._at > MAX_REQUEST:
                raise TooLarge
            del self._buffer[: self._at]
            self._at = 0
        if len(self._buffer) > MAX_REQUEST:
            raise TooLarge
        return found

    def _scan(self) -> bool:
        """Whether an object ends at `_at`."""
        buffer = self._buffer
        if self._depth == 0:
            stripped = len(buffer) - len(buffer.lstrip(_SPACE))
            del buffer[:stripped]
            if not buffer:
                return False
            if buffer[0] != ord("{"):
                raise NotJson
        while True:
            found = (_INSIDE if self._in_string else _OUTSIDE).search(buffer, self._at)
            if found is None:
                self._at = len(buffer)
                return False
            character = found[0]
            if character == b"\\":
                if found.end() == len(buffer):
                    self._at = found.start()  # what is escaped has not come yet
                    return False
                self._at = found.end() + 1
                continue
            self._at = found.end()
            if character == b'"':
                self._in_string = not self._in_string
            elif character in b"{[":
                self._depth += 1
            else:
                self._depth -= 1
                if self._depth == 0:
                    return True
