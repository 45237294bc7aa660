"""Script rules that are policy and not consensus, for segwit version 0 inputs and key-hash inputs.

LOW_S, STRICTENC, NULLFAIL, MINIMALIF, MINIMALDATA, compressed keys only (BIP 62, 146, and BIP 141's policy).
The kernel has already found the spend valid, so this replays the script only to see how it was spent; it
knows the opcodes that Lightning and miniscript use, and says nothing about a script that holds others.
(Tapscript needs no such replay: BIP 342 made these rules consensus.)
"""

from collections.abc import Callable

from node.chain.regtest.policy import Rejected, pushes_of, script_type
from protocol import curve
from protocol.bitcoin import script as op
from protocol.bitcoin.sighash import segwit_v0
from protocol.bitcoin.transaction import Transaction, TxOut
from protocol.errors import MalformedMessage
from protocol.hashes import double_sha256, hash160, ripemd160, sha256

HALF_ORDER = curve.ORDER // 2
_HASHES: dict[int, Callable[[bytes], bytes]] = {
    0xA6: ripemd160,
    0xA8: sha256,
    0xA9: hash160,
    0xAA: double_sha256,
}


class _Unknown(Exception):
    """An opcode that this replay does not know, or a shape that only an unusual script has."""


def _refuse(why: str) -> Rejected:
    return Rejected(f"non-mandatory-script-verify-flag ({why})")


def check_scripts(tx: Transaction, spent: list[TxOut]) -> None:
    """Raises Rejected for an input that consensus allows and nodes do not relay."""
    for index, (coin, source) in enumerate(zip(spent, tx.inputs, strict=True)):
        program = coin.script_pubkey
        kind = script_type(program)
        if kind == "pubkeyhash":
            for item in pushes_of(source.script_sig) or []:
                if len(item) >= 9 and item[0] == 0x30:
                    check_signature_encoding(item)
            continue
        if kind == "scripthash" and source.script_sig:
            program = (pushes_of(source.script_sig) or [b""])[-1]
            kind = script_type(program)
        if kind == "witness_v0_keyhash" and len(source.witness) == 2:
            check_signature_encoding(source.witness[0])
            _check_key(source.witness[1])
        elif kind == "witness_v0_scripthash" and source.witness:
            try:
                _Replay(tx, index, coin.value, source.witness).run()
            except (_Unknown, IndexError):
                continue


def check_signature_encoding(signature: bytes) -> None:
    """An empty signature passes: it is the right way to fail (NULLFAIL)."""
    if not signature:
        return
    if signature[-1] & 0x7F not in (1, 2, 3):
        raise _refuse("Signature hash type missing or not understood")
    try:
        compact = curve.from_der(signature[:-1])
    except MalformedMessage:
        raise _refuse("Non-canonical DER signature") from None
    if int.from_bytes(compact[32:], "big") > HALF_ORDER:
        raise _refuse("Non-canonical signature: S value is unnecessarily high")


def _check_key(key: bytes) -> None:
    if len(key) != 33 or key[0] not in (2, 3):
        raise _refuse("Using non-compressed keys in segwit")


def _is_true(item: bytes) -> bool:
    return any(item[:-1]) or item[-1:] not in (b"", b"\0", b"\x80")


def _number(item: bytes) -> int:
    if not item:
        return 0
    magnitude = int.from_bytes(item[:-1] + bytes((item[-1] & 0x7F,)), "little")
    value = -magnitude if item[-1] & 0x80 else magnitude
    if _number_bytes(value) != item:
        raise _refuse("unknown error")  # Core's text for a number that is not minimally encoded
    return value


def _number_bytes(value: int) -> bytes:
    if value == 0:
        return b""
    size = abs(value).bit_length() // 8 + 1
    encoded = bytearray(abs(value).to_bytes(size, "little"))
    if value < 0:
        encoded[-1] |= 0x80
    return bytes(encoded)


def _parse(script: bytes) -> list[tuple[int, bytes | None]]:
    """Opcodes, each with the data that it pushes; an opcode that pushes has data, if only an empty one."""
    items: list[tuple[int, bytes | None]] = []
    at = 0
    while at < len(script):
        opcode, data = script[at], None
        at += 1
        if opcode <= 0x4E:
            size = opcode
            if opcode > 0x4B:
                width = (1, 2, 4)[opcode - 0x4C]
                size = int.from_bytes(script[at : at + width], "little")
                at += width
            data = script[at : at + size]
            at += size
            if at > len(script):
                raise _Unknown
        elif opcode == op.OP_1NEGATE:
            data = b"\x81"
        elif op.OP_1 <= opcode <= op.OP_16:
            data = bytes((opcode - op.OP_1 + 1,))
        items.append((opcode, data))
    return items


def _is_minimal_push(opcode: int, data: bytes) -> bool:
    if opcode > 0x4E:
        return True
    if len(data) == 1 and (1 <= data[0] <= 16 or data[0] == 0x81):
        return False
    return opcode == op.push(data)[0]


