"""The bytes of a version 0 PSBT: key-value maps, and the shape of each known field (BIP 174, BIP 371).

Unknown fields are kept as they are. A field that is known and does not have its shape raises MalformedMessage.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from protocol import curve
from protocol.amounts import Sat
from protocol.bitcoin.descriptor import KeyOrigin
from protocol.bitcoin.transaction import OutPoint, Reader, Transaction, TxIn, TxOut, compact_size, var_bytes
from protocol.errors import MalformedMessage
from protocol.hashes import double_sha256, hash160, ripemd160, sha256

MAGIC = b"psbt\xff"
MAX_BYTES = 4_000_000

GLOBAL_UNSIGNED_TX = 0x00
GLOBAL_XPUB = 0x01
GLOBAL_VERSION = 0xFB
IN_NON_WITNESS_UTXO = 0x00
IN_WITNESS_UTXO = 0x01
IN_PARTIAL_SIG = 0x02
IN_SIGHASH_TYPE = 0x03
IN_REDEEM_SCRIPT = 0x04
IN_WITNESS_SCRIPT = 0x05
IN_BIP32_DERIVATION = 0x06
IN_FINAL_SCRIPTSIG = 0x07
IN_FINAL_SCRIPTWITNESS = 0x08
IN_TAP_KEY_SIG = 0x13
IN_TAP_SCRIPT_SIG = 0x14
IN_TAP_LEAF_SCRIPT = 0x15
IN_TAP_BIP32_DERIVATION = 0x16
IN_TAP_INTERNAL_KEY = 0x17
IN_TAP_MERKLE_ROOT = 0x18
OUT_REDEEM_SCRIPT = 0x00
OUT_WITNESS_SCRIPT = 0x01
OUT_BIP32_DERIVATION = 0x02
OUT_TAP_INTERNAL_KEY = 0x05
OUT_TAP_TREE = 0x06
OUT_TAP_BIP32_DERIVATION = 0x07

Fields = Mapping[bytes, bytes]
Check = Callable[[bytes, bytes], object]


@dataclass(frozen=True, slots=True)
class Psbt:
    """The unsigned transaction and the maps around it; a field's key is its type byte and its key data."""

    tx: Transaction
    fields: Fields
    """The global map without the unsigned transaction."""
    inputs: tuple[Fields, ...]
    outputs: tuple[Fields, ...]

    def serialize(self) -> bytes:
        everything = {bytes((GLOBAL_UNSIGNED_TX,)): self.tx.serialize(witness=False), **self.fields}
        return MAGIC + b"".join(_serialize_map(m) for m in (everything, *self.inputs, *self.outputs))


def _serialize_map(fields: Fields) -> bytes:
    return b"".join(var_bytes(k) + var_bytes(fields[k]) for k in sorted(fields)) + b"\0"


def parse(raw: bytes) -> Psbt:
    """Raises MalformedMessage unless `raw` is exactly one valid PSBT of version 0."""
    if raw[: len(MAGIC)] != MAGIC:
        raise MalformedMessage("this is no PSBT: it does not begin with its magic bytes")
    if len(raw) > MAX_BYTES:
        raise MalformedMessage(f"a PSBT of {len(raw)} bytes is too large")
    reader = Reader(raw)
    reader.take(len(MAGIC))
    fields = _read_map(reader, _GLOBAL)
    try:
        tx = _unsigned_transaction(fields.pop(bytes((GLOBAL_UNSIGNED_TX,))))
    except KeyError:
        raise MalformedMessage(
            "this PSBT holds no unsigned transaction (version 2 is not known here)"
        ) from None
    inputs = tuple(_read_map(reader, _INPUT) for _ in tx.inputs)
    outputs = tuple(_read_map(reader, _OUTPUT) for _ in tx.outputs)
    if reader.left:
        raise MalformedMessage(f"{reader.left} bytes follow the PSBT")
    for spent, given in zip(tx.inputs, inputs, strict=True):
        _check_previous(spent.outpoint, given)
    return Psbt(tx, fields, inputs, outputs)


def _check_previous(outpoint: OutPoint, fields: Fields) -> None:
    raw = fields.get(bytes((IN_NON_WITNESS_UTXO,)))
    if raw is None:
        return
    previous = Transaction.parse(raw)
    if previous.txid != outpoint.txid or outpoint.index >= len(previous.outputs):
        raise MalformedMessage(f"the previous transaction in the PSBT does not hold {outpoint}")


