"""What a wallet input must show before it is signed (BIP 174, "Signer"; BIP 143)."""

from protocol.bitcoin.sighash import SIGHASH_ALL
from protocol.bitcoin.transaction import OutPoint, Transaction
from signer.refusal import Denied


def psbt_readable(problem: str) -> Denied:
    """`psbt-malformed`: bytes that are no PSBT."""
    return Denied(
        "psbt-malformed",
        "a PSBT of BIP 174 with an unsigned transaction",
        seen=problem,
        limit="a readable PSBT",
        next_step="Make the PSBT anew.",
    )


def whole_previous(index: int, previous: Transaction | None, outpoint: OutPoint) -> Transaction:
    """`psbt-previous`: the whole previous transaction proves the amount; a bare one can lie (two-input attack)."""
    if previous is None or previous.txid != outpoint.txid or outpoint.index >= len(previous.outputs):
        raise Denied(
            "psbt-previous",
            "every wallet input comes with the whole transaction that it spends",
            seen=f"input {index} without it, or with another one",
            limit="non_witness_utxo of each input of ours",
            next_step="Add the previous transactions to the PSBT.",
        )
    return previous


def sighash_all(index: int, hash_type: int | None) -> None:
    """`psbt-sighash`: any other type lets somebody change the outputs."""
    if hash_type not in (None, SIGHASH_ALL):
        raise Denied(
            "psbt-sighash",
            "wallet inputs are signed for the whole transaction",
            seen=f"input {index} asks for hash type {hash_type:#x}",
            limit="SIGHASH_ALL",
            next_step="Ask for SIGHASH_ALL.",
        )


def own_script(index: int, script_pubkey: bytes, derived: bytes) -> None:
    """`psbt-script`: the output spent pays the very key that the derivation names."""
    if script_pubkey != derived:
        raise Denied(
            "psbt-script",
            "a wallet input spends an output of the wallet key that it names",
            seen=f"input {index} spends another script",
            limit="branches 0 to 3 of the wallet account, p2wpkh",
            next_step="Correct the derivation of this input.",
        )


def something_to_sign(count: int) -> None:
    """`psbt-nothing`: a PSBT without an input of ours is a mistake."""
    if count == 0:
        raise Denied(
            "psbt-nothing",
            "a PSBT spends at least one output of this wallet",
            seen="no input with a key of this wallet",
            limit="at least one",
            next_step="Check that the PSBT carries BIP 32 derivations of this wallet.",
        )
