"""The unsigned transaction of a plan, in the order of BIP 69."""

from dataclasses import dataclass

from node.wallet.coins import Selection
from protocol.amounts import Sat
from protocol.bitcoin.transaction import Transaction, TxIn, TxOut

SEQUENCE = 0xFFFFFFFD
"""Replaceable (BIP 125), and without a relative lock (BIP 68)."""


@dataclass(frozen=True)
class Draft:
    """`output_index` is the output that was asked for; `change_index` the other one, if there is any."""

    tx: Transaction
    output_index: int
    change_index: int | None
    value: Sat
    fee: Sat


def draft(selection: Selection, *, script: bytes, change_script: bytes, also: TxOut | None = None) -> Draft:
    """Version 2, no lock time. All inputs are segwit, so the txid stays what it is when signatures come."""
    # BIP 69 orders ids as people read them, which is the reverse of the bytes that are sent.
    outpoints = sorted(
        (coin.outpoint for coin in selection.coins), key=lambda out: (out.txid[::-1], out.index)
    )
    wanted = TxOut(selection.value, script)
    outputs = [wanted]
    if selection.change is not None:
        outputs.append(TxOut(selection.change, change_script))
    if also is not None:
        outputs.append(also)
    order = sorted(range(len(outputs)), key=lambda at: (outputs[at].value, outputs[at].script_pubkey))
    tx = Transaction(
        version=2,
        inputs=tuple(TxIn(outpoint, sequence=SEQUENCE) for outpoint in outpoints),
        outputs=tuple(outputs[at] for at in order),
    )
    return Draft(
        tx=tx,
        output_index=order.index(0),
        change_index=order.index(1) if selection.change is not None else None,
        value=selection.value,
        fee=selection.fee,
    )