class _Replay:
    """One run of a witness script over its witness."""

    def __init__(self, tx: Transaction, index: int, amount: int, witness: tuple[bytes, ...]) -> None:
        self._tx, self._index, self._amount = tx, index, amount
        self._script = witness[-1]
        self._stack = list(witness[:-1])
        self._branches: list[bool] = []

    def run(self) -> None:
        for opcode, data in _parse(self._script):
            if opcode in (op.OP_IF, op.OP_NOTIF, op.OP_ELSE, op.OP_ENDIF):
                self._branch(opcode)
            elif not all(self._branches):
                continue
            elif data is not None:
                if not _is_minimal_push(opcode, data):
                    raise _refuse("Data push larger than necessary")
                self._stack.append(data)
            else:
                self._step(opcode)

    def _branch(self, opcode: int) -> None:
        if opcode == op.OP_ENDIF:
            self._branches.pop()
        elif opcode == op.OP_ELSE:
            self._branches[-1] = not self._branches[-1]
        elif not all(self._branches):
            self._branches.append(False)
        else:
            condition = self._stack.pop()
            if condition not in (b"", b"\x01"):
                raise _refuse("OP_IF/NOTIF argument must be minimal")
            self._branches.append((condition == b"\x01") is (opcode == op.OP_IF))

    def _step(self, opcode: int) -> None:
        stack = self._stack
        match opcode:
            case 0x61 | 0x69 | 0x88 | op.OP_CHECKLOCKTIMEVERIFY | op.OP_CHECKSEQUENCEVERIFY:
                # NOP, the lock times: nothing to do; VERIFY and EQUALVERIFY have passed already.
                del stack[len(stack) - {0x69: 1, 0x88: 2}.get(opcode, 0) :]
            case 0xB0 | 0xB3 | 0xB4 | 0xB5 | 0xB6 | 0xB7 | 0xB8 | 0xB9:
                raise _refuse("NOPx reserved for soft-fork upgrades")
            case op.OP_DROP:
                stack.pop()
            case op.OP_DUP:
                stack.append(stack[-1])
            case op.OP_IFDUP:
                if _is_true(stack[-1]):
                    stack.append(stack[-1])
            case op.OP_SWAP:
                stack[-1], stack[-2] = stack[-2], stack[-1]
            case op.OP_SIZE:
                stack.append(_number_bytes(len(stack[-1])))
            case op.OP_EQUAL:
                stack.append(b"\x01" if stack.pop() == stack.pop() else b"")
            case 0x93:  # OP_ADD
                stack.append(_number_bytes(_number(stack.pop()) + _number(stack.pop())))
            case 0x92:  # OP_0NOTEQUAL
                stack.append(b"\x01" if _number(stack.pop()) else b"")
            case 0x9A | 0x9B:  # OP_BOOLAND, OP_BOOLOR
                values = (_number(stack.pop()), _number(stack.pop()))
                stack.append(b"\x01" if (all(values) if opcode == 0x9A else any(values)) else b"")
            case 0xA6 | 0xA8 | 0xA9 | 0xAA:
                stack.append(_HASHES[opcode](stack.pop()))
            case op.OP_CHECKSIG | op.OP_CHECKSIGVERIFY:
                key, signature = stack.pop(), stack.pop()
                valid = self._signature_is_valid(signature, key)
                if signature and not valid:
                    raise _refuse("Signature must be zero for failed CHECK(MULTI)SIG operation")
                if opcode == op.OP_CHECKSIG:
                    stack.append(b"\x01" if valid else b"")
            case op.OP_CHECKMULTISIG | 0xAF:
                self._check_multisig(push_result=opcode == op.OP_CHECKMULTISIG)
            case _:
                raise _Unknown

    def _signature_is_valid(self, signature: bytes, key: bytes) -> bool:
        check_signature_encoding(signature)
        _check_key(key)
        if not signature:
            return False
        digest = segwit_v0(self._tx, self._index, self._script, self._amount, signature[-1])
        return curve.verify_ecdsa(key, digest, curve.from_der(signature[:-1]))

    def _check_multisig(self, *, push_result: bool) -> None:
        stack = self._stack
        keys = [stack.pop() for _ in range(_number(stack.pop()))]
        signatures = [stack.pop() for _ in range(_number(stack.pop()))]
        stack.pop()  # the dummy, which consensus wants empty
        valid = self._multisig_holds(keys, signatures)
        if not valid and any(signatures):
            raise _refuse("Signature must be zero for failed CHECK(MULTI)SIG operation")
        if push_result:
            stack.append(b"\x01" if valid else b"")

    def _multisig_holds(self, keys: list[bytes], signatures: list[bytes]) -> bool:
        """Each signature must belong to a key after the key of the one before."""
        candidates = iter(keys)
        return all(any(self._signature_is_valid(s, key) for key in candidates) for s in signatures)
