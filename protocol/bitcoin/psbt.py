"""Partially signed transactions, the work on them: create, combine, sign, finalize (BIP 174, BIP 371).

Signing is for segwit inputs only (P2WPKH, P2WSH, their P2SH forms, taproot key path). The signer's own checks of
BIP 174 come with `input_to_sign`: scripts must match what is spent.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from protocol import curve
from protocol.bitcoin import psbt_format as fmt
from protocol.bitcoin import taproot
from protocol.bitcoin.descriptor import KeyOrigin
from protocol.bitcoin.psbt_format import Fields, Psbt
from protocol.bitcoin.script import p2wpkh, p2wsh, push, witness_program
from protocol.bitcoin.sighash import SIGHASH_ALL, SIGHASH_DEFAULT, p2wpkh_script_code, segwit_v0
from protocol.bitcoin.sighash import taproot as taproot_digest
from protocol.bitcoin.transaction import Transaction, TxIn, TxOut
from protocol.errors import MalformedMessage
from protocol.hashes import hash160

KeyOrigins = Mapping[bytes, KeyOrigin]
"""Public key (33 bytes; for taproot the internal key as a point) to its origin."""


def create(
    tx: Transaction,
    spent: Sequence[TxOut],
    prev_txs: Sequence[Transaction | None] = (),
    key_origins: Sequence[KeyOrigins] = (),
    *,
    witness_scripts: Mapping[int, bytes] | None = None,
    output_origins: Mapping[int, KeyOrigins] | None = None,
) -> bytes:
    """A PSBT for a transaction of ours; per input: the output it spends, that output's transaction, the keys.

    `prev_txs` let a version 0 signer check the amounts; taproot inputs do not need them. `output_origins`
    lets a signer recognise change.
    """
    if len(spent) != len(tx.inputs):
        raise ValueError(f"{len(tx.inputs)} inputs need as many spent outputs, not {len(spent)}")
    inputs = []
    for n, output in enumerate(spent):
        previous = prev_txs[n] if n < len(prev_txs) else None
        origins = key_origins[n] if n < len(key_origins) else {}
        fields = {_key(fmt.IN_WITNESS_UTXO): output.serialize()}
        if previous is not None:
            outpoint = tx.inputs[n].outpoint
            if previous.txid != outpoint.txid or previous.outputs[outpoint.index] != output:
                raise ValueError(f"the previous transaction does not hold {outpoint} as it is to be spent")
            fields[_key(fmt.IN_NON_WITNESS_UTXO)] = previous.serialize()
        if witness_scripts and n in witness_scripts:
            fields[_key(fmt.IN_WITNESS_SCRIPT)] = witness_scripts[n]
        fields |= _origin_fields(output, origins, spending=True)
        inputs.append(fields)
    outputs = [
        _origin_fields(output, (output_origins or {}).get(n, {}), spending=False)
        for n, output in enumerate(tx.outputs)
    ]
    bare = tuple(TxIn(i.outpoint, b"", i.sequence) for i in tx.inputs)
    return Psbt(replace(tx, inputs=bare), {}, tuple(inputs), tuple(outputs)).serialize()


def _key(kind: int, data: bytes = b"") -> bytes:
    return bytes((kind,)) + data


def _origin_fields(output: TxOut, origins: KeyOrigins, *, spending: bool) -> dict[bytes, bytes]:
    fields = {}
    kind = fmt.IN_BIP32_DERIVATION if spending else fmt.OUT_BIP32_DERIVATION
    tap_kind = fmt.IN_TAP_BIP32_DERIVATION if spending else fmt.OUT_TAP_BIP32_DERIVATION
    internal_kind = fmt.IN_TAP_INTERNAL_KEY if spending else fmt.OUT_TAP_INTERNAL_KEY
    for public_key, origin in origins.items():
        value = fmt.serialize_origin(origin)
        if _is_taproot(output.script_pubkey):
            fields[_key(tap_kind, public_key[1:])] = b"\0" + value
            fields[_key(internal_kind)] = public_key[1:]
        else:
            fields[_key(kind, public_key)] = value
    return fields


def _is_taproot(script_pubkey: bytes) -> bool:
    return len(script_pubkey) == 34 and script_pubkey[:2] == b"\x51\x20"


def parse(raw: bytes | str) -> Psbt:
    """Raw bytes, or base64 text. Raises MalformedMessage."""
    if isinstance(raw, str):
        try:
            raw = base64.b64decode(raw.strip(), validate=True)
        except (binascii.Error, ValueError):
            raise MalformedMessage("this PSBT is no base64 text") from None
    return fmt.parse(raw)


def to_base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def combine(psbts: Sequence[Psbt]) -> Psbt:
    """All that is known in several PSBTs of one transaction; the first wins where two differ."""
    if not psbts or any(p.tx != psbts[0].tx for p in psbts):
        raise ValueError("only PSBTs of the same transaction can be combined")

    def merged(maps: Sequence[Fields]) -> Fields:
        result: dict[bytes, bytes] = {}
        for fields in reversed(maps):
            result |= fields
        return result

    return Psbt(
        psbts[0].tx,
        merged([p.fields for p in psbts]),
        tuple(merged([p.inputs[n] for p in psbts]) for n in range(len(psbts[0].inputs))),
        tuple(merged([p.outputs[n] for p in psbts]) for n in range(len(psbts[0].outputs))),
    )


@dataclass(frozen=True, slots=True)
class InputToSign:
    """What a signer needs of one input. `digest` is what the signature commits to."""

    index: int
    spent: TxOut
    digest: bytes
    hash_type: int
    is_taproot: bool
    witness_script: bytes | None
    origins: KeyOrigins
    """For a taproot input the keys are the internal keys, as points with even y."""


def spent_output(psbt: Psbt, index: int) -> TxOut:
    """The output that an input spends; the previous transaction counts more than a bare claim."""
    fields, outpoint = psbt.inputs[index], psbt.tx.inputs[index].outpoint
    claimed = fields.get(_key(fmt.IN_WITNESS_UTXO))
    previous = fields.get(_key(fmt.IN_NON_WITNESS_UTXO))
    if previous is not None:
        output = Transaction.parse(previous).outputs[outpoint.index]
        if claimed is not None and fmt.parse_output(claimed) != output:
            raise MalformedMessage(f"the PSBT says two things about the output {outpoint}")
        return output
    if claimed is None:
        raise MalformedMessage(f"the PSBT does not say what input {index} spends")
    return fmt.parse_output(claimed)


def input_to_sign(psbt: Psbt, index: int) -> InputToSign:
    """Raises MalformedMessage where a script does not match, or where the input is not segwit."""
    fields = psbt.inputs[index]
    spent = spent_output(psbt, index)
    witness_script = fields.get(_key(fmt.IN_WITNESS_SCRIPT))
    program = _program(spent.script_pubkey, fields.get(_key(fmt.IN_REDEEM_SCRIPT)), index)
    if _is_taproot(program):
        return _taproot_to_sign(psbt, index, spent)
    if witness_script is not None and program != p2wsh(witness_script):
        raise MalformedMessage(f"the witness script of input {index} is not the one that is spent")
    version_and_program = witness_program(program)
    if version_and_program is None or version_and_program[0] != 0:
        raise MalformedMessage(f"input {index} is not a segwit input of a known kind; it is not signed here")
    if len(version_and_program[1]) == 20:
        script_code = p2wpkh_script_code(program)
    elif witness_script is not None:
        script_code = witness_script
    else:
        raise MalformedMessage(f"the witness script of input {index} is missing")
    hash_type = _hash_type(fields, SIGHASH_ALL)
    return InputToSign(
        index=index,
        spent=spent,
        digest=segwit_v0(psbt.tx, index, script_code, spent.value, hash_type),
        hash_type=hash_type,
        is_taproot=False,
        witness_script=witness_script,
        origins={
            key[1:]: fmt.parse_origin(value)
            for key, value in fields.items()
            if key[0] == fmt.IN_BIP32_DERIVATION
        },
    )


def _program(script_pubkey: bytes, redeem_script: bytes | None, index: int) -> bytes:
    """What is really spent: the redeem script of a P2SH output, else the output's script."""
    if redeem_script is None:
        return script_pubkey
    if script_pubkey != b"\xa9\x14" + hash160(redeem_script) + b"\x87":
        raise MalformedMessage(f"the redeem script of input {index} is not the one that is spent")
    return redeem_script


