"""Signing wallet inputs of a PSBT (BIP 174, BIP 143): branches 0 to 3 of the account, never a channel key.

Coins of branch 3, the fee reserve, go nowhere but to cold or back to branch 3.
"""

from dataclasses import replace

from protocol.amounts import Sat
from protocol.bitcoin import psbt as psbts
from protocol.bitcoin import psbt_format as fmt
from protocol.bitcoin.psbt_format import Fields, Psbt
from protocol.bitcoin.script import p2wpkh
from protocol.bitcoin.sighash import SIGHASH_ALL, p2wpkh_script_code, segwit_v0
from protocol.bitcoin.transaction import OutPoint, Transaction
from protocol.bolt3.funding import bitcoin_signature
from protocol.curve import point_of, sign_ecdsa
from protocol.errors import MalformedMessage
from signer.books import Books
from signer.keys import CHANGE, COLD, RECEIVE, RESERVE, NodeKeys
from signer.policy import psbt as rules
from signer.policy import reserve as reserve_rules
from signer.policy.onchain import fee_limit
from signer.reserve import Reserve

_PREVIOUS = bytes((fmt.IN_NON_WITNESS_UTXO,))
_HASH_TYPE = bytes((fmt.IN_SIGHASH_TYPE,))
_BRANCHES = (RECEIVE, CHANGE, COLD, RESERVE)


def sign_psbt(keys: NodeKeys, books: Books, reserve: Reserve, raw: bytes) -> bytes:
    """The PSBT with a signature on each input of ours. Inputs of others are left as they are."""
    try:
        psbt = psbts.parse(raw)
    except MalformedMessage as error:
        raise rules.psbt_readable(str(error)) from None
    inputs = list(psbt.inputs)
    signed = total = 0
    taken: list[OutPoint] = []
    for index, fields in enumerate(psbt.inputs):
        place = _own_place(keys, fields, fmt.IN_BIP32_DERIVATION)
        if place is None:
            continue
        own = keys.wallet_secret(*place)
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
        total += spent.value
        if place[0] == RESERVE:
            taken.append(outpoint)
    rules.something_to_sign(signed)
    if taken:
        returned = _to_reserve(keys, books, psbt, all_ours=signed == len(psbt.inputs), total=total)
        reserve.give_back(taken, returned)
    return replace(psbt, inputs=tuple(inputs)).serialize()


def _to_reserve(keys: NodeKeys, books: Books, psbt: Psbt, *, all_ours: bool, total: int) -> int:
    """`psbt-reserve`. Answers what goes to branch 3 again."""
    returned = 0
    lawful = all_ours
    for output, fields in zip(psbt.tx.outputs, psbt.outputs, strict=True):
        place = _own_place(keys, fields, fmt.OUT_BIP32_DERIVATION)
        named = (
            place is not None
            and place[0] in (COLD, RESERVE)
            and output.script_pubkey == keys.wallet_script(*place)
        )
        if named and place is not None and place[0] == RESERVE:
            returned += output.value
        lawful = lawful and (named or books.is_cold(output.script_pubkey))
    fee = total - sum(output.value for output in psbt.tx.outputs)
    reserve_rules.reserve_spent(lawful, fee, fee_limit(Sat(total), 1, penalty=False))
    return returned


def _own_place(keys: NodeKeys, fields: Fields, kind: int) -> tuple[int, int] | None:
    """The branch and index that a derivation names, if they are the wallet's."""
    depth = len(keys.wallet_path)
    for key, value in fields.items():
        if key[0] != kind:
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
            return branch, index
    return None
