"""How a commitment is put together: constructor, extenders, modifiers (BOLT 3, "Commitment Transaction
Construction").

The constructor begins a draft, extenders add the outputs of contracts (HTLCs today), modifiers charge the
fee, add balances and anchors, and sort. The order is fixed: the fee depends on the contracts, the balances on
the fee, the anchors on the balances.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

import msgspec

from protocol.amounts import Sat
from protocol.bitcoin.script import p2wsh
from protocol.bolt3 import scripts
from protocol.bolt3.content import CommitmentContent, CommitmentHtlc
from protocol.bolt3.fees import ANCHOR_AMOUNT, anchors_cost, commit_fee, trim_limits
from protocol.bolt3.params import CommitmentParams, Side
from protocol.bolt3.scripts import CommitmentScripts, commitment_scripts

_P2WSH = b"\x00\x20"


class OutputKind(Enum):
    """*Local* is the owner of the commitment, *remote* the other side, as in BOLT 3."""

    TO_LOCAL = "to_local"
    TO_REMOTE = "to_remote"
    TO_LOCAL_ANCHOR = "to_local_anchor"
    TO_REMOTE_ANCHOR = "to_remote_anchor"
    OFFERED_HTLC = "offered_htlc"
    RECEIVED_HTLC = "received_htlc"


class CommitmentOutput(msgspec.Struct, frozen=True):
    index: int
    kind: OutputKind
    value: Sat
    script_pubkey: bytes
    witness_script: bytes
    """Empty for a p2wpkh."""
    htlc: CommitmentHtlc | None


# Value, script, expiry and a tie-break come first, so that plain tuples sort in BIP 69 + CLTV order.
Placed = tuple[int, bytes, int, int, OutputKind, bytes, CommitmentHtlc | None]


@dataclass(slots=True)
class Draft:
    """A commitment in the making; it never leaves `build`."""

    params: CommitmentParams
    owner: Side
    content: CommitmentContent
    scripts: CommitmentScripts
    to_owner: int
    to_other: int
    placed: list[Placed] = field(default_factory=list)
    contracts: int = 0
    """How many outputs the extenders have added."""


def scripts_of(params: CommitmentParams, owner: Side, per_commitment_point: bytes) -> CommitmentScripts:
    own, other = params.of(owner), params.of(owner.other)
    return commitment_scripts(own.keys, other.keys, own.to_self_delay, params.anchors, per_commitment_point)


def _construct(
    params: CommitmentParams, owner: Side, content: CommitmentContent, per_commitment_point: bytes
) -> Draft:
    known = scripts_of(params, owner, per_commitment_point)
    # Rounding down first is the same as after the fee, which is in whole satoshis.
    return Draft(params, owner, content, known, content.to_owner_msat // 1000, content.to_other_msat // 1000)


def _add_htlcs(draft: Draft) -> None:
    params = draft.params
    offered_limit, received_limit = trim_limits(
        params.of(draft.owner).dust_limit, draft.content.feerate_per_kw, params.anchors
    )
    offered_script, received_script = draft.scripts.htlc.offered, draft.scripts.htlc.received
    offered_kind, received_kind = OutputKind.OFFERED_HTLC, OutputKind.RECEIVED_HTLC
    sha = hashlib.sha256
    place = draft.placed.append
    for htlc in draft.content.htlcs:
        amount = htlc.amount_msat
        expiry = htlc.cltv_expiry
        if htlc.offered:
            if amount < offered_limit:
                continue
            script = offered_script(htlc.payment_hash)
            kind = offered_kind
        else:
            if amount < received_limit:
                continue
            script = received_script(htlc.payment_hash, expiry)
            kind = received_kind
        place((amount // 1000, _P2WSH + sha(script).digest(), expiry, htlc.id, kind, script, htlc))
    draft.contracts = len(draft.placed)


def _charge_opener(draft: Draft) -> None:
    """An opener that cannot pay all pays what it has; `affords` tells."""
    params = draft.params
    fee = commit_fee(draft.content.feerate_per_kw, draft.contracts, params.anchors)
    cost = fee + anchors_cost(params.anchors)
    if params.opener is draft.owner:
        draft.to_owner = max(0, draft.to_owner - cost)
    else:
        draft.to_other = max(0, draft.to_other - cost)


def _add_balances(draft: Draft) -> None:
    dust_limit, known = draft.params.of(draft.owner).dust_limit, draft.scripts
    # A balance below the owner's dust limit goes to the fee; zero is here so that a limit of 0 adds nothing.
    if draft.to_owner < max(dust_limit, 1):
        draft.to_owner = 0
    else:
        spk = known.to_local_script_pubkey
        draft.placed.append((draft.to_owner, spk, 0, -1, OutputKind.TO_LOCAL, known.to_local, None))
    if draft.to_other < max(dust_limit, 1):
        draft.to_other = 0
    else:
        spk = known.to_remote_script_pubkey
        draft.placed.append((draft.to_other, spk, 0, -1, OutputKind.TO_REMOTE, known.to_remote, None))


def _add_anchors(draft: Draft) -> None:
    params, owner = draft.params, draft.owner
    if not params.anchors:
        return
    if draft.to_owner or draft.contracts:
        script = scripts.anchor(params.of(owner).keys.funding_pubkey)
        draft.placed.append((ANCHOR_AMOUNT, p2wsh(script), 0, -2, OutputKind.TO_LOCAL_ANCHOR, script, None))
    if draft.to_other or draft.contracts:
        script = scripts.anchor(params.of(owner.other).keys.funding_pubkey)
        draft.placed.append((ANCHOR_AMOUNT, p2wsh(script), 0, -1, OutputKind.TO_REMOTE_ANCHOR, script, None))


def _sort(draft: Draft) -> None:
    draft.placed.sort()


EXTENDERS: tuple[Callable[[Draft], None], ...] = (_add_htlcs,)
MODIFIERS: tuple[Callable[[Draft], None], ...] = (_charge_opener, _add_balances, _add_anchors, _sort)


def compose(
    params: CommitmentParams, owner: Side, content: CommitmentContent, per_commitment_point: bytes
) -> Draft:
    draft = _construct(params, owner, content, per_commitment_point)
    for extend in EXTENDERS:
        extend(draft)
    for modify in MODIFIERS:
        modify(draft)
    return draft
