"""BigSize, the variable-length integer of TLV streams (BOLT 1, "Appendix A: BigSize Test Vectors")."""

from protocol.errors import MalformedMessage

LARGEST = 0xFFFF_FFFF_FFFF_FFFF


def write_bigsize(value: int) -> bytes:
    if value < 0 or value > LARGEST:
        raise ValueError(f"{value} does not fit into a bigsize")
    if value < 0xFD:
        return bytes((value,))
    if value <= 0xFFFF:
        return b"\xfd" + value.to_bytes(2, "big")
    if value <= 0xFFFF_FFFF:
        return b"\xfe" + value.to_bytes(4, "big")
    return b"\xff" + value.to_bytes(8, "big")


def read_bigsize(data: bytes, pos: int, end: int) -> tuple[int, int]:
    """The integer at `pos` and the position after it; `end` is where the readable bytes stop."""
    if pos >= end:
        raise MalformedMessage("the bytes end where a bigsize should begin")
    first = data[pos]
    if first < 0xFD:
        return first, pos + 1
    size = 2 << (first - 0xFD)
    stop = pos + 1 + size
    if stop > end:
        raise MalformedMessage("the bytes end inside a bigsize")
    value = int.from_bytes(data[pos + 1 : stop], "big")
    # The smallest value that needs this many bytes; anything below has a shorter form.
    if value < (0xFD if size == 2 else 1 << 4 * size):
        raise MalformedMessage(f"the bigsize {value} is not in its shortest form")
    return value, stop
