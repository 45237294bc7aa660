"""The close that each side pays for itself: closing_complete and closing_sig (BOLT 2, "Closing Negotiation:
`closing_complete` and `closing_sig`"; checklist 55).

Each side may propose a transaction of its own, again and again at a higher fee; whichever confirms ends the channel.
So a channel with such a transaction goes on answering until one of them is in a block.
"""

from msgspec.structs import replace

from node.channel import dance
from node.channel.content import commitment_params
from node.channel.events import Publish, Save
from node.channel.state import CloseKind, CloseRound, Closing, Online, ShuttingDown
from node.channel.turn import Turn
from protocol import curve
from protocol.amounts import FEERATE_FLOOR, FeeratePerKw, Sat, floor_sat
from protocol.bitcoin.transaction import Transaction
from protocol.bolt3 import simple_close as bolt3
from protocol.bolt3.closing import closing_fee, is_shutdown_script
from protocol.bolt3.simple_close import CLAUSE, Terms, Variant
from protocol.bus.messages.signer import (
    MAX_CLOSING_FEE,
    MAX_CLOSING_FEE_SHARE,
    SignMutualClose,
    SimpleClose,
)
from protocol.errors import CommandRefused, PeerViolation
from protocol.wire.bolt2_close import ClosingComplete, ClosingSig, ClosingTlvs

LOCKTIME = 0


def their_script(turn: Turn) -> bytes | None:
    """The last script that the peer named, in closing_complete or shutdown."""
    phase = turn.c.phase
    if turn.c.peer_close_script is not None:
        return turn.c.peer_close_script
    return phase.theirs if isinstance(phase, ShuttingDown) else None


def goes_on(turn: Turn) -> bool:
    """A closing transaction is out and not in a block: it may still be replaced."""
    phase = turn.c.phase
    return (
        isinstance(phase, Closing)
        and phase.kind is CloseKind.MUTUAL
        and phase.height is None
        and turn.c.peer_close_script is not None
    )


def propose(turn: Turn) -> None:
    """Asks the signer for our closing transaction, if it is one that the network would take."""
    theirs = their_script(turn)
    assert theirs is not None  # noqa: S101 - the channel is clear, or a transaction with it is out
    turn.v = replace(turn.v, close_proposed=True)
    rate = max(turn.c.close_feerate or turn.env.feerate_per_kw, FEERATE_FLOOR)
    ours = turn.c.params.holder_script
    # What the signer would refuse is not proposed.
    most = min(
        floor_sat(turn.c.settled_local), MAX_CLOSING_FEE, turn.c.params.capacity // MAX_CLOSING_FEE_SHARE
    )
    fee = Sat(min(closing_fee(rate, ours, theirs), most))
    if fee < closing_fee(FEERATE_FLOOR, theirs):
        return  # we have nothing to pay with; the peer has, and proposes one too
    terms = Terms(turn.c.settled_local, turn.c.settled_remote, ours, theirs, fee, LOCKTIME)
    ask(turn, CloseRound(terms, by_us=True, variants=tuple(map(int, bolt3.offered(terms)))))


def bump(turn: Turn, feerate: FeeratePerKw | None) -> None:
    """A person wants the close that is out to pay more. Raises CommandRefused when that cannot be."""
    if feerate is None or not goes_on(turn):
        return
    if not turn.v.simple_close or not isinstance(turn.v.link, Online) or not turn.v.shutdown_heard:
        raise CommandRefused(
            "the closing transaction can be replaced only while the peer is connected",
            what_to_do="Connect to it, then ask again.",
        )
    if turn.busy or turn.v.close_sent is not None:
        raise CommandRefused(
            "the peer has not answered the last closing transaction", what_to_do="Try again in a moment."
        )
    phase, theirs = turn.c.phase, their_script(turn)
    assert isinstance(phase, Closing) and theirs is not None  # noqa: S101, PT018 - `goes_on` saw to it
    pays = turn.c.params.capacity - _paid(Transaction.parse(phase.tx))
    if closing_fee(feerate, turn.c.params.holder_script, theirs) <= pays:
        raise CommandRefused(
            f"the closing transaction that is out pays {pays} sat already",
            what_to_do="Ask for a higher feerate.",
        )
    turn.c.close_feerate = feerate
    turn.save(Save.NOW)
    propose(turn)


def ask(turn: Turn, what: CloseRound) -> None:
    """One signature for each form of the transaction."""
    what = replace(what, signatures=())
    turn.v = replace(turn.v, close_asked=what)
    terms = what.terms
    to_holder, to_counterparty = (
        (terms.to_closer, terms.to_closee) if what.by_us else (terms.to_closee, terms.to_closer)
    )
    ours, theirs = (
        (terms.closer_script, terms.closee_script)
        if what.by_us
        else (terms.closee_script, terms.closer_script)
    )
    operations = [
        SignMutualClose(
            floor_sat(to_holder),
            floor_sat(to_counterparty),
            ours,
            theirs,
            terms.fee,
            SimpleClose(what.by_us, terms.locktime, variant),
        )
        for variant in what.variants
    ]
    turn.ask_signer((*dance.preamble(turn.c), *operations))


