"""What the outputs of a closed channel wait for, in sentences: what each may cost, when it is due, what was tried, what
the user can do (BOLT 5; issue 4)."""

from node.onchain.budget import CURVE_BLOCKS, reason_of
from node.onchain.deadlines import first_block, last_block
from node.onchain.settle import is_understood
from node.onchain.state import FINAL_DEPTH, FORGET_DEPTH, Claim, HtlcFact, Kind, Output, Role, State
from protocol.amounts import BlockHeight
from protocol.bitcoin.transaction import Transaction, txid_hex
from protocol.bus.messages.why import BECAUSE, HAPPENED, NEXT, NOW, YOU, Line

_KINDS = {
    Kind.MUTUAL: "a close that both sides agreed to",
    Kind.OURS: "our own commitment",
    Kind.OURS_LOST: "our own commitment, published before this node lost its state",
    Kind.THEIRS: "the peer's commitment",
    Kind.THEIRS_NEXT: "the peer's next commitment, which it had not revoked",
    Kind.REVOKED: "a commitment that the peer had revoked: everything in it is ours",
    Kind.FUTURE: "a commitment of the peer that this node does not remember",
    Kind.UNKNOWN: "a transaction that we never agreed to",
}
_ROLES = {
    Role.ANCHOR: "our anchor, which pays for the commitment",
    Role.TO_LOCAL: "our balance, which our own commitment delays",
    Role.TO_REMOTE: "our balance",
    Role.SECOND_STAGE: "an HTLC that is ours after a delay",
    Role.OUR_OFFERED: "an HTLC that we offered",
    Role.OUR_RECEIVED: "an HTLC that we received",
    Role.LOST_HTLC: "an HTLC that this node does not remember",
    Role.THEIR_OFFERED: "an HTLC that we received",
    Role.THEIR_RECEIVED: "an HTLC that we offered",
    Role.REVOKED_TO_LOCAL: "the cheat's balance",
    Role.REVOKED_HTLC: "an HTLC of the cheat's",
    Role.REVOKED_SECOND_STAGE: "an HTLC that the cheat moved on",
}


def story(state: State, height: BlockHeight) -> list[Line]:
    facts = state.facts
    lines = [
        Line(HAPPENED, f"the funding was spent by {txid_hex(facts.txid)}: {_KINDS[facts.kind]}", state.height)
    ]
    if state.height is None:
        lines.append(Line(NOW, "that transaction is in no block yet"))
    if not is_understood(state):
        lines.append(Line(NOW, "the signer has not told the keys of this commitment yet"))
        lines.append(Line(YOU, "Start the signer, if it does not run."))
    by_output = {at: claim for claim in state.claims for at in claim.outputs}
    htlcs = {htlc.key: htlc for htlc in facts.htlcs}
    for output in state.outputs:
        htlc = htlcs.get(output.htlc) if output.htlc else None
        lines += _output(state, output, htlc, by_output.get(output.at), height)
    for outcome in state.told:
        way = "offered" if outcome.offered else "received"
        end = "was paid" if outcome.paid else "failed"
        lines.append(Line(HAPPENED, f"the HTLC {outcome.id} that we {way} {end}; who waited for it was told"))
    lines += _waits(state)
    lines += _ends(state, height)
    return lines


def story_of(state: State, txid: str, height: BlockHeight) -> list[Line]:
    """Of one transaction: that of the close, or one that spends some of its outputs. Empty if it is none of these."""
    if txid == txid_hex(state.facts.txid):
        return story(state, height)
    htlcs = {htlc.key: htlc for htlc in state.facts.htlcs}
    lines = []
    for output in state.outputs:
        claim = next((c for c in state.claims if output.at in c.outputs), None)
        ids = {output.spent.txid} if output.spent is not None else set()
        if claim is not None and claim.tx is not None:
            ids.add(Transaction.parse(claim.tx).txid)
        if txid in map(txid_hex, ids):
            htlc = htlcs.get(output.htlc) if output.htlc else None
            lines += _output(state, output, htlc, claim, height)
    return lines + _ends(state, height) if lines else []


def _output(
    state: State, output: Output, htlc: HtlcFact | None, claim: Claim | None, height: BlockHeight
) -> list[Line]:
    name = f"{_ROLES[output.role]}, {output.value} sat"
    if output.htlc is not None:
        name = f"{_ROLES[output.role]} (id {output.htlc[1]}), {output.value} sat"
    if output.spent is not None:
        ours = "with the preimage " if output.spent.preimage else ""
        return [Line(HAPPENED, f"{name}: spent {ours}by {txid_hex(output.spent.txid)}", output.spent.height)]
    if output.given_up:
        return [Line(NOW, f"{name}: left, because it is {output.given_up}")]
    lines = []
    budget = f"at most {output.ceiling} sat of fee, {reason_of(output, state.facts)}"
    if not output.ceiling:
        budget = reason_of(output, state.facts)
    last = last_block(output, htlc, state.facts.params)
    if claim is not None and claim.tx is not None:
        txid = txid_hex(Transaction.parse(claim.tx).txid)
        lines.append(Line(NOW, f"{name}: {txid} waits for a block at {claim.tx_feerate} sat/kw; {budget}"))
        if claim.refused:
            lines.append(Line(BECAUSE, f"the mempool did not take {txid}: {claim.refused}"))
        if last is not None:
            start = max(height, last - CURVE_BLOCKS)
            lines.append(Line(NEXT, f"its feerate follows the market until block {start}", start))
            lines.append(Line(NEXT, "and then climbs until its ceiling is reached", last))
        return lines
    first = first_block(output, htlc, state.facts.params)
    if first is None:
        lines.append(
            Line(NOW, f"{name}: {_not_yet(output, htlc)}", None if htlc is None else htlc.cltv_expiry)
        )
    else:
        lines.append(Line(NEXT, f"{name}: the node takes it; {budget}", max(first + 1, height)))
    return lines


def _not_yet(output: Output, htlc: HtlcFact | None) -> str:
    if output.height is None:
        return "waits until its transaction is in a block"
    if htlc is not None and not htlc.offered:
        return "the node has no preimage; the peer takes it back after its expiry"
    return "waits"


def _waits(state: State) -> list[Line]:
    """Questions that signer or wallet did not answer as we wished."""
    lines = []
    for why in dict.fromkeys(claim.waits for claim in state.claims if claim.waits):
        lines.append(Line(BECAUSE, f"a transaction is not signed yet: {why}"))
        if "coin" in why or "wallet" in why:
            lines.append(
                Line(YOU, "Send some bitcoin to `lnp newaddr`: with anchors the wallet pays these fees.")
            )
        elif "signer" in why or "signature" in why:
            lines.append(Line(YOU, "Start the signer; the node asks again at each block."))
    return lines


def _ends(state: State, height: BlockHeight) -> list[Line]:
    if state.final:
        return [
            Line(HAPPENED, f"everything is {FORGET_DEPTH} blocks deep; nothing of it is watched any more")
        ]
    if state.resolved:
        spent = [o.spent.height for o in state.outputs if o.spent is not None]
        newest = max(spent, default=state.height or height)
        text = f"every output is {FINAL_DEPTH} blocks deep; the node watches them until they are {FORGET_DEPTH} deep"
        return [Line(NEXT, text, newest + FORGET_DEPTH - 1)]
    return [
        Line(
            YOU, "Nothing: keep node and signer running, and the sweeps go to the cold wallet by themselves."
        )
    ]
