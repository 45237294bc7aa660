"""A hand-made wallet for the regtest tests: keys with names, P2WPKH and P2WSH spends signed on the spot."""

from collections.abc import Sequence

from node.chain.regtest import RegtestChain
from protocol import curve
from protocol.amounts import Sat
from protocol.bitcoin.script import p2wpkh
from protocol.bitcoin.sighash import p2wpkh_script_code, segwit_v0
from protocol.bitcoin.transaction import OutPoint, Transaction, TxIn, TxOut
from protocol.hashes import sha256

KEY = sha256(b"a key of the tests")
PUBLIC_KEY = curve.point_of(KEY)
SCRIPT = p2wpkh(PUBLIC_KEY)
ELSEWHERE = p2wpkh(curve.point_of(sha256(b"somebody else")))


def signature(tx: Transaction, index: int, script_code: bytes, amount: int, key: bytes = KEY) -> bytes:
    return curve.to_der(curve.sign_ecdsa(key, segwit_v0(tx, index, script_code, amount))) + b"\x01"


def with_witness(tx: Transaction, index: int, witness: Sequence[bytes]) -> Transaction:
    inputs = list(tx.inputs)
    old = inputs[index]
    inputs[index] = TxIn(old.outpoint, old.script_sig, old.sequence, tuple(witness))
    return Transaction(tx.version, tuple(inputs), tx.outputs, tx.locktime)


def spend(
    coins: Sequence[tuple[OutPoint, int]],
    outputs: Sequence[tuple[int, bytes]],
    *,
    sequence: int = 0xFFFFFFFD,
    version: int = 2,
    locktime: int = 0,
) -> Transaction:
    """A signed spend of P2WPKH coins that pay `SCRIPT`."""
    tx = Transaction(
        version,
        tuple(TxIn(outpoint, sequence=sequence) for outpoint, _ in coins),
        tuple(TxOut(Sat(value), script) for value, script in outputs),
        locktime,
    )
    signed = tx
    for n, (_, amount) in enumerate(coins):
        made = signature(tx, n, p2wpkh_script_code(SCRIPT), amount)
        signed = with_witness(signed, n, (made, PUBLIC_KEY))
    return signed


def confirmed_coin(
    chain: RegtestChain, amount: int = 100_000, script: bytes = SCRIPT
) -> tuple[OutPoint, int]:
    outpoint = chain.fund(script, Sat(amount))
    chain.generate(1)
    return outpoint, amount
