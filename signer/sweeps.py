"""Bringing a closed channel's outputs to the cold branch (BOLT 5, "Unilateral Close Handling")."""

from protocol.amounts import Sat
from protocol.bitcoin.transaction import OutPoint
from protocol.bolt3 import scripts, sweep
from protocol.bolt3.commitment import CommitmentParams, OutputKind, Side, build
from protocol.bus.messages.signer import SignSweep, SweepInput
from protocol.curve import sign_ecdsa
from protocol.errors import CommandRefused
from protocol.secret import Secret
from signer import onchain
from signer.books import Books
from signer.channel import Channel
from signer.channel_state import ChannelState
from signer.parts import Parts
from signer.policy import closing
from signer.policy import onchain as rules
from signer.policy.backup import STALE
from signer.refusal import Denied

PENALTIES = ("revoked_to_local", "revoked_htlc", "revoked_second_stage")
KINDS = (
    "to_local",
    "to_remote",
    "second_stage_output",
    "their_offered_with_preimage",
    "their_received_after_timeout",
    *PENALTIES,
)


def sign_sweep(
    channel: Channel,
    params: CommitmentParams,
    state: ChannelState,
    request: SignSweep,
    books: Books,
    parts: Parts,
) -> tuple[bytes, ChannelState]:
    """The whole transaction, to the next script of the cold branch, and the state that follows."""
    spent: list[tuple[sweep.SweepInput, Secret]] = []
    for wanted in request.inputs:
        item, key, state = _input(channel, params, state, wanted, books, parts)
        spent.append((item, key))
    if not spent or len({item.outpoint for item, _ in spent}) != len(spent):
        raise Denied(
            "sweep-output",
            "a sweep spends at least one output, and each of them once",
            seen=f"{len(spent)} inputs",
            limit="different outputs",
            next_step="Name each output once.",
        )
    inputs = [item for item, _ in spent]
    for item in inputs:
        books.pin_value(item.outpoint, item.value)
    _, destination = books.draw_cold()
    try:
        built = sweep.build_sweep(inputs, destination, request.feerate_per_kw)
    except CommandRefused as error:
        raise Denied(
            "sweep-too-small",
            "a sweep leaves something after its fee",
            seen=error.sentence,
            limit="the dust limit",
            next_step=error.what_to_do,
        ) from error
    moved = Sat(sum(item.value for item in inputs))
    penalty = all(wanted.kind in PENALTIES for wanted in request.inputs)
    rules.onchain_fee(built.fee, rules.fee_limit(moved, len(inputs), penalty=penalty))
    signatures = [
        sign_ecdsa(key.reveal(), digest) if digest is not None else None
        for digest, (_, key) in zip(built.digests, spent, strict=True)
    ]
    return built.signed(signatures).serialize(), state


def _input(
    channel: Channel,
    params: CommitmentParams,
    state: ChannelState,
    wanted: SweepInput,
    books: Books,
    parts: Parts,
) -> onchain.Claimed:
    match wanted.kind:
        case "to_local":
            return *_to_local(channel, params, state, wanted), state
        case "to_remote":
            return *_to_remote(channel, params, wanted), state
        case "second_stage_output":
            return *onchain.delayed_output(channel, params, state, wanted), state
        case "their_offered_with_preimage" | "their_received_after_timeout":
            return onchain.claim(channel, params, state, wanted, books, parts)
        case "revoked_to_local" | "revoked_htlc" | "revoked_second_stage":
            return onchain.punish(channel, params, state, wanted)
        case _:
            raise Denied(
                "sweep-kind",
                "a sweep spends outputs of a kind that the signer knows",
                seen=ascii(wanted.kind[:40]),
                limit=", ".join(KINDS),
                next_step="Use a newer signer, or leave this output out.",
            )


def _to_local(
    channel: Channel, params: CommitmentParams, state: ChannelState, wanted: SweepInput
) -> tuple[sweep.SweepInput, Secret]:
    if state.frozen == STALE:  # the commitment in the chain may be newer than all versions that are kept
        return onchain.delayed_output(channel, params, state, wanted)
    closing.swept_number(state.frozen, wanted.number, state.holder_validated)
    point = channel.point(wanted.number)
    outpoint = OutPoint(wanted.txid, wanted.index)
    for version in state.holder[wanted.number]:
        commitment = build(params, Side.HOLDER, version.content, point)
        output = commitment.output(OutputKind.TO_LOCAL)
        if output is None or commitment.txid != wanted.txid:
            continue
        closing.swept_output(output.index == wanted.index and output.value == wanted.value)
        item = sweep.to_local(outpoint, output.value, output.witness_script, params.holder.to_self_delay)
        return item, Secret(channel.delayed_secret(point))
    closing.swept_output(False)
    raise AssertionError("the rule above has refused")


def _to_remote(
    channel: Channel, params: CommitmentParams, wanted: SweepInput
) -> tuple[sweep.SweepInput, Secret]:
    # The peer may have published a state that we no longer keep, or one from after a loss of our data, so
    # the value is not looked up here: a wrong one makes the signature worthless, and it cannot change later.
    outpoint, key = OutPoint(wanted.txid, wanted.index), channel.secrets.public.payment_basepoint
    if params.anchors:
        item = sweep.to_remote_anchors(outpoint, wanted.value, scripts.to_remote_anchors(key))
    else:
        item = sweep.to_remote(outpoint, wanted.value, key)
    return item, channel.secrets.payment
