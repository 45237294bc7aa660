"""What the chain says of channels whose state was lost or is old, for the plan of a restore (BOLT 5, "Unilateral Close
Handling"; BOLT 3, "Commitment Transaction Outputs").

Whose commitment it is, its outputs tell; our own point comes from the signer only after the restore, so a plan names
no amount.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType

from msgspec import Struct

from node.chain.backend import BackendAway, BackendUnusable, ChainBackend
from node.chain.blocks import Interest
from node.onchain.recognise import undecided, whose
from protocol.bitcoin.transaction import OutPoint, Transaction
from protocol.bolt3.commitment import CommitmentParams, Side
from protocol.bolt3.params import commitment_number
from protocol.bolt3.scripts import to_remote_script_pubkey


class Found(StrEnum):
    OURS = "our own commitment is in the chain"
    THEIRS = "the peer has closed"
    AGREED = "closed by agreement"


class Wanted(Struct, frozen=True):
    """A funding output, and the block from which it may have been spent."""

    outpoint: OutPoint
    script: bytes
    since: int


class Spend(Struct, frozen=True):
    """`height` None: in the mempool."""

    tx: Transaction
    height: int | None


class Seen(Struct, frozen=True):
    """`missing`: why the chain could not tell of all of them; empty when it did."""

    spends: Mapping[OutPoint, Spend] = MappingProxyType({})
    missing: str = ""


async def look(backend: ChainBackend, wanted: Sequence[Wanted]) -> Seen:
    """Blocks are read only for outputs that are not in the UTXO set; all in one pass, and the mempool before it."""
    spends: dict[OutPoint, Spend] = {}
    try:
        await backend.check()
        left = {}
        for one in wanted:
            if await backend.output_status(one.outpoint.txid, one.outpoint.index) is None:
                left[one.outpoint] = one
        for tx in await backend.mempool_spenders({at: one.script for at, one in left.items()}):
            _note(spends, left, tx, None)
        await _read_blocks(backend, left, spends)
    except (BackendAway, BackendUnusable) as error:
        return Seen(spends, str(error))
    return Seen(spends)


async def _read_blocks(
    backend: ChainBackend, left: dict[OutPoint, Wanted], spends: dict[OutPoint, Spend]
) -> None:
    if not left:
        return
    needles = frozenset(at.serialize() for at in left)
    interest = Interest(needles, frozenset(one.script for one in left.values()))
    tip = (await backend.tip()).height
    for height in range(min(one.since for one in left.values()), tip + 1):
        block_hash = await backend.block_hash(height)
        looked = None if block_hash is None else await backend.look(height, block_hash, interest)
        if looked is None:
            raise BackendAway("the chain changed while it was searched; ask again")
        for _, tx in looked.transactions:
            _note(spends, left, tx, height)
        if all(at in spends and spends[at].height is not None for at in left):
            return


def _note(
    spends: dict[OutPoint, Spend], left: Mapping[OutPoint, Wanted], tx: Transaction, height: int | None
) -> None:
    for spend in tx.inputs:
        if spend.outpoint in left:
            spends[spend.outpoint] = Spend(tx, height)


def told(params: CommitmentParams, spend: Spend) -> tuple[Found, str]:
    """What became of a channel whose funding this spends, in a sentence without its end."""
    ours = next(i for i in spend.tx.inputs if i.outpoint == params.funding_outpoint)
    number = commitment_number(params, ours.sequence, spend.tx.locktime)
    where = "it waits in the mempool" if spend.height is None else f"it is in block {spend.height}"
    if number is None:
        return Found.AGREED, f"{where}, and what was ours in it went to the cold wallet"
    owner = whose(params, spend.tx)
    if owner is Side.COUNTERPARTY:
        return Found.THEIRS, f"with its commitment {number}; {where}. {_undelayed(params, spend.tx)}"
    maybe = "" if owner is Side.HOLDER else " (or the peer's: then nothing in it is ours)"
    return Found.OURS, f"commitment {number}{maybe}; {where}. {_delayed(params, spend)}"


def _undelayed(params: CommitmentParams, tx: Transaction) -> str:
    script = to_remote_script_pubkey(params.holder.keys.payment_basepoint, params.anchors)
    value = sum(output.value for output in tx.outputs if output.script_pubkey == script)
    return f"The {value} sat that it pays to us are swept" if value else "It pays nothing to us"


def _delayed(params: CommitmentParams, spend: Spend) -> str:
    delay = params.holder.to_self_delay
    if spend.height is None:
        when = f"{delay} blocks after its own"
    else:
        when = f"from block {spend.height + delay} on"
    sentence = f"Our balance in it is delayed by {delay} blocks and swept to the cold wallet {when}"
    htlcs = len(undecided(params, spend.tx)) - 1
    if htlcs < 1:
        return sentence
    return (
        f"{sentence}. {htlcs} more of its outputs {'is an HTLC' if htlcs == 1 else 'are HTLCs'}: to take them we would"
        " need the peer's signatures, which are lost. One that we received goes back to the peer after its expiry; one"
        " that we offered goes to the peer if it has the preimage, and else stays where it is for ever. What a second"
        " stage of ours has moved before is swept as well"
    )
