"""What passes on what: an onward HTLC costs us no more than the received one brings (BOLT 2, "Forwarding HTLCs").

A forward that the node declares binds the received HTLC: it cannot fail while the onward HTLC can still be claimed,
and it must be credited once the next peer showed the preimage. A stolen node can leave the declaration out; what it
sends then is a payment of our own, with nothing to hold against it. And without a view of the chain the signer cannot
tell that the channel of the received HTLC was ever funded. Mechanism: no rule here has a switch.
"""

from protocol.bus.messages.signer import MIN_FORWARD_DELTA
from signer.channel_state import HtlcKey
from signer.refusal import Denied

PAID = "paid"
BURIED = "buried"


def forward_htlc(is_new: bool, htlc_id: int) -> None:
    """`forward-htlc`: an HTLC is declared with the first content that offers it, and once."""
    if not is_new:
        raise Denied(
            "forward-htlc",
            "a forward names an HTLC that we offer, once, in the first commitment that has it",
            seen=f"HTLC {htlc_id}, which is not offered here, named twice, or offered before without a source",
            limit="HTLCs of ours that are new in this content",
            next_step="Declare each forward together with the content that adds its HTLC.",
        )


def forward_changed(same: bool, htlc_id: int) -> None:
    """`forward-changed`: an HTLC keeps its source."""
    if not same:
        raise Denied(
            "forward-changed",
            "an HTLC passes on the received HTLC that it was first declared with",
            seen=f"HTLC {htlc_id} with another source",
            limit="the source of the first declaration",
            next_step="Repeat the forward as it was asked first; pass on the other HTLC under a new id.",
        )


def forward_incoming(stands: bool, channel_id: bytes, htlc_id: int) -> None:
    """`forward-incoming`: what is passed on stands in every unrevoked commitment of both sides, with this hash."""
    if not stands:
        raise Denied(
            "forward-incoming",
            "an HTLC is passed on when the received one stands, with the same payment hash, in every unrevoked "
            "commitment of both sides of a channel that is not closing",
            seen=f"HTLC {htlc_id} of channel {channel_id.hex()}",
            limit="a received HTLC that the peer can no longer take back",
            next_step="Wait until it is committed on both sides and older commitments are revoked; else fail it.",
        )


def forward_terms(onward: HtlcKey, incoming: HtlcKey) -> None:
    """`forward-amount`, `forward-expiry`: it brings at least what it costs, and lives longer."""
    if onward[1] > incoming[1]:
        raise Denied(
            "forward-amount",
            "an HTLC is passed on with no more than was received",
            seen=f"{onward[1]} msat for {incoming[1]} msat",
            limit=f"{incoming[1]} msat",
            next_step="Fail the received HTLC: it pays no fee.",
        )
    if onward[3] + MIN_FORWARD_DELTA > incoming[3]:
        raise Denied(
            "forward-expiry",
            f"a received HTLC expires at least {MIN_FORWARD_DELTA} blocks after the one that passes it on",
            seen=f"height {onward[3]} for height {incoming[3]}",
            limit=f"height {incoming[3] - MIN_FORWARD_DELTA}",
            next_step="Fail the received HTLC: its expiry is too soon.",
        )


def forward_own(is_own: bool) -> None:
    """`forward-own`: income of our own invoices ends here; nobody else has its preimage."""
    if is_own:
        raise Denied(
            "forward-own",
            "an HTLC over an invoice of this signer is not passed on",
            seen="the payment hash of one of our invoices",
            limit="payment hashes of others",
            next_step="Release the preimage, or fail the HTLC.",
        )


def forward_twice(taken: bool, htlc_id: int) -> None:
    """`forward-twice`: two claims on one income."""
    if taken:
        raise Denied(
            "forward-twice",
            "a received HTLC is passed on again only when its last onward HTLC is gone for good, without a preimage",
            seen=f"HTLC {htlc_id}, whose onward HTLC lives or was paid",
            limit="one onward HTLC at a time",
            next_step="Wait until the onward HTLC is removed from every commitment, or fulfil with its preimage.",
        )


def onward_lives(htlc_id: int) -> Denied:
    """`onward-lives`: the received HTLC is what pays for the onward one."""
    return Denied(
        "onward-lives",
        "a received HTLC that was passed on stays until its onward HTLC is gone from every unrevoked commitment of "
        "both sides, is buried, or its preimage was released",
        seen=f"a commitment without received HTLC {htlc_id}, whose onward HTLC can still be claimed",
        limit="commitments that keep it",
        next_step="Wait for the onward HTLC's end; on chain, say when it is buried; or fulfil with the preimage.",
    )


def buried_spend(spends: bool) -> None:
    """`buried-spend`: the transaction named ends this channel."""
    if not spends:
        raise Denied(
            "buried-spend",
            "an HTLC is buried by a transaction that spends the funding of its channel",
            seen="no transaction, or one that spends something else",
            limit="the raw transaction that spends the funding output",
            next_step="Take the transaction that the chain has as the spend of this channel's funding.",
        )


def buried_htlc(known: bool, htlc_id: int) -> None:
    """`buried-htlc`: one that we offered and that a commitment still has."""
    if not known:
        raise Denied(
            "buried-htlc",
            "an HTLC is buried when we offered it and an unrevoked commitment of its channel has it",
            seen=f"HTLC {htlc_id}",
            limit="offered HTLCs of this channel",
            next_step="Look up the id; an HTLC that is gone from every commitment needs no burial.",
        )


def buried_paid(paid: bool, htlc_id: int) -> None:
    """`buried-paid`: an HTLC whose preimage we were shown was claimed."""
    if paid:
        raise Denied(
            "buried-paid",
            "an HTLC whose preimage the next peer showed is not taken back",
            seen=f"HTLC {htlc_id}, with its preimage",
            limit="HTLCs without one",
            next_step="Fulfil the received HTLC with this preimage.",
        )
