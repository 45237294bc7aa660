"""Which outputs of a confirmed transaction concern us (BOLT 5, "Commitment Transaction"; BOLT 3, "Commitment
Transaction Outputs").

Outputs are found by their scripts, not by building the transaction again: so a commitment is understood whatever
its feerate was, which nobody keeps for revoked ones.
"""

from msgspec.structs import replace

from node.onchain.state import Facts, HtlcFact, Kind, Output, Role
from protocol.amounts import BlockHeight
from protocol.bitcoin.script import p2wsh
from protocol.bitcoin.transaction import OutPoint, Transaction
from protocol.bolt3.commitment import CommitmentParams, Side
from protocol.bolt3.draft import scripts_of
from protocol.bolt3.params import commitment_number
from protocol.bolt3.scripts import CommitmentScripts, anchor, to_remote_script_pubkey
from protocol.hashes import sha256

_HTLC_ROLES = {
    (Kind.OURS, True): Role.OUR_OFFERED,
    (Kind.OURS, False): Role.OUR_RECEIVED,
    (Kind.OURS_LOST, True): Role.OUR_OFFERED,
    (Kind.OURS_LOST, False): Role.OUR_RECEIVED,
    (Kind.THEIRS, True): Role.THEIR_RECEIVED,
    (Kind.THEIRS, False): Role.THEIR_OFFERED,
    (Kind.THEIRS_NEXT, True): Role.THEIR_RECEIVED,
    (Kind.THEIRS_NEXT, False): Role.THEIR_OFFERED,
    (Kind.REVOKED, True): Role.REVOKED_HTLC,
    (Kind.REVOKED, False): Role.REVOKED_HTLC,
}


def classify(
    params: CommitmentParams, tx: Transaction, *, ours: frozenset[bytes], revoked: int, newest: int
) -> tuple[Kind, int]:
    """The kind of a spend of the funding, and its commitment number (0 where there is none).

    `ours`: the ids of the commitments of ours that could be published. `revoked`: how many of its commitments the
    peer has revoked; `newest`: the number of the newest that we signed.

    Any other commitment of ours is from before a loss of data. For one of these is taken, too, what is newer than all
    we know and tells nothing of its owner: if it is the peer's, then nothing in it is ours.
    """
    spend = next((i for i in tx.inputs if i.outpoint == params.funding_outpoint), tx.inputs[0])
    number = commitment_number(params, spend.sequence, tx.locktime)
    if number is None:
        return Kind.MUTUAL, 0
    if tx.txid in ours:
        return Kind.OURS, number
    owner = whose(params, tx)
    if owner is Side.HOLDER or (owner is None and number > newest):
        return Kind.OURS_LOST, number
    if number < revoked:
        return Kind.REVOKED, number
    if number > newest:
        return Kind.FUTURE, number
    return (Kind.THEIRS if number == revoked else Kind.THEIRS_NEXT), number


def whose(params: CommitmentParams, tx: Transaction) -> Side | None:
    """The owner of a commitment, told without its content: the other side is paid without delay (BOLT 3, "`to_remote`
    Output"). Without such a balance a single anchor tells, since then the owner's balance is all there is."""
    scripts = {output.script_pubkey for output in tx.outputs}
    for side in Side:
        if to_remote_script_pubkey(params.of(side.other).keys.payment_basepoint, params.anchors) in scripts:
            return side
    if params.anchors:
        alone = [side for side in Side if p2wsh(anchor(params.of(side).keys.funding_pubkey)) in scripts]
        return alone[0] if len(alone) == 1 else None
    return None


def own_anchor(facts: Facts) -> Output | None:
    """Ours on a commitment that may be valid, our own or the peer's: the way to raise its fee."""
    if facts.kind not in (Kind.OURS, Kind.THEIRS, Kind.THEIRS_NEXT) or not facts.params.anchors:
        return None
    script = p2wsh(anchor(facts.params.holder.keys.funding_pubkey))
    for index, output in enumerate(Transaction.parse(facts.tx).outputs):
        if output.script_pubkey == script:
            return Output(facts.txid, index, output.value, script, Role.ANCHOR, None, None)
    return None


def feerate_of(facts: Facts) -> int:
    """What the commitment pays by itself."""
    tx = Transaction.parse(facts.tx)
    fee = facts.params.capacity - sum(output.value for output in tx.outputs)
    return fee * 1000 // tx.weight


def owner_of(kind: Kind) -> Side:
    return Side.HOLDER if kind in (Kind.OURS, Kind.OURS_LOST) else Side.COUNTERPARTY


def commitment_scripts_of(facts: Facts) -> CommitmentScripts | None:
    if facts.point is None or facts.kind in (Kind.MUTUAL, Kind.UNKNOWN, Kind.FUTURE):
        return None
    return scripts_of(facts.params, owner_of(facts.kind), facts.point)


