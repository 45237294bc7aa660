"""The chain's own miner key, which nobody needs to protect, and payments from its coinbases."""

from node.chain.regtest.index import COINBASE_MATURITY, ChainIndex, Coin
from node.chain.regtest.mempool import Mempool
from protocol import curve
from protocol.amounts import Sat
from protocol.bitcoin.script import p2wpkh
from protocol.bitcoin.sighash import SIGHASH_ALL, p2wpkh_script_code, segwit_v0
from protocol.bitcoin.transaction import OutPoint, Transaction, TxIn, TxOut
from protocol.hashes import sha256

# A key that everybody knows, of a chain without value.
_KEY = sha256(b"lnp-regtest miner")
_PUBLIC_KEY = curve.point_of(_KEY)
SCRIPT_PUBKEY = p2wpkh(_PUBLIC_KEY)
FEE_PER_VB = 2
LONGEST_FAMILY = 15
_OVERHEAD_VSIZE = 11
_INPUT_VSIZE = 69
_SMALLEST_CHANGE = 1_000
_SEQUENCE = 0xFFFFFFFD


class FaucetEmpty(Exception):
    """Too few mature coins."""


def payment(
    index: ChainIndex, mempool: Mempool, outputs: list[TxOut], *, fee_per_vb: int = FEE_PER_VB
) -> Transaction:
    """A signed transaction that pays `outputs`, in this order, with our change last."""
    fee_per_vb = max(fee_per_vb, -(-mempool.market.minimum // 1000))
    wanted = sum(output.value for output in outputs)
    change_size = len(TxOut(Sat(0), SCRIPT_PUBKEY).serialize())
    size = _OVERHEAD_VSIZE + change_size + sum(len(output.serialize()) for output in outputs)
    chosen: list[tuple[OutPoint, Coin]] = []
    have = 0
    for outpoint, coin in _spendable(index, mempool):
        chosen.append((outpoint, coin))
        have += coin.output.value
        size += _INPUT_VSIZE
        change = have - wanted - size * fee_per_vb
        if change >= _SMALLEST_CHANGE:
            return sign(chosen, [*outputs, TxOut(Sat(change), SCRIPT_PUBKEY)])
    raise FaucetEmpty(f"{wanted} sat were asked, {have} sat are mature: mine more blocks first")


def _spendable(index: ChainIndex, mempool: Mempool) -> list[tuple[OutPoint, Coin]]:
    """Our coins that nothing spends yet, confirmed ones first, the oldest first; then those of short families."""
    coins = [
        (outpoint, coin)
        for outpoint, coin in index.coins_of(SCRIPT_PUBKEY).items()
        if not coin.coinbase or index.height + 1 - coin.height >= COINBASE_MATURITY
    ]
    coins.sort(key=lambda item: item[1].height)
    for entry in mempool:
        if len(mempool.ancestors_of(entry.tx)) > LONGEST_FAMILY:
            continue  # whoever is paid from it must be able to spend on
        for n, output in enumerate(entry.tx.outputs):
            if output.script_pubkey == SCRIPT_PUBKEY:
                coins.append((OutPoint(entry.tx.txid, n), Coin(output, index.height + 1, False)))
    return [(outpoint, coin) for outpoint, coin in coins if mempool.spender_of(outpoint) is None]


def sign(chosen: list[tuple[OutPoint, Coin]], outputs: list[TxOut]) -> Transaction:
    inputs = tuple(TxIn(outpoint, sequence=_SEQUENCE) for outpoint, _ in chosen)
    unsigned = Transaction(2, inputs, tuple(outputs))
    signed = []
    for n, (outpoint, coin) in enumerate(chosen):
        digest = segwit_v0(unsigned, n, p2wpkh_script_code(SCRIPT_PUBKEY), coin.output.value)
        signature = curve.to_der(curve.sign_ecdsa(_KEY, digest)) + bytes((SIGHASH_ALL,))
        signed.append(TxIn(outpoint, b"", _SEQUENCE, (signature, _PUBLIC_KEY)))
    return Transaction(2, tuple(signed), tuple(outputs))
