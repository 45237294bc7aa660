"""A channel without its state: what a static backup keeps, and what comes back from one (DESIGN, "Backup")."""

import msgspec
from msgspec import Struct

from node.channel.state import Closed, Committed, FeeStep, Lost, Params
from protocol.amounts import BlockHeight, FeeratePerKw, Msat, ShortChannelId
from protocol.bus.messages.backup import ChannelRecord
from protocol.errors import MalformedMessage

_FORGOTTEN = (
    "this channel came back from a backup, which holds no state: the peer closes it, and we take what its"
    " commitment pays to us"
)


class StaticTerms(Struct, frozen=True):
    """What stays the same for the life of a channel, and where its funding is."""

    params: Params
    funding_height: BlockHeight | None
    short_channel_id: ShortChannelId | None
    opened_height: BlockHeight | None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(StaticTerms).decode


def record(committed: Committed) -> ChannelRecord | None:
    """None for a channel that has ended."""
    if isinstance(committed.phase, Closed):
        return None
    params = committed.params
    return ChannelRecord(
        params.channel_id,
        params.peer,
        params.capacity,
        params.fundings[0].txid,
        params.fundings[0].index,
        _encode(terms(committed)),
    )


def terms(committed: Committed) -> StaticTerms:
    return StaticTerms(
        committed.params, committed.funding_height, committed.short_channel_id, committed.opened_height
    )


def terms_of(found: ChannelRecord) -> StaticTerms:
    """Raises MalformedMessage."""
    try:
        return _decode(found.terms)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise MalformedMessage(
            f"channel {found.channel_id.hex()} of the backup cannot be read: {error}"
        ) from error


def restored(found: ChannelRecord) -> Committed:
    """The channel as a node starts with that lost everything else. Raises MalformedMessage."""
    known = terms_of(found)
    params = known.params
    # Nothing is signed or derived with these points: the phase forbids it, and static_remotekey needs none.
    ours, theirs = params.holder_keys.funding_pubkey, params.counterparty_keys.funding_pubkey
    return Committed(
        params=params,
        phase=Lost(_FORGOTTEN),
        local_number=0,
        remote_number=0,
        remote_revoked=0,
        settled_local=Msat(0),
        settled_remote=Msat(1000 * params.capacity),
        fees=(FeeStep(FeeratePerKw(253), 0, 0),),
        local_points=(ours, ours),
        remote_points=(theirs, theirs),
        funding_height=known.funding_height,
        short_channel_id=known.short_channel_id,
        opened_height=known.opened_height,
        why=_FORGOTTEN,
        forgotten=True,
    )
