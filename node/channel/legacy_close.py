"""The close that the opener pays for: both sides settle on a fee (BOLT 2, "Legacy Closing Negotiation"; BOLT 3, "Legacy
Closing Transaction"; checklist 54)."""

from msgspec.structs import replace

from node.channel import dance
from node.channel.content import commitment_params
from node.channel.events import Publish, Save, Send
from node.channel.state import CloseKind, Closing, Negotiation, Online, ShuttingDown
from node.channel.turn import Turn
from protocol import curve
from protocol.amounts import FEERATE_FLOOR, Sat, floor_sat
from protocol.bolt3 import closing as bolt3_closing
from protocol.bolt3.commitment import Side
from protocol.bus.messages.signer import MAX_CLOSING_FEE, MAX_CLOSING_FEE_SHARE, SignMutualClose
from protocol.errors import PeerViolation
from protocol.wire.bolt2_close import ClosingSigned, ClosingSignedTlvs, FeeRange

NEGOTIATING = 'BOLT 2, "Closing Negotiation: closing_signed"'


def begin(turn: Turn) -> None:
    """The channel is clear: the opener proposes a fee, the other side waits for it."""
    low, high, ideal = _range(turn)
    turn.v = replace(turn.v, negotiation=Negotiation(low, high))
    if turn.c.params.holder_is_opener:
        ask_to_close(turn, ideal)


def _scripts(turn: Turn) -> tuple[bytes, bytes]:
    assert isinstance(turn.c.phase, ShuttingDown) and turn.c.phase.theirs is not None  # noqa: S101, PT018
    return turn.c.params.holder_script, turn.c.phase.theirs


