"""What signer, wallet and mempool answered about a transaction of ours (BOLT 5; checklist 47, 50, 52)."""

from msgspec.structs import replace

from node.onchain import claims, planning
from node.onchain.budget import PENALTIES, STAGED, is_worth_its_fee, paid_by
from node.onchain.events import CoinsFound, NotSigned, NotTaken, ReleaseCoins, Signed, Warn
from node.onchain.state import Claim, Kind
from node.onchain.turn import Turn
from protocol.amounts import FEERATE_FLOOR, FeeratePerKw
from protocol.bitcoin.transaction import Transaction

TOO_DEAR = ("close-fee", "sweep-too-small")
"""The signer's words for a fee that is out of proportion."""
NO_STAGE = "sweep-number"
"""The signer's word for a second stage of a commitment whose state it lost."""
NOT_GIVEN = "release-"
"""So begin the signer's words for a preimage of our own invoice that it does not give for an HTLC."""
IN_THE_WAY = ("fee", "replacement", "conflict", "spends-conflicting", "tx-size")
"""In a mempool's refusal: another transaction spends the same, or pays more than we do; or ours is too large."""
GONE = ("missing", "orphan")
"""In a mempool's refusal (bitcoind's, btcd's): an input is spent by a block, or its transaction is not known."""


def signed(turn: Turn, event: Signed) -> None:
    claim = turn.claim(event.claim)
    if claim is None:
        return  # it ended meanwhile; the transaction pays us all the same, if it can be mined
    if not _has_its_coins(turn, claim, Transaction.parse(event.tx)):
        return  # they were given back meanwhile; others are asked for
    if claim.tx != event.tx:
        planning.forget(turn, claim)
    claim = replace(claim, tx=event.tx, tx_feerate=event.feerate_per_kw, waits="", refused="")
    turn.put_claim(claim)
    planning.publish(turn, claim)


def _has_its_coins(turn: Turn, claim: Claim, tx: Transaction) -> bool:
    if not claims.needs_coins(turn.outputs(claim), turn.facts):
        return True
    spent = {(spend.outpoint.txid, spend.outpoint.index) for spend in tx.inputs}
    return bool(claim.coins) and all((coin.txid, coin.index) in spent for coin in claim.coins)


def not_signed(turn: Turn, event: NotSigned) -> None:
    claim = turn.claim(event.claim)
    if claim is None:
        return
    if event.tag in TOO_DEAR:
        _too_dear(turn, claim, event.why)
        return
    staged = all(output.role in STAGED for output in turn.outputs(claim))
    if event.tag == NO_STAGE and turn.facts.kind is Kind.OURS_LOST and staged:
        for output in turn.outputs(claim):
            turn.put_output(replace(output, given_up=planning.LOST))
        planning.drop_claims(turn, claim.outputs)
        return
    if event.tag.startswith(NOT_GIVEN) and len(claim.outputs) > 1:
        planning.part(turn, claim)  # it was refused for one of them; the preimages of the others may be given
        return
    if event.tag.startswith(NOT_GIVEN) and _expired(turn, claim):
        # It never stood in all commitments, so it never was a payment to us, and now it is the peer's again.
        for output in turn.outputs(claim):
            turn.put_output(
                replace(output, given_up="the peer's since its expiry, and its preimage was never given")
            )
        planning.drop_claims(turn, claim.outputs)
        return
    if event.tag in ("fee-coins", "reserve-coin") and claim.coins:
        turn.do(ReleaseCoins(claim.id))
        claim = replace(claim, coins=(), change=None)
        planning.publish(turn, claim)  # its last form, until there are more
    if event.why != claim.waits and event.tag:
        turn.do(Warn(f"a transaction of a closed channel waits: {event.why}"))
    turn.put_claim(replace(claim, waits=event.why))


def _expired(turn: Turn, claim: Claim) -> bool:
    htlcs = turn.htlcs
    keys = [output.htlc for output in turn.outputs(claim)]
    return all(key is not None and turn.env.height >= htlcs[key].cltv_expiry for key in keys)


def _too_dear(turn: Turn, claim: Claim, why: str) -> None:
    """Tries a lower feerate. At the lowest that is relayed an output that is not worth its fee is left."""
    rate = FeeratePerKw(claim.feerate_per_kw * 3 // 4)
    if claim.feerate_per_kw > FEERATE_FLOOR:
        lower = FeeratePerKw(max(FEERATE_FLOOR, rate))
        claim = replace(claim, feerate_per_kw=lower, limit=lower)
        turn.put_claim(claim)
        if claim.tx is None:
            planning.ask(turn, claim)
        return
    if claim.tx is not None:
        return
    outputs = turn.outputs(claim)
    for output in outputs:
        if len(outputs) > 1 and is_worth_its_fee(output, turn.htlcs, turn.facts):
            continue  # others were too small for the share that they had in it
        turn.put_output(replace(output, given_up=f"not worth its fee: {why}"))
        turn.do(Warn(f"an output of {output.value} sat is left: {why}"))
    planning.part(turn, claim)


def not_taken(turn: Turn, event: NotTaken) -> None:
    """Something stands in the way: a transaction of the peer's, or an older one of ours that came back.

    A coin that the wallet lent may be gone: it had not heard yet that another transaction of ours took it. Then others
    are asked for, or this one would wait for ever. If ours spends several outputs, one of them may be pinned: they
    part, so that it does not hold up the rest. One that stands alone pays more at the next block, up to its ceiling.
    """
    found = [c for c in turn.state.claims if c.tx and Transaction.parse(c.tx).txid == event.txid]
    if not found:
        return
    claim = found[0]
    if claim.coins and any(word in event.reason.lower() for word in GONE):
        turn.do(ReleaseCoins(claim.id))
        planning.forget(turn, claim)
        fresh = replace(claim, tx=None, tx_feerate=FeeratePerKw(0), coins=(), change=None)
        turn.put_claim(replace(fresh, waits="a coin of the wallet that was to pay its fee is spent"))
        return
    if not any(word in event.reason for word in IN_THE_WAY):
        return
    outputs = turn.outputs(claim)
    if len(outputs) > 1 and outputs[0].role in (*PENALTIES, *STAGED):
        planning.part(turn, claim)
        return
    turn.put_claim(replace(claim, refused=event.reason))


def coins_found(turn: Turn, event: CoinsFound) -> None:
    claim = turn.claim(event.claim)
    if claim is None:
        turn.do(ReleaseCoins(event.claim))
        return
    if not event.coins:
        if event.why != claim.waits:
            turn.do(Warn(f"no coin can pay the fee of an HTLC transaction: {event.why}"))
        turn.put_claim(replace(claim, waits=event.why))
        planning.publish(turn, claim)  # its last form, for which there were coins
        return
    most = paid_by(event.coins, turn.outputs(claim), turn.htlcs, turn.facts)
    rate = FeeratePerKw(min(claim.feerate_per_kw, most))
    if claim.tx is not None and rate < claims.raised(claim.tx_feerate):
        turn.do(ReleaseCoins(claim.id))
        planning.publish(turn, claim)  # with these it could not be replaced
        return
    claim = replace(claim, coins=event.coins, change=event.change, feerate_per_kw=rate, waits="")
    turn.put_claim(claim)
    planning.ask(turn, claim)
