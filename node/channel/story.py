"""Why a channel is as it is, in sentences: cause, deadline, what the node does, what the user can do (issue 4)."""

import re
from collections.abc import Iterable

from msgspec.structs import replace

from node.channel.channel import SAID
from node.channel.handover import running
from node.channel.state import (
    AwaitingLockIn,
    Closed,
    Closing,
    Lost,
    Normal,
    Offline,
    Online,
    ShuttingDown,
    State,
)
from node.channel.turn import cln_state
from node.channel.view import htlc_state
from node.onchain import story as onchain
from node.onchain.deadlines import CLAIM_BEFORE, OFFERED_GRACE, closes_at
from node.onchain.state import State as Resolution
from protocol.amounts import BlockHeight
from protocol.bitcoin.transaction import Transaction, txid_hex
from protocol.bus.messages.why import BECAUSE, HAPPENED, NEXT, NOW, PARTS, YOU, Answer, Line, time_of

HTLCS_TOLD = 20
MESSAGES_TOLD = 8


def answer(
    state: State,
    resolution: Resolution | None,
    journal: Iterable[tuple[str, int]],
    *,
    height: BlockHeight,
    now: float,
    halted: str = "",
    signer_away: str = "",
) -> Answer:
    """`journal`: the newest entries of the channel, oldest first, each with its time."""
    committed = state.committed
    name = cln_state(committed.phase, opener=committed.params.holder_is_opener)
    lines = [*_phase(state, height), *_trouble(state, halted, signer_away), *_htlcs(state, height)]
    if resolution is not None:
        lines += onchain.story(resolution, height)
    lines += _messages(journal)
    subject = committed.params.channel_id.hex()
    title = f"channel {subject} with {committed.params.peer.hex()}: {name}"
    return Answer("channel", subject, title, ordered(lines, height, now))


def ordered(lines: Iterable[Line], height: int, now: float) -> tuple[Line, ...]:
    """By what they are about, and each block with its hour."""
    dated = [
        line
        if line.height is None or line.at is not None
        else replace(line, at=time_of(line.height, height, now))
        for line in lines
    ]
    return tuple(sorted(dated, key=lambda line: PARTS.index(line.about)))


def _phase(state: State, height: BlockHeight) -> list[Line]:
    committed, phase = state.committed, state.committed.phase
    because = [Line(BECAUSE, committed.why)] if committed.why else []
    if committed.closer is not None and not isinstance(phase, Normal | AwaitingLockIn):
        who = "we" if committed.closer == "local" else "the peer"
        because.append(Line(BECAUSE, f"{who} began to close it"))
    match phase:
        case AwaitingLockIn():
            wait = "its funding waits for a block"
            if committed.funding_height is not None:
                wait = (
                    "its funding is in a block, and waits for enough of them or for the peer's channel_ready"
                )
            return [*because, Line(NOW, wait, committed.funding_height)]
        case Normal():
            return because + _line_state(state)
        case ShuttingDown():
            what = "no HTLC is added any more; when the last is settled both sides sign a closing transaction"
            return [*because, Line(NOW, what), *_line_state(state)]
        case Closing(kind=kind, tx=tx, height=at):
            if not tx:
                return [*because, Line(NOW, "the signer is asked for our newest commitment")]
            txid = txid_hex(Transaction.parse(tx).txid)
            word = f"the close ({kind.value}) is the transaction {txid}"
            return [*because, Line(HAPPENED if at is not None else NOW, word, at)]
        case Closed(kind=kind, txid=txid):
            return [*because, Line(HAPPENED, f"closed ({kind.value}) by {txid_hex(txid)}")]
        case Lost(reason=reason):
            return [
                *because,
                Line(BECAUSE, reason),
                Line(NEXT, "the node publishes nothing; it takes our balance when the peer closes"),
                Line(
                    YOU, "Ask the peer to close this channel. Do not restore an older copy of the database."
                ),
            ]


def _line_state(state: State) -> list[Line]:
    match state.volatile.link:
        case Online():
            return [Line(NOW, "the peer is connected, and the channel can be used")]
        case Offline():
            return [
                Line(NOW, "the peer is away"),
                Line(NEXT, "the node goes on dialling it"),
                Line(YOU, f"If it stays away: lnp close {state.committed.params.channel_id.hex()} 1"),
            ]
        case _:
            return [Line(NOW, "the peer is connected; the two sides compare where they stand")]


def _trouble(state: State, halted: str, signer_away: str) -> list[Line]:
    lines = []
    if halted:
        lines.append(Line(BECAUSE, f"this node stopped the channel: {halted}"))
        lines.append(Line(YOU, "Restart lnpd; if it happens again, report it with the log."))
    if state.volatile.stalled:
        lines.append(Line(BECAUSE, f"the signer refused: {state.volatile.stalled}"))
        lines.append(Line(NEXT, "the signer is asked again at each block and each start"))
    if signer_away and not isinstance(state.committed.phase, Closed):
        lines.append(Line(BECAUSE, f"the signer is away: {signer_away}"))
        lines.append(Line(YOU, "Start the signer: without it nothing can be signed, a close neither."))
    return lines


def _htlcs(state: State, height: BlockHeight) -> list[Line]:
    lines = []
    if not isinstance(state.committed.phase, Normal | ShuttingDown):
        return []
    rows = sorted(state.htlcs.values(), key=lambda row: row.cltv_expiry)
    for row in rows[:HTLCS_TOLD]:
        way = "offered to" if row.offered else "received from"
        text = (
            f"HTLC {row.id} of {row.amount_msat} msat {way} the peer is {htlc_state(row, state.committed)}"
            f" and expires at block {row.cltv_expiry}"
        )
        lines.append(Line(NOW, text, row.cltv_expiry))
    if len(rows) > HTLCS_TOLD:
        lines.append(Line(NOW, f"and {len(rows) - HTLCS_TOLD} more HTLCs"))
    at = closes_at(running(state.committed, state.htlcs, state.volatile))
    if at is not None:
        text = (
            "if its HTLCs are not settled before, the node closes the channel alone: an offered one may wait"
            f" {OFFERED_GRACE} blocks after its expiry, a fulfilled one must be credited {CLAIM_BEFORE} blocks before"
        )
        lines.append(Line(NEXT, text, max(at, height)))
    return lines


def _messages(journal: Iterable[tuple[str, int]]) -> list[Line]:
    """What was said last. `<` came from the peer, `>` went to it."""
    found = []
    for text, at in journal:
        if text.startswith(SAID):
            found.append(Line(HAPPENED, f"the peer said: {text.removeprefix(SAID)}", at=at))
        elif words := [word for word in text.split(" ") if word[:1] in ("<", ">")]:
            found.append(Line(HAPPENED, f"messages: {' '.join(map(_bolt2_name, words))}", at=at))
    return found[-MESSAGES_TOLD:]


def _bolt2_name(word: str) -> str:
    """CommitmentSigned is commitment_signed there."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", word).lower()
