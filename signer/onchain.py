"""Inputs of claims and penalties, and second stages of our own commitment (BOLT 5, "HTLC Output Handling",
"Revoked Transaction Close Handling"; BOLT 3, "HTLC-Timeout and HTLC-Success Transactions").

Each function gives what a transaction needs, and the state that follows: whoever claims from a commitment has ended
the channel, so it is frozen from then on.
"""

from protocol.amounts import Sat
from protocol.bitcoin.script import p2wpkh
from protocol.bitcoin.sighash import p2wpkh_script_code, segwit_v0
from protocol.bitcoin.transaction import OutPoint, Transaction, TxIn, TxOut
from protocol.bolt3 import sweep
from protocol.bolt3.commitment import Commitment, CommitmentParams, HtlcOutput, Side, build
from protocol.bolt3.draft import scripts_of
from protocol.bolt3.fees import dust_threshold, fee_of_weight
from protocol.bolt3.funding import bitcoin_signature
from protocol.bolt3.htlc_tx import success_witness, timeout_witness, with_witness
from protocol.bolt3.keys import derive_revocation_secret, per_commitment_point
from protocol.bus.messages.signer import OtherParts, SignSecondStage, SweepInput, SweptHtlc
from protocol.curve import point_of, sign_ecdsa
from protocol.secret import Secret
from signer.books import Books
from signer.channel import Channel
from signer.channel_state import ChannelState, frozen_by_peer, with_released
from signer.forwards import standing_of
from signer.keys import RESERVE, NodeKeys
from signer.parts import Parts
from signer.policy import closing, onchain, payments
from signer.reserve import Reserve

_LONGEST_SIGNATURE = 72
"""Ours have a low S, so 71 bytes and the hash type."""
Claimed = tuple[sweep.SweepInput, Secret, ChannelState]


def preimage_for(
    channel: Channel,
    state: ChannelState,
    given: bytes | None,
    payment_hash: bytes,
    htlc_id: int,
    others: OtherParts,
    books: Books,
    parts: Parts,
) -> tuple[bytes, ChannelState]:
    """The evidence of the node, or the preimage of our own invoice, which leaves under the rules of a release.

    All HTLCs of this hash that stand everywhere in this channel count and are granted with this one, since each is
    claimed on chain by itself; of other channels those that `others` names.
    """
    if given is not None:
        onchain.preimage_fits(given, payment_hash)
        return given, state
    invoice = books.invoice(payment_hash, channel.handle)
    if invoice is None:
        raise payments.release_unknown()
    if htlc_id not in invoice.granted:
        payments.release_htlcs(state, payment_hash, (htlc_id,))
        named = parts.named(channel, others)
        held = frozenset(key for key in standing_of(state).firm.values() if key[2] == payment_hash)
        elsewhere = [parts.held(other, payment_hash, ids) for other, ids in named]
        payments.release_amount((held, *elsewhere), invoice.amount_msat)
        books.note_release(payment_hash, channel.handle, frozenset(key[0] for key in held))
        for (other, ids), held_there in zip(named, elsewhere, strict=True):
            books.note_release(payment_hash, other.handle, ids)
            parts.credit(other, held_there)
        state = with_released(state, held)
    return invoice.preimage.reveal(), state


def claim(
    channel: Channel,
    params: CommitmentParams,
    state: ChannelState,
    wanted: SweepInput,
    books: Books,
    parts: Parts,
) -> Claimed:
    """An HTLC output of the peer's unrevoked commitment: with the preimage, or after its timeout."""
    point = onchain.claim_number(state, wanted.number)
    with_preimage = wanted.kind == "their_offered_with_preimage"
    htlc = wanted.htlc
    output = None if htlc is None else _output_of(params, state, wanted, htlc, point)
    onchain.has_htlc(output is not None and htlc is not None and htlc.offered is not with_preimage)
    assert output is not None and htlc is not None  # noqa: S101, PT018 - the rule above has refused
    outpoint = OutPoint(wanted.txid, wanted.index)
    if with_preimage:
        preimage, state = preimage_for(
            channel, state, htlc.preimage, htlc.payment_hash, htlc.id, htlc.others, books, parts
        )
        item = sweep.htlc_with_preimage(
            outpoint, output.value, output.witness_script, preimage, anchors=params.anchors
        )
    else:
        item = sweep.htlc_after_timeout(
            outpoint, output.value, output.witness_script, htlc.cltv_expiry, anchors=params.anchors
        )
    return item, Secret(channel.htlc_secret(point)), frozen_by_peer(state)