def _read_map(reader: Reader, checks: Mapping[int, Check]) -> dict[bytes, bytes]:
    fields: dict[bytes, bytes] = {}
    while key := reader.var_bytes():
        value = reader.var_bytes()
        if key in fields:
            raise MalformedMessage(f"the PSBT field {key.hex()} stands twice")
        check = checks.get(key[0])
        if check is not None:
            check(key[1:], value)
        fields[key] = value
    return fields


def _unsigned_transaction(raw: bytes) -> Transaction:
    """Read without witness in any case: no inputs and one output look like the segwit marker."""
    reader = Reader(raw)
    version = int.from_bytes(reader.take(4), "little", signed=True)
    inputs = []
    for _ in range(_bounded(reader, 41)):
        outpoint = OutPoint(reader.take(32), reader.integer(4))
        if reader.var_bytes():
            raise MalformedMessage("an input of the unsigned transaction is signed")
        inputs.append(TxIn(outpoint, b"", reader.integer(4)))
    outputs = [read_output(reader) for _ in range(_bounded(reader, 9))]
    tx = Transaction(version, tuple(inputs), tuple(outputs), reader.integer(4))
    if reader.left:
        raise MalformedMessage("bytes follow the unsigned transaction, or it has a witness")
    return tx


def _bounded(reader: Reader, smallest: int) -> int:
    count = reader.compact()
    if count * smallest > reader.left:
        raise MalformedMessage(f"{count} items are announced, too many for the bytes that follow")
    return count


def read_output(reader: Reader) -> TxOut:
    value = int.from_bytes(reader.take(8), "little", signed=True)
    return TxOut(Sat(value), reader.var_bytes())


def parse_output(raw: bytes) -> TxOut:
    reader = Reader(raw)
    output = read_output(reader)
    if reader.left:
        raise MalformedMessage("bytes follow the output")
    return output


def parse_witness(raw: bytes) -> tuple[bytes, ...]:
    reader = Reader(raw)
    witness = tuple(reader.var_bytes() for _ in range(_bounded(reader, 1)))
    if reader.left:
        raise MalformedMessage("bytes follow the witness")
    return witness


def serialize_witness(witness: tuple[bytes, ...]) -> bytes:
    return compact_size(len(witness)) + b"".join(map(var_bytes, witness))


def parse_origin(value: bytes) -> KeyOrigin:
    if len(value) < 4 or len(value) % 4:
        raise MalformedMessage("a key origin in the PSBT has a wrong length")
    steps = range(4, len(value), 4)
    return KeyOrigin(value[:4], tuple(int.from_bytes(value[n : n + 4], "little") for n in steps))


def serialize_origin(origin: KeyOrigin) -> bytes:
    return origin.fingerprint + b"".join(n.to_bytes(4, "little") for n in origin.path)


def parse_taproot_origin(value: bytes) -> tuple[tuple[bytes, ...], KeyOrigin]:
    """The leaves that the key appears in, and its origin."""
    reader = Reader(value)
    hashes = tuple(reader.take(32) for _ in range(_bounded(reader, 32)))
    return hashes, parse_origin(reader.take(reader.left))


# The shape of each field: a check of key data and value.


def _need(condition: bool, what: str) -> None:
    if not condition:
        raise MalformedMessage(f"the PSBT holds a wrong {what}")


def _single(
    what: str, check_value: Callable[[bytes], object] | None = None, sizes: range | None = None
) -> Check:
    """A field that has no key data, so that it stands once."""

    def check(key: bytes, value: bytes) -> None:
        _need(not key, f"{what} key")
        _need(sizes is None or len(value) in sizes, what)
        if check_value is not None:
            check_value(value)

    return check


def _by_public_key(what: str, check_value: Callable[[bytes], object]) -> Check:
    def check(key: bytes, value: bytes) -> None:
        uncompressed = len(key) == 65 and key[0] == 4
        _need(uncompressed or (len(key) == 33 and curve.is_point(key)), f"{what} key")
        check_value(value)

    return check


def _by_xonly_key(key: bytes, value: bytes) -> None:
    _need(len(key) == 32 and curve.is_point(b"\x02" + key), "taproot derivation key")
    parse_taproot_origin(value)


