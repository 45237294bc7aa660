"""Script building blocks: opcodes, pushes, numbers, standard output forms (BIP 16, 141, 341)."""

from protocol.hashes import hash160, sha256

OP_0 = 0x00
OP_PUSHDATA1 = 0x4C
OP_1NEGATE = 0x4F
OP_1 = 0x51
OP_2 = 0x52
OP_16 = 0x60
OP_IF = 0x63
OP_NOTIF = 0x64
OP_ELSE = 0x67
OP_ENDIF = 0x68
OP_RETURN = 0x6A
OP_DROP = 0x75
OP_DUP = 0x76
OP_IFDUP = 0x73
OP_SWAP = 0x7C
OP_SIZE = 0x82
OP_EQUAL = 0x87
OP_EQUALVERIFY = 0x88
OP_HASH160 = 0xA9
OP_CHECKSIG = 0xAC
OP_CHECKSIGVERIFY = 0xAD
OP_CHECKMULTISIG = 0xAE
OP_CHECKLOCKTIMEVERIFY = 0xB1
OP_CHECKSEQUENCEVERIFY = 0xB2


def push(data: bytes) -> bytes:
    """A data push in its shortest form, small numbers aside (use `number` for those)."""
    size = len(data)
    if size < OP_PUSHDATA1:
        return bytes((size,)) + data
    if size <= 0xFF:
        return bytes((OP_PUSHDATA1, size)) + data
    return b"\x4d" + size.to_bytes(2, "little") + data


def number(value: int) -> bytes:
    """The shortest push of a non-negative number."""
    if value == 0:
        return b"\x00"
    if value <= 16:
        return bytes((OP_1 + value - 1,))
    return push(value.to_bytes(value.bit_length() // 8 + 1, "little"))


def script(*items: int | bytes) -> bytes:
    """Opcodes as integers, data as bytes; `number(...)` results go in through `raw` concatenation."""
    return b"".join(bytes((item,)) if isinstance(item, int) else push(item) for item in items)


def p2wpkh(public_key: bytes) -> bytes:
    return b"\x00\x14" + hash160(public_key)


def p2wsh(witness_script: bytes) -> bytes:
    return b"\x00\x20" + sha256(witness_script)


def p2tr(output_key: bytes) -> bytes:
    """`output_key`: 32 bytes, already tweaked."""
    return b"\x51\x20" + output_key


def p2pkh(public_key: bytes) -> bytes:
    return script(OP_DUP, OP_HASH160, hash160(public_key), OP_EQUALVERIFY, OP_CHECKSIG)


def witness_program(script_pubkey: bytes) -> tuple[int, bytes] | None:
    """Version and program of a segwit output, else None (BIP 141, "Witness program")."""
    if not 4 <= len(script_pubkey) <= 42 or script_pubkey[1] != len(script_pubkey) - 2:
        return None
    if script_pubkey[0] == OP_0:
        return 0, script_pubkey[2:]
    if OP_1 <= script_pubkey[0] <= OP_16:
        return script_pubkey[0] - OP_1 + 1, script_pubkey[2:]
    return None
