"""A plan on its way through the signer: a PSBT with all it must see, and its signatures taken back (BIP 174)."""

from collections.abc import Mapping, Sequence

from node.wallet.account import Account
from node.wallet.coins import Coin
from protocol import curve
from protocol.bitcoin import psbt
from protocol.bitcoin import psbt_format as fmt
from protocol.bitcoin.script import p2wpkh
from protocol.bitcoin.transaction import OutPoint, Transaction, TxOut
from protocol.errors import MalformedMessage, ProtocolError


class SignerFault(ProtocolError):
    """The signer gave back something else than signatures for what it was asked."""


def build(
    tx: Transaction,
    coins: Mapping[OutPoint, Coin],
    previous: Mapping[bytes, Transaction],
    account: Account,
) -> bytes:
    """Names every output that is ours, so that a device can tell it from a payment. A version 0 signer needs the whole
    previous transactions, since the amounts beside them could be a lie."""
    places = ((index, account.place_of(output.script_pubkey)) for index, output in enumerate(tx.outputs))
    spent = [coins[i.outpoint] for i in tx.inputs]
    return psbt.create(
        tx,
        [TxOut(coin.value, coin.script) for coin in spent],
        [previous[coin.outpoint.txid] for coin in spent],
        [account.origin(coin.branch, coin.index) for coin in spent],
        output_origins={index: account.origin(*place) for index, place in places if place is not None},
    )


def take_signatures(asked: bytes, answered: bytes) -> Transaction:
    """The signed transaction: ours, with the signer's signatures, each of which is checked here.

    Nothing else is taken from the answer, so a signer that returns another transaction changes nothing.
    """
    own = psbt.parse(asked)
    try:
        theirs = psbt.parse(answered)
        if theirs.tx != own.tx:
            raise SignerFault("the signer answered with another transaction than it was asked to sign")
        for index in range(len(own.tx.inputs)):
            public_key, signature = _signature(theirs.inputs[index], psbt.spent_output(own, index), index)
            own = psbt.add_signature(own, index, public_key, curve.from_der(signature[:-1]))
        return psbt.finalize(own)
    except (MalformedMessage, ValueError) as error:
        raise SignerFault(f"the signer's answer cannot be used: {error}") from error


def _signature(fields: Mapping[bytes, bytes], spent: TxOut, index: int) -> tuple[bytes, bytes]:
    """The public key and the DER signature with its hash type, final already or not."""
    final = fields.get(bytes((fmt.IN_FINAL_SCRIPTWITNESS,)))
    candidates: Sequence[tuple[bytes, bytes]]
    if final is not None:
        witness = fmt.parse_witness(final)
        candidates = [(witness[1], witness[0])] if len(witness) == 2 else []
    else:
        candidates = [(key[1:], value) for key, value in fields.items() if key[0] == fmt.IN_PARTIAL_SIG]
    for public_key, signature in candidates:
        if p2wpkh(public_key) == spent.script_pubkey and signature[-1:] == b"\x01":
            return public_key, signature
    raise SignerFault(f"the signer did not sign input {index}")