def _output_of(
    params: CommitmentParams, state: ChannelState, wanted: SweepInput, named: SweptHtlc, point: bytes
) -> HtlcOutput | None:
    """The output as the version says that has this transaction id; `offered` there is seen from the peer."""
    for version in state.counterparty[wanted.number]:
        commitment = build(params, Side.COUNTERPARTY, version.content, point)
        if commitment.txid != wanted.txid:
            continue
        for output in commitment.htlcs:
            htlc = output.htlc
            if output.index == wanted.index and output.value == wanted.value:
                same = (htlc.offered, htlc.id, htlc.payment_hash, htlc.cltv_expiry)
                asked = (not named.offered, named.id, named.payment_hash, named.cltv_expiry)
                return output if same == asked else None
    return None


def punish(channel: Channel, params: CommitmentParams, state: ChannelState, wanted: SweepInput) -> Claimed:
    """An output of a revoked commitment. Its content is not kept; a wrong term makes the signature worthless."""
    secret = onchain.penalty_secret(state, wanted.number)
    point = per_commitment_point(secret.reveal())
    known = scripts_of(params, Side.COUNTERPARTY, point)
    key = Secret(derive_revocation_secret(channel.secrets.revocation.reveal(), secret.reveal()))
    outpoint = OutPoint(wanted.txid, wanted.index)
    if wanted.kind != "revoked_htlc":
        return sweep.revoked(outpoint, wanted.value, known.to_local), key, frozen_by_peer(state)
    htlc = wanted.htlc
    onchain.has_htlc(htlc is not None and htlc.cltv_expiry >= 0)
    assert htlc is not None  # noqa: S101 - the rule above has refused
    if htlc.offered:  # by us, so the owner of the commitment received it
        script = known.htlc.received(htlc.payment_hash, htlc.cltv_expiry)
    else:
        script = known.htlc.offered(htlc.payment_hash)
    item = sweep.htlc_revoked(outpoint, wanted.value, script, known.keys.revocationpubkey)
    return item, key, frozen_by_peer(state)


def delayed_output(
    channel: Channel, params: CommitmentParams, state: ChannelState, wanted: SweepInput
) -> tuple[sweep.SweepInput, Secret]:
    """Our delayed output of a transaction that is not known here: of a second stage, which may have coins, or of a
    commitment whose state was lost. The script alone is ours to say; a wrong value makes the signature worthless."""
    closing.delayed_number(state.frozen, wanted.number, state.holder_validated)
    point = channel.point(wanted.number)
    script = scripts_of(params, Side.HOLDER, point).to_local
    outpoint = OutPoint(wanted.txid, wanted.index)
    item = sweep.to_local(outpoint, wanted.value, script, params.holder.to_self_delay)
    return item, Secret(channel.delayed_secret(point))


def sign_second_stage(
    channel: Channel,
    params: CommitmentParams,
    state: ChannelState,
    request: SignSecondStage,
    books: Books,
    keys: NodeKeys,
    reserve: Reserve,
    parts: Parts,
) -> tuple[bytes, ChannelState]:
    """HTLC-timeout or HTLC-success of the commitment that was force-closed with; signed whole by us, so that nobody
    can attach anything to it."""
    closing.swept_number(state.frozen, request.number, state.holder_validated)
    point = channel.point(request.number)
    version = state.holder[request.number][-1]
    commitment = build(params, Side.HOLDER, version.content, point)
    chosen = [_staged(commitment, htlc.offered, htlc.id) for htlc in request.htlcs]
    stages = [commitment.second_stage.transaction(output) for _, output in chosen]
    onchain.stage_together(request, [tx.locktime for tx in stages], anchors=params.anchors)
    preimages: list[bytes] = []
    for htlc, (_, output) in zip(request.htlcs, chosen, strict=True):
        preimage = b""
        if not htlc.offered:
            payment_hash = output.htlc.payment_hash
            preimage, state = preimage_for(
                channel, state, htlc.preimage, payment_hash, htlc.id, htlc.others, books, parts
            )
        preimages.append(preimage)
    unsigned = _with_coins(stages, chosen, request, keys, books)
    reserve.spend(request.coins)
    key, peers = channel.htlc_secret(point), version.signatures[0].htlcs
    signed = unsigned
    for index, ((position, output), preimage) in enumerate(zip(chosen, preimages, strict=True)):
        ours = sign_ecdsa(key, segwit_v0(unsigned, index, output.witness_script, output.value))
        script, hash_type = output.witness_script, commitment.remote_hash_type
        if preimage:
            witness = success_witness(peers[position], ours, preimage, script, hash_type)
        else:
            witness = timeout_witness(peers[position], ours, script, hash_type)
        signed = with_witness(signed, index, witness)
    return _sign_coins(signed, unsigned, len(chosen), request, keys).serialize(), state


