"""The operations of a channel request, one function each (BOLT 2, "Normal Operation"; DESIGN, "The signer contract").

`apply` takes a state and an operation, and gives the next state and the answer, or raises `Denied` or `PeerBroke`.
It writes nothing: the service saves the states of a turn before any answer leaves. What was granted before is
recognised first and answered again, even when the channel is frozen; it has left already.
"""

from collections.abc import Callable
from typing import assert_never

from msgspec import Struct
from msgspec.structs import replace

from protocol.amounts import Msat, to_msat
from protocol.bitcoin.transaction import Transaction
from protocol.bolt3 import closing, shachain, simple_close
from protocol.bolt3.commitment import (
    Commitment,
    CommitmentContent,
    CommitmentParams,
    Side,
    build,
    validate_content,
)
from protocol.bolt3.content import MAX_COMMITMENT_NUMBER
from protocol.bolt3.fees import dust_threshold
from protocol.bus.messages import signer as contract
from protocol.curve import InvalidKey, point_of, sign_ecdsa, verify_ecdsa
from protocol.errors import MalformedMessage, PeerViolation
from protocol.hashes import sha256
from protocol.secret import Secret
from signer.channel import Channel
from signer.channel_state import (
    ChannelState,
    Version,
    frozen_by_peer,
    with_released,
    with_version,
    without_revoked,
)
from signer.forwards import Forwards, Onward
from signer.parts import Parts
from signer.policy import backup, balance, fees, onchain, order, payments
from signer.policy import closing as closing_rules
from signer.policy import forwards as forward_rules
from signer.refusal import Denied, PeerBroke
from signer.reserve import Reserve

_COMMIT = 'BOLT 2, "Committing Updates So Far: `commitment_signed`"'
_CLOSE = 'BOLT 2, "Legacy Closing Negotiation: `closing_signed`"'


class OwnInvoice(Struct, frozen=True):
    """What a release needs of an invoice; `granted` holds the HTLC ids of this channel that it was released for."""

    preimage: Secret
    amount_msat: Msat | None
    granted: frozenset[int]


class Ledger(Struct, frozen=True):
    """What an operation may ask of the rest of the signer."""

    invoice: Callable[[bytes, bytes], OwnInvoice | None]
    """(payment hash, channel)"""
    note_release: Callable[[bytes, bytes, frozenset[int]], None]
    is_cold: Callable[[bytes], bool]
    is_own: Callable[[bytes], bool]
    """Whether this is the payment hash of an invoice of ours."""
    granted: Callable[[bytes, bytes], frozenset[int]]
    """(payment hash, channel): the ids that a preimage was released for."""
    forwards: Forwards
    reserve: Reserve
    parts: Parts


Step = tuple[ChannelState, contract.Result]


def apply(
    channel: Channel,
    params: CommitmentParams,
    state: ChannelState,
    operation: contract.Operation,
    ledger: Ledger,
) -> Step:
    match operation:
        case contract.ValidateHolder():
            return _validate(channel, params, state, operation, ledger)
        case contract.RevokeHolder():
            return _revoke(channel, state, operation.number)
        case contract.SignCounterparty():
            return _sign(channel, params, state, operation, ledger)
        case contract.AcceptRevocation():
            return _accept_revocation(state, operation)
        case contract.AcceptSecondPoint():
            return _accept_second_point(state, operation.point)
        case contract.CheckSecret():
            return state, contract.SecretChecked(_is_our_secret(channel, operation))
        case contract.LearnPreimage():
            return _learn(channel, state, operation.preimage, ledger)
        case contract.ReleasePreimage():
            return _release(channel, state, operation, ledger)
        case contract.HtlcBuried():
            return _bury(channel, params, state, operation, ledger)
        case contract.SignMutualClose():
            return _mutual_close(channel, params, state, operation, ledger)
        case contract.SignHolderCommitment():
            return _force_close(channel, params, state)
        case _:
            assert_never(operation)


def _known_version(state: ChannelState, side: Side, content: CommitmentContent) -> Version | None:
    for version in state.side(side).get(content.number, ()):
        if version.content == content:
            return version
    return None


