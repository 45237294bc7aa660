"""Penalties signed beforehand, one set for each revoked commitment (BOLT 5, "Revoked Transaction Close Handling").

No value is pinned here (`Books.pin_value`), and none need be: the transaction id of the commitment, which each of these
transactions names, is a hash over the values of its outputs. So a value here is true, or the output cannot exist; two
requests cannot give two values to one output, and a lie that was pinned for a sweep before does not stop a penalty.
"""

from protocol.amounts import FeeratePerKw, Sat
from protocol.bitcoin.transaction import OutPoint
from protocol.bolt3 import sweep
from protocol.bolt3.commitment import Commitment, CommitmentParams, OutputKind, Side, build, validate_content
from protocol.bolt3.keys import derive_revocation_secret, per_commitment_point
from protocol.bus.messages.signer import PenaltiesSigned, SignPenalties
from protocol.bus.messages.signer_onchain import PENALTY_INPUTS
from protocol.curve import sign_ecdsa
from protocol.errors import CommandRefused, PeerViolation
from protocol.secret import Secret
from signer.channel import Channel
from signer.channel_state import ChannelState
from signer.keys import COLD, NodeKeys
from signer.policy import onchain as rules


def sign_penalties(
    channel: Channel, params: CommitmentParams, state: ChannelState, request: SignPenalties, keys: NodeKeys
) -> PenaltiesSigned:
    rules.penalty_feerates(request.feerates)
    secret = rules.penalty_secret(state, request.content.number)
    try:
        validate_content(params, Side.COUNTERPARTY, request.content)
    except PeerViolation as error:
        raise rules.content_impossible(error) from error
    point = per_commitment_point(secret.reveal())
    commitment = build(params, Side.COUNTERPARTY, request.content, point)
    key = Secret(derive_revocation_secret(channel.secrets.revocation.reveal(), secret.reveal()))
    # One script for all states of a channel: an index for each of a million states would hide the rest of the branch.
    destination = keys.wallet_script(COLD, channel.cold_index)
    groups = _groups(commitment)
    signed = [
        transaction
        for feerate in request.feerates
        for group in groups
        if (transaction := _signed(group, destination, feerate, key)) is not None
    ]
    return PenaltiesSigned(commitment.txid, tuple(signed))


def _groups(commitment: Commitment) -> list[list[sweep.SweepInput]]:
    """What goes into one transaction: all together, then each alone, then each second stage's output."""
    direct: list[sweep.SweepInput] = []
    main = commitment.output(OutputKind.TO_LOCAL)
    if main is not None:
        outpoint = OutPoint(commitment.txid, main.index)
        direct.append(sweep.revoked(outpoint, main.value, main.witness_script))
    revocationpubkey = commitment.scripts.keys.revocationpubkey
    for output in commitment.htlcs:
        outpoint = OutPoint(commitment.txid, output.index)
        direct.append(sweep.htlc_revoked(outpoint, output.value, output.witness_script, revocationpubkey))
    groups = [direct[start : start + PENALTY_INPUTS] for start in range(0, len(direct), PENALTY_INPUTS)]
    if len(direct) > 1:
        groups += [[item] for item in direct]
    if not commitment.params.anchors:
        for stage in commitment.htlc_transactions():
            paid = stage.outputs[0].value
            groups.append([sweep.revoked(OutPoint(stage.txid, 0), paid, commitment.scripts.to_local)])
    return groups


def _signed(
    group: list[sweep.SweepInput], destination: bytes, feerate: FeeratePerKw, key: Secret
) -> bytes | None:
    """None where the fee would take more than its share."""
    try:
        built = sweep.build_sweep(group, destination, feerate)
    except CommandRefused:
        return None
    moved = Sat(sum(item.value for item in group))
    if built.fee > rules.fee_limit(moved, len(group), penalty=True):
        return None
    return built.signed(
        [None if digest is None else sign_ecdsa(key.reveal(), digest) for digest in built.digests]
    ).serialize()