def our_signature(turn: Turn, what: CloseRound, signature: bytes) -> None:
    """The signer signed one form of it."""
    what = replace(what, signatures=(*what.signatures, signature))
    if len(what.signatures) < len(what.variants):
        turn.v = replace(turn.v, close_asked=what)
        return
    turn.v = replace(turn.v, close_asked=None)
    if not isinstance(turn.v.link, Online):
        return
    if what.by_us:
        turn.v = replace(turn.v, close_sent=what)
        dance.send(turn, ClosingComplete(turn.c.params.channel_id, *_named(what.terms), _tlvs(what)))
        return
    turn.c.peer_close_script = what.terms.closer_script
    _complete(turn, what, Variant(what.variants[0]), signature, what.peer_signature)
    dance.send(turn, ClosingSig(turn.c.params.channel_id, *_named(what.terms), _tlvs(what)))


def _named(terms: Terms) -> tuple[bytes, bytes, Sat, int]:
    return terms.closer_script, terms.closee_script, terms.fee, terms.locktime


def _tlvs(what: CloseRound) -> ClosingTlvs:
    by_variant = dict(zip(what.variants, what.signatures, strict=True))
    return ClosingTlvs(
        closer_output_only=by_variant.get(Variant.CLOSER_ONLY),
        closee_output_only=by_variant.get(Variant.CLOSEE_ONLY),
        closer_and_closee_outputs=by_variant.get(Variant.BOTH),
    )


def _signatures(tlvs: ClosingTlvs) -> dict[Variant, bytes]:
    found = {
        Variant.CLOSER_ONLY: tlvs.closer_output_only,
        Variant.CLOSEE_ONLY: tlvs.closee_output_only,
        Variant.BOTH: tlvs.closer_and_closee_outputs,
    }
    return {variant: signature for variant, signature in found.items() if signature is not None}


def _complete(turn: Turn, what: CloseRound, variant: Variant, ours: bytes, theirs: bytes) -> None:
    """Publishes it. Of several that are out the one with the highest fee is ours to look for; all are broadcast."""
    tx = bolt3.build(commitment_params(turn.c.params), what.terms, variant).signed(ours, theirs)
    raw = tx.serialize()
    phase = turn.c.phase
    best = Transaction.parse(phase.tx) if isinstance(phase, Closing) and phase.tx else None
    if best is None or _paid(tx) <= _paid(best):
        turn.c.peer_close_script = turn.c.peer_close_script or what.terms.closee_script
        turn.set_phase(Closing(CloseKind.MUTUAL, raw), turn.c.why)
    turn.save(Save.NOW)
    turn.do(Publish(raw))


def _paid(tx: Transaction) -> int:
    """What the outputs get: the less, the more is fee."""
    return sum(output.value for output in tx.outputs)


def _check_signature(turn: Turn, terms: Terms, variant: Variant, signature: bytes) -> None:
    close = bolt3.build(commitment_params(turn.c.params), terms, variant)
    key = turn.c.params.counterparty_keys.funding_pubkey
    if not curve.verify_ecdsa(key, close.digest, signature):  # a high S is no signature
        raise PeerViolation("the signature on the closing transaction is wrong", clause=CLAUSE)


def closing_complete(turn: Turn, message: ClosingComplete) -> None:
    """The peer pays for this one: we sign it, and that is all."""
    params = turn.c.params
    if message.closee_scriptpubkey != params.holder_script:
        raise PeerViolation("closing_complete pays us to another script than our last", clause=CLAUSE)
    if not is_shutdown_script(message.closer_scriptpubkey, anysegwit=True, op_return=True):
        raise PeerViolation("closing_complete pays the peer to a script of an unknown form", clause=CLAUSE)
    upfront = params.counterparty_upfront_script
    if upfront and upfront != message.closer_scriptpubkey:
        raise PeerViolation("closing_complete to another script than the upfront one", clause=CLAUSE)
    terms = Terms(
        turn.c.settled_remote,
        turn.c.settled_local,
        message.closer_scriptpubkey,
        message.closee_scriptpubkey,
        message.fee_satoshis,
        message.locktime,
    )
    signatures = _signatures(message.tlvs)
    variant = bolt3.chosen(terms, frozenset(signatures))
    _check_signature(turn, terms, variant, signatures[variant])
    ask(turn, CloseRound(terms, by_us=False, variants=(int(variant),), peer_signature=signatures[variant]))


def closing_sig(turn: Turn, message: ClosingSig) -> None:
    sent = turn.v.close_sent
    if sent is None:
        raise PeerViolation("closing_sig without a closing_complete of ours", clause=CLAUSE)
    named = (
        message.closer_scriptpubkey,
        message.closee_scriptpubkey,
        message.fee_satoshis,
        message.locktime,
    )
    if named != _named(sent.terms):
        raise PeerViolation("closing_sig is for another transaction than our closing_complete", clause=CLAUSE)
    signatures = _signatures(message.tlvs)
    if len(signatures) != 1:
        raise PeerViolation(f"closing_sig has {len(signatures)} signatures, not one", clause=CLAUSE)
    ((variant, signature),) = signatures.items()
    if variant not in sent.variants:
        raise PeerViolation("closing_sig is for a form that we did not offer", clause=CLAUSE)
    _check_signature(turn, sent.terms, variant, signature)
    turn.v = replace(turn.v, close_sent=None)
    _complete(turn, sent, variant, sent.signatures[sent.variants.index(variant)], signature)