def _range(turn: Turn) -> tuple[Sat, Sat, Sat]:
    """Lowest, highest and preferred fee. Who does not pay it accepts whatever the network relays."""
    scripts = _scripts(turn)
    ideal = bolt3_closing.closing_fee(turn.c.close_feerate or turn.env.feerate_per_kw, *scripts)
    low = bolt3_closing.closing_fee(FEERATE_FLOOR, *scripts)
    if turn.c.params.holder_is_opener:
        balance = floor_sat(turn.c.settled_local)
        high = Sat(min(max(3 * ideal, low), balance))
    else:
        high = floor_sat(turn.c.settled_remote)
    # What the signer would refuse is not offered, or the negotiation would stall on it.
    high = Sat(min(high, MAX_CLOSING_FEE, turn.c.params.capacity // MAX_CLOSING_FEE_SHARE))
    return low, high, Sat(max(low, min(ideal, high)))


def _build(turn: Turn, fee: Sat, *, without_theirs: bool) -> bolt3_closing.Closing:
    ours, theirs = _scripts(turn)
    return bolt3_closing.build(
        commitment_params(turn.c.params),
        floor_sat(turn.c.settled_local),
        floor_sat(turn.c.settled_remote),
        ours,
        theirs,
        fee,
        omit=Side.COUNTERPARTY if without_theirs else None,
    )


def _is_dust_to_peer(turn: Turn, fee: Sat) -> bool:
    """The peer leaves its output out of the transaction that it signs: it is below its own limit."""
    params = turn.c.params
    left = floor_sat(turn.c.settled_remote) - (0 if params.holder_is_opener else fee)
    return left < params.counterparty.dust_limit


def ask_to_close(turn: Turn, fee: Sat, *, without_theirs: bool | None = None) -> None:
    """`without_theirs`: as in what the peer signed; None for a proposal of ours."""
    ours, theirs = _scripts(turn)
    if without_theirs is None:
        without_theirs = _is_dust_to_peer(turn, fee)
    operation = SignMutualClose(
        floor_sat(turn.c.settled_local),
        floor_sat(turn.c.settled_remote),
        ours,
        theirs,
        fee,
        without_counterparty=without_theirs,
    )
    if turn.v.negotiation is not None:
        turn.v = replace(turn.v, negotiation=replace(turn.v.negotiation, without_theirs=without_theirs))
    turn.v = replace(turn.v, closing_fee=fee)
    turn.ask_signer((*dance.preamble(turn.c), operation))


def our_signature(turn: Turn, signature: bytes) -> None:
    """The signer signed the close: propose it, or complete what the peer proposed."""
    fee, negotiation = turn.v.closing_fee, turn.v.negotiation
    turn.v = replace(turn.v, closing_fee=None)
    if fee is None or negotiation is None or not isinstance(turn.v.link, Online):
        return  # the connection was lost meanwhile: the negotiation begins anew
    fee_range = FeeRange(negotiation.low, negotiation.high)
    message = ClosingSigned(turn.c.params.channel_id, fee, signature, ClosingSignedTlvs(fee_range=fee_range))
    if negotiation.accepted is not None:
        _complete(turn, fee, signature, negotiation.accepted)
    else:
        turn.v = replace(turn.v, negotiation=replace(negotiation, proposed=fee, our_signature=signature))
    turn.do(Send((message,)))


def _complete(turn: Turn, fee: Sat, ours: bytes, theirs: bytes) -> None:
    closing, _ = _signed_by_peer(turn, fee, theirs)
    tx = closing.signed(ours, theirs).serialize()
    turn.set_phase(Closing(CloseKind.MUTUAL, tx), turn.c.why)
    turn.save(Save.NOW)
    turn.do(Publish(tx))


def _signed_by_peer(turn: Turn, fee: Sat, signature: bytes) -> tuple[bolt3_closing.Closing, bool]:
    """What this is a signature for, and whether the peer's output is left out of it: that is the peer's to choose
    (BOLT 3, "Legacy Closing Transaction")."""
    key = turn.c.params.counterparty_keys.funding_pubkey
    for without_theirs in (False, True):
        try:
            closing = _build(turn, fee, without_theirs=without_theirs)
        except PeerViolation:  # the fee cannot be paid, or nothing is left
            if without_theirs:
                break
            raise
        if curve.verify_ecdsa(key, closing.digest, signature):
            return closing, without_theirs
    raise PeerViolation("the signature on the closing transaction is wrong", clause=NEGOTIATING)


def closing_signed(turn: Turn, message: ClosingSigned) -> None:
    negotiation = turn.v.negotiation
    if negotiation is None or turn.busy:
        raise PeerViolation("closing_signed before the channel is clear", clause=NEGOTIATING)
    fee = message.fee_satoshis
    _, without_theirs = _signed_by_peer(turn, fee, message.signature)
    same = fee == negotiation.proposed and without_theirs == negotiation.without_theirs
    if same and negotiation.our_signature is not None:
        _complete(turn, fee, negotiation.our_signature, message.signature)
        return
    if negotiation.low <= fee <= negotiation.high:
        turn.v = replace(turn.v, negotiation=replace(negotiation, accepted=message.signature))
        ask_to_close(turn, fee, without_theirs=without_theirs)
        return
    turn.v = replace(turn.v, negotiation=replace(negotiation, heard=fee))
    fee_range = message.tlvs.fee_range
    if fee_range is None:
        ask_to_close(turn, _between(negotiation, fee))
        return
    if negotiation.heard is not None:
        raise PeerViolation(f"a closing fee of {fee} sat again outside of our range", clause=NEGOTIATING)
    low = max(negotiation.low, fee_range.min_fee_satoshis)
    high = min(negotiation.high, fee_range.max_fee_satoshis)
    if low > high:
        raise PeerViolation(
            f"no closing fee suits both: we pay {negotiation.low}..{negotiation.high} sat, the peer"
            f" {fee_range.min_fee_satoshis}..{fee_range.max_fee_satoshis}",
            clause=NEGOTIATING,
        )
    ask_to_close(turn, Sat(max(low, min(high, fee))))


def _between(negotiation: Negotiation, fee: Sat) -> Sat:
    """Strictly between the peer's fee and our last one, so that each round comes nearer. Raises PeerViolation where
    the peer does not move, or nothing between is a fee that we pay."""
    last, heard = negotiation.proposed, negotiation.heard
    if last is None:
        return Sat(max(negotiation.low, min(negotiation.high, fee)))
    if heard is not None and not min(heard, last) < fee < max(heard, last):
        raise PeerViolation(
            f"a closing fee of {fee} sat is not between the last ones, {heard} and {last}", clause=NEGOTIATING
        )
    answer = Sat(max(negotiation.low, min(negotiation.high, (fee + last) // 2)))
    if not min(fee, last) < answer < max(fee, last):
        raise PeerViolation(
            f"no closing fee suits both: we pay {negotiation.low}..{negotiation.high} sat, the peer wants {fee}",
            clause=NEGOTIATING,
        )
    return answer