def _is_der_signature(value: bytes) -> None:
    _need(9 <= len(value) <= 73 and value[0] == 0x30, "partial signature")


def _version(value: bytes) -> None:
    _need(value == bytes(4), "version (only version 0 is known here)")


def _xpub(key: bytes, value: bytes) -> None:
    _need(len(key) == 78, "extended public key")
    origin = parse_origin(value)
    _need(len(origin.path) == key[4], "extended public key origin")


def _preimage(what: str, function: Callable[[bytes], bytes]) -> Check:
    def check(key: bytes, value: bytes) -> None:
        _need(function(value) == key, f"{what} preimage")

    return check


def _tap_script_signature(key: bytes, value: bytes) -> None:
    _need(len(key) == 64 and curve.is_point(b"\x02" + key[:32]), "taproot script signature key")
    _need(len(value) in (64, 65), "taproot script signature")


def _tap_leaf(key: bytes, value: bytes) -> None:
    _need(33 <= len(key) <= 33 + 32 * 128 and (len(key) - 33) % 32 == 0, "control block")
    _need(bool(value) and value[-1] == key[0] & 0xFE, "taproot leaf script")


def _tap_tree(value: bytes) -> None:
    reader = Reader(value)
    filled = 0  # in parts of 2^-128 of the whole tree
    while reader.left:
        depth, version = reader.integer(1), reader.integer(1)
        reader.var_bytes()
        _need(depth <= 128 and version & 1 == 0, "taproot tree")
        filled += 1 << (128 - depth)
    _need(filled == 1 << 128, "taproot tree")


def _version_2_only(_key: bytes, _value: bytes) -> None:
    _need(False, "field: it belongs to version 2")


def _anything(_value: bytes) -> None:
    return None


_XONLY = range(32, 33)
_GLOBAL: dict[int, Check] = {
    GLOBAL_UNSIGNED_TX: _single("unsigned transaction"),
    GLOBAL_XPUB: _xpub,
    GLOBAL_VERSION: _single("version", _version),
    **dict.fromkeys((0x02, 0x03, 0x04, 0x05, 0x06), _version_2_only),
}
_INPUT: dict[int, Check] = {
    IN_NON_WITNESS_UTXO: _single("previous transaction", Transaction.parse),
    IN_WITNESS_UTXO: _single("spent output", parse_output),
    IN_PARTIAL_SIG: _by_public_key("partial signature", _is_der_signature),
    IN_SIGHASH_TYPE: _single("signature hash type", sizes=range(4, 5)),
    IN_REDEEM_SCRIPT: _single("redeem script"),
    IN_WITNESS_SCRIPT: _single("witness script"),
    IN_BIP32_DERIVATION: _by_public_key("derivation", parse_origin),
    IN_FINAL_SCRIPTSIG: _single("final scriptSig"),
    IN_FINAL_SCRIPTWITNESS: _single("final witness", parse_witness),
    0x0A: _preimage("RIPEMD160", ripemd160),
    0x0B: _preimage("SHA256", sha256),
    0x0C: _preimage("HASH160", hash160),
    0x0D: _preimage("HASH256", double_sha256),
    **dict.fromkeys((0x0E, 0x0F, 0x10, 0x11, 0x12), _version_2_only),
    IN_TAP_KEY_SIG: _single("taproot key signature", sizes=range(64, 66)),
    IN_TAP_SCRIPT_SIG: _tap_script_signature,
    IN_TAP_LEAF_SCRIPT: _tap_leaf,
    IN_TAP_BIP32_DERIVATION: _by_xonly_key,
    IN_TAP_INTERNAL_KEY: _single("taproot internal key", sizes=_XONLY),
    IN_TAP_MERKLE_ROOT: _single("taproot Merkle root", sizes=_XONLY),
}
_OUTPUT: dict[int, Check] = {
    OUT_REDEEM_SCRIPT: _single("redeem script"),
    OUT_WITNESS_SCRIPT: _single("witness script"),
    OUT_BIP32_DERIVATION: _by_public_key("derivation", parse_origin),
    **dict.fromkeys((0x03, 0x04), _version_2_only),
    OUT_TAP_INTERNAL_KEY: _single("taproot internal key", sizes=_XONLY),
    OUT_TAP_TREE: _single("taproot tree", _tap_tree),
    OUT_TAP_BIP32_DERIVATION: _by_xonly_key,
}
