"""Raising the fee of a commitment through our anchor on it (BOLT 5, "Failing a Channel"; checklist 48).

The funding key signs here, but over the anchor's own script: such a signature spends no other output.
"""

from protocol.amounts import Sat
from protocol.bitcoin.script import p2wpkh
from protocol.bitcoin.sighash import p2wpkh_script_code, segwit_v0
from protocol.bitcoin.transaction import OutPoint, Transaction, TxIn, TxOut
from protocol.bolt3 import sweep
from protocol.bolt3.commitment import Commitment, CommitmentOutput, CommitmentParams, OutputKind, Side, build
from protocol.bolt3.fees import ANCHOR_AMOUNT, FUNDING_WITNESS_WEIGHT, SEGWIT_MARKER_WEIGHT, fee_of_weight
from protocol.bolt3.funding import bitcoin_signature
from protocol.bolt3.htlc_tx import with_witness
from protocol.bus.messages.signer import SignAnchor
from protocol.curve import point_of, sign_ecdsa
from signer.books import Books
from signer.channel import Channel
from signer.channel_state import ChannelState
from signer.keys import RESERVE, NodeKeys
from signer.policy import closing
from signer.policy import onchain as rules
from signer.reserve import Reserve

_LONGEST_SIGNATURE = 72
_CHANGE_DUST = Sat(294)


def sign_anchor(
    channel: Channel,
    params: CommitmentParams,
    state: ChannelState,
    request: SignAnchor,
    books: Books,
    keys: NodeKeys,
    reserve: Reserve,
) -> bytes:
    commitment = _theirs(params, state, request) if request.theirs else _ours(channel, params, state, request)
    kind = OutputKind.TO_REMOTE_ANCHOR if request.theirs else OutputKind.TO_LOCAL_ANCHOR
    anchor = commitment.output(kind)
    rules.has_anchor(anchor is not None)
    assert anchor is not None  # noqa: S101 - the rule above has refused
    paid = Sat(sum(coin.value for coin in request.coins))
    rules.fee_coins(request, paid, Sat(1))
    reserve.spend(request.coins)
    for coin in request.coins:
        if coin.branch != RESERVE:  # those of the reserve are proven
            books.pin_value(OutPoint(coin.txid, coin.index), coin.value)
    unsigned = _unsigned(commitment, anchor, request, keys, Sat(paid + ANCHOR_AMOUNT))
    fee = paid + ANCHOR_AMOUNT - unsigned.outputs[0].value
    rules.onchain_fee(fee, rules.fee_limit(_at_stake(commitment), 1, penalty=False))
    return _signed(channel, unsigned, anchor, request, keys).serialize()


def _ours(channel: Channel, params: CommitmentParams, state: ChannelState, request: SignAnchor) -> Commitment:
    closing.swept_number(state.frozen, request.number, state.holder_validated)
    version = state.holder[request.number][-1]
    return build(params, Side.HOLDER, version.content, channel.point(request.number))


def _theirs(params: CommitmentParams, state: ChannelState, request: SignAnchor) -> Commitment:
    """The version of the peer's commitment that was named. What is signed here needs that commitment in the chain or
    in a package, and reveals nothing, so the channel may live on."""
    point = rules.claim_number(state, request.number)
    contents = [version.content for version in state.counterparty[request.number]]
    content = contents[-1] if request.content is None else request.content
    rules.has_anchor(content in contents)
    return build(params, Side.COUNTERPARTY, content, point)


def _at_stake(commitment: Commitment) -> Sat:
    """Our balance and every HTLC: what a delay could cost."""
    ours = OutputKind.TO_LOCAL if commitment.owner is Side.HOLDER else OutputKind.TO_REMOTE
    kinds = (ours, OutputKind.OFFERED_HTLC, OutputKind.RECEIVED_HTLC)
    return Sat(sum(output.value for output in commitment.outputs if output.kind in kinds))


def _unsigned(
    commitment: Commitment, anchor: CommitmentOutput, request: SignAnchor, keys: NodeKeys, total: Sat
) -> Transaction:
    """The child pays for itself and for what its parent pays too little."""
    outpoints = [OutPoint(commitment.txid, anchor.index)]
    outpoints += [OutPoint(coin.txid, coin.index) for coin in request.coins]
    inputs = tuple(TxIn(outpoint, sequence=sweep.REPLACEABLE) for outpoint in outpoints)
    script = keys.wallet_script(*request.change)
    tx = Transaction(2, inputs, (TxOut(Sat(0), script),))
    long = bytes(_LONGEST_SIGNATURE)
    full = with_witness(tx, 0, (long, anchor.witness_script))
    for index in range(1, len(inputs)):
        full = with_witness(full, index, (long, bytes(33)))
    parent = 4 * len(commitment.raw) + SEGWIT_MARKER_WEIGHT + FUNDING_WITNESS_WEIGHT
    alone = fee_of_weight(full.weight, request.feerate_per_kw)
    together = fee_of_weight(full.weight + parent, request.feerate_per_kw) - commitment.fee
    fee = Sat(max(alone, together))
    rules.fee_coins(request, total, Sat(fee + _CHANGE_DUST))
    return Transaction(2, inputs, (TxOut(Sat(total - fee), script),))


def _signed(
    channel: Channel, unsigned: Transaction, anchor: CommitmentOutput, request: SignAnchor, keys: NodeKeys
) -> Transaction:
    digest = segwit_v0(unsigned, 0, anchor.witness_script, anchor.value)
    signature = bitcoin_signature(sign_ecdsa(channel.secrets.funding.reveal(), digest))
    signed = with_witness(unsigned, 0, (signature, anchor.witness_script))
    for index, coin in enumerate(request.coins, 1):
        key = keys.wallet_secret(coin.branch, coin.position).reveal()
        public = point_of(key)
        digest = segwit_v0(unsigned, index, p2wpkh_script_code(p2wpkh(public)), coin.value)
        signed = with_witness(signed, index, (bitcoin_signature(sign_ecdsa(key, digest)), public))
    return signed
