"""Our outputs of a commitment on chain, moved to the cold descriptor (BOLT 5, "Unilateral Close Handling").

HTLC outputs, second stages and revoked commitments belong to the channel issue; here our main output of our own
commitment (after its delay) and of the peer's (at once, or one block later with anchors) comes home.
"""

from msgspec.structs import replace

from node.channel.content import commitment_params
from node.channel.events import FundingSpent, Save, Sweep
from node.channel.state import Closed, CloseKind, Closing
from node.channel.turn import Turn
from protocol.bitcoin.transaction import Transaction
from protocol.bolt3.params import commitment_number
from protocol.bolt3.scripts import commitment_scripts, to_remote_script_pubkey

CONFIRMED_FOR_GOOD = 6
NOTHING = b""


def sweep_if_due(turn: Turn, event: FundingSpent) -> None:
    phase = turn.c.phase
    if not isinstance(phase, Closing) or phase.kind not in (CloseKind.OURS, CloseKind.THEIRS):
        return
    if event.height is None or phase.sweep is not None:
        return
    tx = Transaction.parse(event.tx)
    number = commitment_number(commitment_params(turn.c.params), tx.inputs[0].sequence, tx.locktime) or 0
    if phase.kind is CloseKind.OURS:
        kind, script, delay = "to_local", _to_local(turn, number), turn.c.params.counterparty.to_self_delay
    else:
        kind, script, delay = "to_remote", _to_remote(turn), 1
    found = next((n for n, output in enumerate(tx.outputs) if output.script_pubkey == script), None)
    if found is None:
        turn.c.phase = replace(phase, sweep=NOTHING)
        turn.save(Save.NEXT)
    elif event.depth >= delay:
        turn.do(Sweep(kind, tx.txid, found, tx.outputs[found].value, number))


def _to_local(turn: Turn, number: int) -> bytes | None:
    """The script of our delayed output; our commitment is the newest, or the one that was being validated."""
    committed = turn.c
    behind = number - committed.local_number
    if behind not in (0, 1):
        return None
    params = committed.params
    scripts = commitment_scripts(
        params.holder_keys,
        params.counterparty_keys,
        params.counterparty.to_self_delay,
        params.anchors,
        committed.local_points[behind],
    )
    return scripts.to_local_script_pubkey


def _to_remote(turn: Turn) -> bytes:
    params = turn.c.params
    return to_remote_script_pubkey(params.holder_keys.payment_basepoint, params.anchors)


def sweep_made(turn: Turn, tx: bytes) -> None:
    if isinstance(turn.c.phase, Closing) and turn.c.phase.sweep is None:
        turn.c.phase = replace(turn.c.phase, sweep=tx)
        turn.save(Save.NOW)


def sweep_confirmed(turn: Turn, depth: int) -> None:
    phase = turn.c.phase
    if isinstance(phase, Closing) and phase.sweep and depth >= CONFIRMED_FOR_GOOD:
        turn.set_phase(Closed(phase.kind, Transaction.parse(phase.tx).txid), turn.c.why)
        turn.save(Save.NOW)
