"""The checksum of a channel_update (BOLT 7, "The `query_channel_range` and `reply_channel_range` Messages"; CRC32C of
RFC 3720, appendix B.4): of everything but its signature and its timestamp."""

_POLYNOMIAL = 0x82F63B78
_TIMESTAMP = 2 + 64 + 32 + 8
"""Where the timestamp stands in a frame."""


def _row(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
    return value


_TABLE = tuple(_row(value) for value in range(256))


def crc32c(data: bytes) -> int:
    table, crc = _TABLE, 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def checksum_of_update(frame: bytes) -> int:
    """Of a whole channel_update, its type in front."""
    return crc32c(frame[66:_TIMESTAMP] + frame[_TIMESTAMP + 4 :])
