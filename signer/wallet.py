"""Signing wallet inputs of a PSBT (BIP 174, BIP 143): branches 0, 1 and 2 of the account, never a channel key."""

from dataclasses import replace

from protocol.bitcoin import psbt as psbts
from protocol.bitcoin import psbt_format as fmt
from protocol.bitcoin.psbt_format import Fields
from protocol.bitcoin.script import p2wpkh
from protocol.bitcoin.sighash import SIGHASH_ALL, p2wpkh_script_code, segwit_v0
from protocol.bitcoin.transaction import Transaction
from protocol.bolt3.funding import bitcoin_signature
from protocol.curve import point_of, sign_ecdsa
from protocol.errors import MalformedMessage
from protocol.secret import Secret
from signer.keys import CHANGE, COLD, RECEIVE, NodeKeys
from signer.policy import psbt as rules

_PREVIOUS = bytes((fmt.IN_NON_WITNESS_UTXO,))
_HASH_TYPE = bytes((fmt.IN_SIGHASH_TYPE,))
_BRANCHES = (RECEIVE, CHANGE, COLD)


def sign_psbt(keys: NodeKeys, raw: bytes) -> bytes:
    """The PSBT with a signature on each input of ours. Inputs of others are left as they are."""
    try:
        psbt = psbts.parse(raw)
    except MalformedMessage as error:
        raise rules.psbt_readable(str(error)) from None
    inputs = list(psbt.inputs)
    signed = 0
    for index, fields in enumerate(psbt.inputs):
        own = _own_key(keys, fields)
        if own is None:
            continue
        previous = fields.get(_PREVIOUS)
        outpoint = psbt.tx.inputs[index].outpoint
        whole = rules.whole_previous(
            index, None if previous is None else Transaction.parse(previous), outpoint
        )
        spent = whole.outputs[outpoint.index]
        hash_type = fields.get(_HASH_TYPE)
        rules.sighash_all(index, None if hash_type is None else int.from_bytes(hash_type, "little"))
        public = point_of(own.reveal())
        rules.own_script(index, spent.script_pubkey, p2wpkh(public))
        digest = segwit_v0(psbt.tx, index, p2wpkh_script_code(spent.script_pubkey), spent.value, SIGHASH_ALL)
        signature = bitcoin_signature(sign_ecdsa(own.reveal(), digest))
        inputs[index] = {**fields, bytes((fmt.IN_PARTIAL_SIG,)) + public: signature}
        signed += 1
    rules.something_to_sign(signed)
    return replace(psbt, inputs=tuple(inputs)).serialize()


def _own_key(keys: NodeKeys, fields: Fields) -> Secret | None:
    """The key that an input's derivation names, if it is one of the wallet's."""
    depth = len(keys.wallet_path)
    for key, value in fields.items():
        if key[0] != fmt.IN_BIP32_DERIVATION:
            continue
        origin = fmt.parse_origin(value)
        path = origin.path
        if (
            origin.fingerprint != keys.fingerprint
            or len(path) != depth + 2
            or path[:depth] != keys.wallet_path
        ):
            continue
        branch, index = path[depth:]
        if branch in _BRANCHES and index < 1 << 31:
            return keys.wallet_secret(branch, index)
    return None