def _staged(commitment: Commitment, offered: bool, htlc_id: int) -> tuple[int, HtlcOutput]:
    """The HTLC's place among the peer's signatures, and its output."""
    for position, output in enumerate(commitment.htlcs):
        if (output.htlc.offered, output.htlc.id) == (offered, htlc_id):
            return position, output
    onchain.has_htlc(False)
    raise AssertionError("the rule above has refused")


def _with_coins(
    stages: list[Transaction],
    chosen: list[tuple[int, HtlcOutput]],
    request: SignSecondStage,
    keys: NodeKeys,
    books: Books,
) -> Transaction:
    """One transaction of all: HTLC inputs and outputs in the same places, as SIGHASH_SINGLE asks, then the coins."""
    inputs = [stage.inputs[0] for stage in stages]
    outputs = [stage.outputs[0] for stage in stages]
    moved = Sat(sum(output.value for _, output in chosen))
    if not request.coins:
        fee = moved - sum(output.value for output in outputs)
        if stages[0].inputs[0].sequence:  # with anchors: nothing would pay for it
            onchain.fee_coins(request, Sat(0), Sat(1))
        # The peer signed this fee with the commitment; there is no other transaction.
        onchain.onchain_fee(fee, moved)
        return stages[0]
    paid = Sat(sum(coin.value for coin in request.coins))
    for coin in request.coins:
        outpoint = OutPoint(coin.txid, coin.index)
        if coin.branch != RESERVE:  # those of the reserve are proven
            books.pin_value(outpoint, coin.value)
        inputs.append(TxIn(outpoint, sequence=sweep.REPLACEABLE))
    onchain.fee_coins(request, paid, Sat(0))  # places first: no key is derived from a wild one
    tx = Transaction(2, tuple(inputs), tuple(outputs), stages[0].locktime)
    change_script = None if request.change is None else keys.wallet_script(*request.change)
    fee = fee_of_weight(_weight(tx, chosen, change_script), request.feerate_per_kw)
    onchain.fee_coins(request, paid, fee)
    if change_script is not None and paid - fee >= dust_threshold(change_script):
        outputs.append(TxOut(Sat(paid - fee), change_script))
    else:
        fee = paid
    onchain.onchain_fee(fee, onchain.fee_limit(moved, len(chosen), penalty=False))
    return Transaction(2, tuple(inputs), tuple(outputs), stages[0].locktime)


def _weight(tx: Transaction, chosen: list[tuple[int, HtlcOutput]], change_script: bytes | None) -> int:
    """With the longest witnesses, and with the change."""
    long = bytes(_LONGEST_SIGNATURE)
    for index, (_, output) in enumerate(chosen):
        preimage = b"" if output.htlc.offered else bytes(32)
        tx = with_witness(tx, index, (b"", long, long, preimage, output.witness_script))
    for index in range(len(chosen), len(tx.inputs)):
        tx = with_witness(tx, index, (long, bytes(33)))
    change = 0 if change_script is None else 4 * (9 + len(change_script))
    return tx.weight + change


def _sign_coins(
    signed: Transaction, unsigned: Transaction, first: int, request: SignSecondStage, keys: NodeKeys
) -> Transaction:
    for index, coin in enumerate(request.coins, first):
        key = keys.wallet_secret(coin.branch, coin.position).reveal()
        public = point_of(key)
        digest = segwit_v0(unsigned, index, p2wpkh_script_code(p2wpkh(public)), coin.value)
        signed = with_witness(signed, index, (bitcoin_signature(sign_ecdsa(key, digest)), public))
    return signed