def outputs_of(facts: Facts, height: BlockHeight | None) -> tuple[Output, ...]:
    """The outputs of the commitment that are ours to spend, now or some day."""
    tx = Transaction.parse(facts.tx)
    found: list[Output] = []
    taken: set[int] = set()

    def take(script: bytes, role: Role, htlc: HtlcFact | None = None) -> None:
        for index, output in enumerate(tx.outputs):
            fits = htlc is None or output.value == htlc.amount_msat // 1000
            if index not in taken and output.script_pubkey == script and fits:
                taken.add(index)
                key = None if htlc is None else htlc.key
                found.append(Output(facts.txid, index, output.value, script, role, key, height))
                return

    if facts.kind in (Kind.MUTUAL, Kind.UNKNOWN):
        return ()
    if owner_of(facts.kind) is not Side.HOLDER:
        own = facts.params.holder.keys.payment_basepoint
        take(to_remote_script_pubkey(own, facts.params.anchors), Role.TO_REMOTE)
    known = commitment_scripts_of(facts)
    if known is None:
        return tuple(found)
    if owner_of(facts.kind) is Side.HOLDER:
        take(known.to_local_script_pubkey, Role.TO_LOCAL)
    elif facts.kind is Kind.REVOKED:
        take(known.to_local_script_pubkey, Role.REVOKED_TO_LOCAL)
    # Equal amounts and scripts stand in the order of their expiry (BOLT 3, "Transaction Output Ordering").
    for htlc in sorted(facts.htlcs, key=lambda htlc: (htlc.cltv_expiry, htlc.id)):
        if htlc.present:
            take(p2wsh(htlc_script_of(facts, known, htlc)), _HTLC_ROLES[facts.kind, htlc.offered], htlc)
    if facts.kind is Kind.OURS_LOST:
        found += _other_htlcs(facts, tx, taken, height)
    return tuple(found)


def as_it_stands(facts: Facts) -> Facts:
    """Of our own commitment the outputs say which HTLCs it holds. The signer publishes its newest, which may be newer
    than what the node has saved: then the books alone would leave an HTLC that we offered to nobody."""
    known = commitment_scripts_of(facts)
    if known is None or owner_of(facts.kind) is not Side.HOLDER:
        return facts
    outputs = {(output.script_pubkey, output.value) for output in Transaction.parse(facts.tx).outputs}

    def seen(htlc: HtlcFact) -> HtlcFact:
        output = p2wsh(htlc_script_of(facts, known, htlc)), htlc.amount_msat // 1000
        return htlc if htlc.present or output not in outputs else replace(htlc, present=True, credited=False)

    return replace(facts, htlcs=tuple(seen(htlc) for htlc in facts.htlcs))


def _other_htlcs(facts: Facts, tx: Transaction, taken: set[int], height: BlockHeight | None) -> list[Output]:
    """What of our own commitment is neither a balance nor an anchor: HTLCs that we do not remember."""
    left = [(index, tx.outputs[index]) for index in undecided(facts.params, tx) if index not in taken]
    return [
        Output(facts.txid, index, output.value, output.script_pubkey, Role.LOST_HTLC, None, height)
        for index, output in left
    ]


def undecided(params: CommitmentParams, tx: Transaction) -> list[int]:
    """The outputs of a commitment of ours that are neither an anchor nor the peer's balance: our own balance, and
    HTLCs."""
    theirs = to_remote_script_pubkey(params.counterparty.keys.payment_basepoint, params.anchors)
    known = {theirs, *(p2wsh(anchor(params.of(side).keys.funding_pubkey)) for side in Side)}
    return [index for index, output in enumerate(tx.outputs) if output.script_pubkey not in known]


def htlc_script_of(facts: Facts, known: CommitmentScripts, htlc: HtlcFact) -> bytes:
    """The witness script. `offered` in it is by the owner of the commitment."""
    if htlc.offered is (owner_of(facts.kind) is Side.HOLDER):
        return known.htlc.offered(htlc.payment_hash)
    return known.htlc.received(htlc.payment_hash, htlc.cltv_expiry)


def preimage_in(tx: Transaction, txid: bytes, index: int, payment_hash: bytes) -> bytes | None:
    """The preimage that a spend of this output shows, wherever it stands in the witness."""
    outpoint = OutPoint(txid, index)
    for spend in tx.inputs:
        if spend.outpoint == outpoint:
            for item in spend.witness:
                if len(item) == 32 and sha256(item) == payment_hash:
                    return item
    return None


def second_stage_of(facts: Facts, output: Output, tx: Transaction, height: BlockHeight) -> Output | None:
    """The delayed output that a spend of an HTLC output made: ours to sweep, or the peer's to be punished.

    It stands in the place of the input that spends the HTLC, as SIGHASH_SINGLE asks.
    """
    roles = {
        Role.OUR_OFFERED: Role.SECOND_STAGE,
        Role.OUR_RECEIVED: Role.SECOND_STAGE,
        Role.LOST_HTLC: Role.SECOND_STAGE,
        Role.REVOKED_HTLC: Role.REVOKED_SECOND_STAGE,
    }
    role, known = roles.get(output.role), commitment_scripts_of(facts)
    if role is None or known is None:
        return None
    outpoint = OutPoint(output.txid, output.index)
    for place, spend in enumerate(tx.inputs[: len(tx.outputs)]):
        made = tx.outputs[place]
        if spend.outpoint == outpoint and made.script_pubkey == known.to_local_script_pubkey:
            script = made.script_pubkey
            return Output(tx.txid, place, made.value, script, role, output.htlc, height)
    return None