def _new_content(
    channel: Channel,
    params: CommitmentParams,
    state: ChannelState,
    side: Side,
    content: CommitmentContent,
    ledger: Ledger,
) -> None:
    """The rules for a content that is new on its side."""
    order.version_set_full(state, side, content.number)
    try:
        validate_content(params, side, content)
    except PeerViolation as error:
        raise onchain.content_impossible(error) from error
    fees.commitment_burn(params, side, content)
    opener = params.opener_is_holder
    balance.opening_balance(content, side, params.capacity, channel.push_msat, holder_is_opener=opener)
    before = balance.htlc_changed(state, side, content)
    paid = ledger.forwards.judge_removals(channel.handle, state, side, content)
    if paid:
        # What was passed on and paid is owed to us like a released preimage.
        state = replace(state, released=state.released | paid)
    balance.balance_claim(state, side, content, before)


def _one_funding(count: int) -> None:
    if count != 1:
        raise Denied(
            "fundings",
            "a commitment is signed once for each funding of the channel",
            seen=f"{count} sets of signatures",
            limit="1",
            next_step="Send one set of signatures for the one funding.",
        )


def _verify(commitment: Commitment, params: CommitmentParams, given: contract.PeerSignatures) -> None:
    """`peer-signature`: the funding signature and one for every HTLC output; a high S is none (BOLT 3)."""
    if not verify_ecdsa(params.counterparty.keys.funding_pubkey, commitment.digest, given.commitment):
        raise PeerBroke("peer-signature", "the signature on our commitment is not valid", _COMMIT)
    if len(given.htlcs) != len(commitment.htlcs):
        raise PeerBroke(
            "peer-signature",
            f"{len(given.htlcs)} HTLC signatures came, our commitment has {len(commitment.htlcs)} HTLC outputs",
            _COMMIT,
        )
    key = commitment.scripts.keys.remote_htlcpubkey
    for index, (digest, signature) in enumerate(zip(commitment.htlc_digests(), given.htlcs, strict=True)):
        if not verify_ecdsa(key, digest, signature):
            raise PeerBroke("peer-signature", f"HTLC signature {index} is not valid", _COMMIT)


def _validate(
    channel: Channel,
    params: CommitmentParams,
    state: ChannelState,
    operation: contract.ValidateHolder,
    ledger: Ledger,
) -> Step:
    content, signatures = operation.content, operation.signatures
    _same_number(operation.number, content)
    _one_funding(len(signatures))
    known = _known_version(state, Side.HOLDER, content)
    if known is None:
        order.not_frozen(state)
        order.validate_order(state, content.number)
        _new_content(channel, params, state, Side.HOLDER, content, ledger)
    if known is None or known.signatures != signatures:
        commitment = build(params, Side.HOLDER, content, channel.point(content.number))
        _verify(commitment, params, signatures[0])
    if known is None:
        state = with_version(state, Side.HOLDER, Version(content, signatures))
    return state, contract.Validated()


def _same_number(number: int, content: CommitmentContent) -> None:
    if number != content.number:
        raise Denied(
            "number",
            "the number of a request is that of its content",
            seen=f"commitment {number} with the content of {content.number}",
            limit="one number",
            next_step="Send the content of the commitment that is meant.",
        )


def _revoke(channel: Channel, state: ChannelState, number: int) -> Step:
    if not 0 <= number < state.holder_revoked:
        order.not_frozen(state)
        order.revoke_order(state, number)
        state = without_revoked(replace(state, holder_revoked=number + 1))
    return state, contract.Revoked(channel.secret(number), channel.point(number + 2))


def _sign(
    channel: Channel,
    params: CommitmentParams,
    state: ChannelState,
    operation: contract.SignCounterparty,
    ledger: Ledger,
) -> Step:
    content = operation.content
    _same_number(operation.number, content)
    known = _known_version(state, Side.COUNTERPARTY, content)
    if known is None:
        order.not_frozen(state)
        order.sign_order(state, content.number)
        order.holder_first(state, content.number)
    point = order.sign_point(state, content.number)
    if known is None:
        _new_content(channel, params, state, Side.COUNTERPARTY, content, ledger)
        if params.anchors:
            ledger.reserve.judge_offer(channel.handle, state, content)
    onwards: list[Onward] = []
    if operation.forwards:
        onwards = ledger.forwards.judge(channel, state, content, operation.forwards, ledger.is_own)
        if onwards:
            order.not_frozen(state)
    commitment = build(params, Side.COUNTERPARTY, content, point)
    signature = sign_ecdsa(channel.secrets.funding.reveal(), commitment.digest)
    htlcs: tuple[bytes, ...] = ()
    if commitment.htlcs:
        secret = channel.htlc_secret(point)
        htlcs = tuple([sign_ecdsa(secret, digest) for digest in commitment.htlc_digests()])
    if known is None:
        state = with_version(state, Side.COUNTERPARTY, Version(content))
    ledger.forwards.note(onwards)
    return state, contract.CounterpartySigned((contract.PeerSignatures(signature, htlcs),))