def _hash_type(fields: Fields, usual: int) -> int:
    value = fields.get(_key(fmt.IN_SIGHASH_TYPE))
    hash_type = usual if value is None else int.from_bytes(value, "little")
    if hash_type not in (usual, 1, 2, 3, 0x81, 0x82, 0x83):
        raise MalformedMessage(f"{hash_type} is no signature hash type")
    return hash_type


def _taproot_to_sign(psbt: Psbt, index: int, spent: TxOut) -> InputToSign:
    fields = psbt.inputs[index]
    internal_key = fields.get(_key(fmt.IN_TAP_INTERNAL_KEY))
    root = fields.get(_key(fmt.IN_TAP_MERKLE_ROOT), b"")
    if internal_key is not None and spent.script_pubkey != taproot.script_pubkey(internal_key, root):
        raise MalformedMessage(f"the internal key of input {index} is not the one that is spent")
    hash_type = _hash_type(fields, SIGHASH_DEFAULT)
    if hash_type & 3 == 3 and index >= len(psbt.tx.outputs):
        raise MalformedMessage(f"input {index} signs an output that does not exist")
    everything = [spent_output(psbt, n) for n in range(len(psbt.inputs))]
    return InputToSign(
        index=index,
        spent=spent,
        digest=taproot_digest(psbt.tx, index, everything, hash_type),
        hash_type=hash_type,
        is_taproot=True,
        witness_script=None,
        origins={
            b"\x02" + key[1:]: fmt.parse_taproot_origin(value)[1]
            for key, value in fields.items()
            if key[0] == fmt.IN_TAP_BIP32_DERIVATION
        },
    )


