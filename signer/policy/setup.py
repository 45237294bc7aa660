"""What the signer accepts as the parameters of a channel (BOLT 2, "The `open_channel` Message")."""

from protocol.amounts import MAX_MONEY
from protocol.bolt3.funding import MAX_OUTPUT_INDEX
from protocol.bolt3.keys import ChannelKeys
from protocol.bus.messages.signer import SetupChannel, Terms
from protocol.curve import is_point
from signer.refusal import Denied, PeerBroke

MIN_DUST_LIMIT = 354
"""Of the scripts that a commitment or a close may pay, the dearest dust threshold (BOLT 3, "Dust Limits")."""
MAX_DUST_LIMIT = 10_000
MAX_DELAY = 2016
_OPEN = 'BOLT 2, "The `open_channel` Message"'


def setup_changed(old: SetupChannel | None, new: SetupChannel) -> None:
    """`setup-changed`: the parameters of a channel are fixed for ever."""
    if old is not None and old != new:
        raise Denied(
            "setup-changed",
            "the parameters of a channel are fixed once",
            seen="a second set-up with other values",
            limit="the values of the first set-up",
            next_step="Draw a new channel for new parameters.",
        )


def counterparty_keys(keys: ChannelKeys, own: ChannelKeys, first_point: bytes) -> None:
    """`counterparty-keys`: six points of the curve, and the funding key is not our own."""
    points = (
        keys.funding_pubkey,
        keys.revocation_basepoint,
        keys.payment_basepoint,
        keys.delayed_payment_basepoint,
        keys.htlc_basepoint,
        first_point,
    )
    if not all(is_point(point) for point in points):
        raise PeerBroke("counterparty-keys", "a key of the peer is no point of the curve", _OPEN)
    if keys.funding_pubkey == own.funding_pubkey:
        raise PeerBroke("counterparty-keys", "the peer gave our own funding key as its own", _OPEN)


def holder_terms(terms: Terms) -> None:
    """`holder-terms`: our dust limit is one that the network relays, and the delay that we bear is bounded."""
    if not MIN_DUST_LIMIT <= terms.dust_limit <= MAX_DUST_LIMIT:
        raise Denied(
            "holder-terms",
            "our dust limit is one that the network relays",
            seen=f"{terms.dust_limit} sat",
            limit=f"{MIN_DUST_LIMIT} to {MAX_DUST_LIMIT} sat",
            next_step="Open the channel with a dust limit in this range.",
        )
    if not 1 <= terms.to_self_delay <= MAX_DELAY:
        raise Denied(
            "holder-terms",
            "after a force close our own money is not locked for too long",
            seen=f"{terms.to_self_delay} blocks",
            limit=f"1 to {MAX_DELAY} blocks",
            next_step="Refuse this channel: the peer asks for too long a delay.",
        )


def counterparty_terms(terms: Terms) -> None:
    """`counterparty-terms`: there is a delay in which to punish, and no amount vanishes as dust."""
    if not 1 <= terms.to_self_delay <= MAX_DELAY:
        raise Denied(
            "counterparty-terms",
            "the peer's own output is delayed, so that a revoked state can be punished",
            seen=f"{terms.to_self_delay} blocks",
            limit=f"1 to {MAX_DELAY} blocks",
            next_step="Ask for another to_self_delay in the open.",
        )
    if not MIN_DUST_LIMIT <= terms.dust_limit <= MAX_DUST_LIMIT:
        raise Denied(
            "counterparty-terms",
            "below its dust limit an output of the peer's commitment is lost, so the limit is bounded",
            seen=f"{terms.dust_limit} sat",
            limit=f"{MIN_DUST_LIMIT} to {MAX_DUST_LIMIT} sat",
            next_step="Refuse this channel: the peer's dust limit is out of range.",
        )


def funding(request: SetupChannel) -> None:
    """`funding`: one funding output, with an amount that can exist, not all of which is pushed away twice."""
    if len(request.fundings) != 1:
        raise Denied(
            "funding",
            "a channel has one funding output",
            seen=f"{len(request.fundings)} fundings",
            limit="1",
            next_step="Name one funding output; splicing is not done yet.",
        )
    output = request.fundings[0]
    in_range = 0 < output.capacity <= MAX_MONEY and 0 <= output.index <= MAX_OUTPUT_INDEX
    if not in_range or not 0 <= request.push_msat <= 1000 * output.capacity:
        raise Denied(
            "funding",
            "capacity, output index and push are possible ones",
            seen=f"{output.capacity} sat, output {output.index}, {request.push_msat} msat pushed",
            limit=f"up to {MAX_MONEY} sat, output {MAX_OUTPUT_INDEX}, a push within the capacity",
            next_step="Check the funding transaction and the open message.",
        )