def _known_point(state: ChannelState, number: int) -> bytes | None:
    """The peer's point for a number, out of its secret once it was revoked."""
    secret = state.secrets.secret(shachain.index_of_commitment(number))
    return state.points.get(number) if secret is None else point_of(secret.reveal())


def peer_point(state: ChannelState, number: int) -> bytes:
    """For recognising what the peer published; a public value."""
    point = _known_point(state, number) if 0 <= number <= MAX_COMMITMENT_NUMBER else None
    return order.sign_point(state, number) if point is None else point


def _accept_revocation(state: ChannelState, operation: contract.AcceptRevocation) -> Step:
    number = operation.number
    accepted = contract.RevocationAccepted()
    if 0 <= number < state.counterparty_revoked:
        secret = state.secrets.secret(shachain.index_of_commitment(number))
        order.same_again(secret == Secret(operation.secret), "the secret of a commitment")
        known = _known_point(state, number + 2)
        order.same_again(known == operation.next_point, "its next per-commitment point")
        return state, accepted
    order.revocation_order(state, number)
    try:
        derived = point_of(operation.secret)
    except InvalidKey:
        derived = b""
    order.revocation_secret(state.points[number], derived, number)
    order.next_point(operation.next_point)
    try:
        secrets = state.secrets.insert(shachain.index_of_commitment(number), Secret(operation.secret))
    except PeerViolation as error:
        raise PeerBroke("revocation-chain", error.sentence, error.clause) from error
    points = {**state.points, number + 2: operation.next_point}
    state = replace(state, counterparty_revoked=number + 1, secrets=secrets, points=points)
    return without_revoked(state), accepted


def _accept_second_point(state: ChannelState, point: bytes) -> Step:
    known = _known_point(state, 1)
    if known is not None:
        order.same_again(known == point, "its second per-commitment point")
    else:
        order.next_point(point)
        state = replace(state, points={**state.points, 1: point})
    return state, contract.SecondPointAccepted()


def _is_our_secret(channel: Channel, operation: contract.CheckSecret) -> bool:
    """Nothing leaves but yes or no to a guess of 32 bytes."""
    if not 0 <= operation.number <= MAX_COMMITMENT_NUMBER:
        return False
    return Secret(channel.secret(operation.number)) == Secret(operation.secret)


def _learn(channel: Channel, state: ChannelState, preimage: bytes, ledger: Ledger) -> Step:
    """Granted always; it changes something only while an offered HTLC has this hash."""
    payment_hash = sha256(preimage)
    lives = payment_hash not in state.learned and any(
        htlc.payment_hash == payment_hash and htlc.offered == (side is Side.HOLDER)
        for side, version in state.all_versions()
        for htlc in version.content.htlcs
    )
    if lives:
        state = replace(state, learned=state.learned | {payment_hash})
        ledger.forwards.learned(channel.handle, state, payment_hash)
    return state, contract.PreimageLearned()


def _release(
    channel: Channel, state: ChannelState, operation: contract.ReleasePreimage, ledger: Ledger
) -> Step:
    payment_hash = operation.payment_hash
    invoice = ledger.invoice(payment_hash, channel.handle)
    if invoice is not None:
        # Evidence changes nothing here: who has our preimage early may still not have it for less.
        preimage, amount, granted = invoice.preimage.reveal(), invoice.amount_msat, invoice.granted
    elif operation.preimage is not None:
        onchain.preimage_fits(operation.preimage, payment_hash)
        preimage, amount, granted = operation.preimage, None, ledger.granted(payment_hash, channel.handle)
    else:
        raise payments.release_unknown()
    ids = frozenset(operation.htlc_ids)
    others = ledger.parts.named(channel, operation.others)
    known = all(theirs <= ledger.granted(payment_hash, other.handle) for other, theirs in others)
    if not ids or not ids <= granted or not known:
        order.not_frozen(state)
        held = payments.release_htlcs(state, payment_hash, ids)
        elsewhere = [ledger.parts.held(other, payment_hash, theirs) for other, theirs in others]
        payments.release_amount((held, *elsewhere), amount)
        ledger.note_release(payment_hash, channel.handle, ids)
        for (other, theirs), held_there in zip(others, elsewhere, strict=True):
            ledger.note_release(payment_hash, other.handle, theirs)
            ledger.parts.credit(other, held_there)
        state = with_released(state, held)
    return state, contract.PreimageReleased(preimage)