def add_signature(psbt: Psbt, index: int, public_key: bytes, signature: bytes) -> Psbt:
    """`signature`: 64 bytes, compact ECDSA or Schnorr. It is checked; ValueError when it does not hold.

    For taproot the public key is not looked at: the signature must be that of the output key.
    """
    job = input_to_sign(psbt, index)
    if job.is_taproot:
        if not curve.verify_schnorr(job.spent.script_pubkey[2:], job.digest, signature):
            raise ValueError(f"the signature of input {index} is wrong")
        suffix = bytes((job.hash_type,)) if job.hash_type else b""
        field, value = _key(fmt.IN_TAP_KEY_SIG), signature + suffix
    else:
        if not curve.verify_ecdsa(public_key, job.digest, signature):
            raise ValueError(f"the signature of input {index} is wrong")
        field = _key(fmt.IN_PARTIAL_SIG, public_key)
        value = curve.to_der(signature) + bytes((job.hash_type,))
    inputs = list(psbt.inputs)
    inputs[index] = {**inputs[index], field: value}
    return replace(psbt, inputs=tuple(inputs))


def finalize(psbt: Psbt) -> Transaction:
    """The signed transaction. Raises ValueError while a signature is missing, or when one does not hold.

    Inputs that somebody else finalized, and legacy ones, are taken as they are.
    """
    finished = []
    for index, unsigned in enumerate(psbt.tx.inputs):
        script_sig, witness = _final(psbt, index)
        finished.append(TxIn(unsigned.outpoint, script_sig, unsigned.sequence, witness))
    return replace(psbt.tx, inputs=tuple(finished))


def _final(psbt: Psbt, index: int) -> tuple[bytes, tuple[bytes, ...]]:
    fields = psbt.inputs[index]
    script_sig = fields.get(_key(fmt.IN_FINAL_SCRIPTSIG))
    witness = fields.get(_key(fmt.IN_FINAL_SCRIPTWITNESS))
    if script_sig is not None or witness is not None:
        return script_sig or b"", fmt.parse_witness(witness) if witness is not None else ()
    spent = spent_output(psbt, index)
    if _is_taproot(spent.script_pubkey):
        signature = fields.get(_key(fmt.IN_TAP_KEY_SIG))
        if signature is None:
            raise ValueError(f"input {index} is not signed yet")
        _check_signature(psbt, index, b"", signature)
        return b"", (signature,)
    redeem_script = fields.get(_key(fmt.IN_REDEEM_SCRIPT))
    program = _program(spent.script_pubkey, redeem_script, index)
    wrapper = b"" if redeem_script is None else push(redeem_script)
    signatures = {k[1:]: v for k, v in fields.items() if k[0] == fmt.IN_PARTIAL_SIG}
    witness_script = fields.get(_key(fmt.IN_WITNESS_SCRIPT))
    if witness_script is not None and program == p2wsh(witness_script):
        for public_key, signature in signatures.items():
            _check_signature(psbt, index, public_key, signature)
        stack = _multisig_stack(witness_script, signatures, index)
        return wrapper, (b"", *stack, witness_script)
    for public_key, signature in signatures.items():
        if program == p2wpkh(public_key):
            _check_signature(psbt, index, public_key, signature)
            return wrapper, (signature, public_key)
    if redeem_script is not None and witness_program(program) is None:
        stack = _multisig_stack(redeem_script, signatures, index)
        return b"\0" + b"".join(map(push, stack)) + wrapper, ()
    raise ValueError(f"input {index} is not signed yet, or its script is not known here")


def _check_signature(psbt: Psbt, index: int, public_key: bytes, signature: bytes) -> None:
    """`signature` as it stands in the PSBT, with its hash type."""
    job = input_to_sign(psbt, index)
    if job.is_taproot:
        bare, hash_type = signature[:64], signature[64] if len(signature) == 65 else SIGHASH_DEFAULT
        holds = curve.verify_schnorr(job.spent.script_pubkey[2:], job.digest, bare)
    else:
        bare, hash_type = curve.from_der(signature[:-1]), signature[-1]
        holds = curve.verify_ecdsa(public_key, job.digest, bare)
    if not holds or hash_type != job.hash_type:
        raise ValueError(f"a signature of input {index} is wrong")


def _multisig_stack(script: bytes, signatures: Mapping[bytes, bytes], index: int) -> list[bytes]:
    """Signatures in the order of the keys of an `m <keys> n OP_CHECKMULTISIG` script."""
    keys = [script[at + 1 : at + 34] for at in range(1, len(script) - 2, 34)]
    needed = script[0] - 0x50 if script else 0
    again = bytes(script[:1]) + b"".join(map(push, keys)) + bytes((0x50 + len(keys) & 0xFF, 0xAE))
    if again != script or not 1 <= needed <= len(keys) <= 16:
        raise ValueError(f"the script of input {index} is not known here")
    found = [signatures[key] for key in keys if key in signatures][:needed]
    if len(found) < needed:
        raise ValueError(f"input {index} has {len(found)} of {needed} signatures")
    return found