def _bury(
    channel: Channel,
    params: CommitmentParams,
    state: ChannelState,
    operation: contract.HtlcBuried,
    ledger: Ledger,
) -> Step:
    """The chain has decided an offered HTLC; what it is told of the chain, the signer cannot check."""
    try:
        spent = [spend.outpoint for spend in Transaction.parse(operation.spend).inputs]
    except MalformedMessage:
        spent = []
    forward_rules.buried_spend(params.funding_outpoint in spent)
    ledger.forwards.bury(channel.handle, state, operation.htlc_id)
    return frozen_by_peer(state), contract.HtlcIsBuried()


def _mutual_close(
    channel: Channel,
    params: CommitmentParams,
    state: ChannelState,
    operation: contract.SignMutualClose,
    ledger: Ledger,
) -> Step:
    backup.not_stale(state)
    closing_rules.close_without_htlcs(state, ledger.forwards.passed_on(channel.handle))
    closing_rules.close_amounts(state, params.capacity, operation.to_holder, operation.to_counterparty)
    closing_rules.cold_script(ledger.is_cold(operation.holder_script))
    simple = operation.simple
    if simple is None or simple.by_holder:  # a fee that the peer pays is the peer's matter
        closing_rules.close_fee(operation.fee, params.capacity)
    try:
        close = (
            _legacy_close(params, operation) if simple is None else _simple_close(params, operation, simple)
        )
    except PeerViolation as error:
        raise PeerBroke("close-fee", error.sentence, _CLOSE) from error
    signature = sign_ecdsa(channel.secrets.funding.reveal(), close.digest)
    if not state.frozen:
        state = replace(state, frozen="mutual_close")
    return state, contract.MutualCloseSigned(signature)


def _legacy_close(params: CommitmentParams, operation: contract.SignMutualClose) -> closing.Closing:
    return closing.build(
        params,
        operation.to_holder,
        operation.to_counterparty,
        operation.holder_script,
        operation.counterparty_script,
        operation.fee,
        omit=Side.COUNTERPARTY if operation.without_counterparty else None,
    )


def _simple_close(
    params: CommitmentParams, operation: contract.SignMutualClose, simple: contract.SimpleClose
) -> closing.Closing:
    closing_rules.close_form(simple.variant)
    variant = simple_close.Variant(simple.variant)
    ours = (to_msat(operation.to_holder), operation.holder_script)
    theirs = (to_msat(operation.to_counterparty), operation.counterparty_script)
    closer, closee = (ours, theirs) if simple.by_holder else (theirs, ours)
    terms = simple_close.Terms(closer[0], closee[0], closer[1], closee[1], operation.fee, simple.locktime)
    left_out = simple_close.Variant.CLOSEE_ONLY if simple.by_holder else simple_close.Variant.CLOSER_ONLY
    amount = terms.closer_amount if simple.by_holder else terms.closee_amount
    closing_rules.close_output(variant is not left_out, amount, dust_threshold(operation.holder_script))
    return simple_close.build(params, terms, variant)


def _force_close(channel: Channel, params: CommitmentParams, state: ChannelState) -> Step:
    backup.not_stale(state)
    if state.holder_validated < 0:
        raise Denied(
            "nothing-validated",
            "a force close publishes our newest validated commitment",
            seen="no commitment of ours is validated",
            limit="commitment 0 of ours",
            next_step="Forget this channel: without our commitment its funding must never be published.",
        )
    number = state.holder_validated
    version = state.holder[number][-1]
    commitment = build(params, Side.HOLDER, version.content, channel.point(number))
    signature = sign_ecdsa(channel.secrets.funding.reveal(), commitment.digest)
    signed = commitment.signed(signature, version.signatures[0].commitment)
    if state.frozen != "force_close":
        state = replace(state, frozen="force_close")
    return state, contract.HolderCommitmentSigned(number, signed.serialize())
