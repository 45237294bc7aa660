"""Commitments that a peer signs rightly and builds wrongly, and HTLC signatures that are not those of their outputs
(BOLT 3, "Commitment Transaction Construction"; BOLT 2, "Committing Updates So Far")."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from node.channel.content import commitment_params, content
from node.channel.events import FromPeer, Offer
from node.channel.state import OfferWant
from protocol import curve
from protocol.amounts import FeeratePerKw, Msat, Sat
from protocol.bolt3.commitment import CommitmentContent, CommitmentParams, Side, build
from protocol.wire.bolt2_update import CommitmentSigned, RevokeAndAck, UpdateAddHtlc
from protocol.wire.message import Message, decode
from tests.node.channel.pair import End, Pair, invoice, onion_for, open_channel
from tests.node.channel.test_dance import mirrored

DUST = 350_000
"""In msat: below every dust limit, and whole satoshis are taken away from a balance that is none any more."""
ODD = 7_654_321


def offers(pair: Pair, payer: End, *amounts: int, expiries: tuple[int, ...] = ()) -> None:
    """In one turn; with `expiries` all of one amount have one hash too, so that nothing but the expiry differs."""
    payee, events = pair.other(payer), []
    made = invoice(payee, None)
    for at, amount in enumerate(amounts):
        if not expiries:
            made = invoice(payee, amount)
        expiry = expiries[at] if expiries else 200
        onion = onion_for(payee, made, amount, expiry)
        events.append(Offer(OfferWant(Msat(amount), made.payment_hash, expiry, onion, os.urandom(4).hex())))
    payer.do(*events)


def hear(end: End, *messages: Message) -> None:
    end.do(*(FromPeer(message) for message in messages))
    while end.answer():
        pass


def said_by(end: End) -> list[Message]:
    return [message for frame in end.out.waiting if isinstance(message := decode(frame), Message)]


def refused(pair: Pair, *messages: Message, says: str) -> None:
    """Alice hangs up, keeps the commitment that she had, and takes the right one on the next connection."""
    alice = pair.alice
    before = alice.state.committed.local_number
    hear(alice, *messages)
    assert says in alice.drops[0].reason
    assert not any(isinstance(message, RevokeAndAck) for message in said_by(alice))
    assert alice.state.committed.local_number == before
    alice.drops.clear()
    pair.disconnect()
    pair.connect()
    pair.quiet()
    assert alice.state.committed.local_number > before
    mirrored(pair)


# Built wrongly (checklist 17). Bob pays Alice, and signs her commitment with the keys that he has.

Change = Callable[[CommitmentParams, CommitmentContent], tuple[CommitmentParams, CommitmentContent]]


def rounded_up(
    known: CommitmentParams, made: CommitmentContent
) -> tuple[CommitmentParams, CommitmentContent]:
    up = Msat(-(-made.to_owner_msat // 1000) * 1000)
    assert up != made.to_owner_msat
    return known, replace(made, to_owner_msat=up)


def of_dust_limits(ours: int, theirs: int) -> Change:
    return lambda known, made: (
        replace(
            known,
            holder=replace(known.holder, dust_limit=Sat(ours)),
            counterparty=replace(known.counterparty, dust_limit=Sat(theirs)),
        ),
        made,
    )


WRONG: dict[str, Change] = {
    "a balance is rounded up": rounded_up,
    "the fee is of another feerate": lambda known, made: (
        known,
        replace(made, feerate_per_kw=FeeratePerKw(made.feerate_per_kw + 2)),
    ),
    "the fee is taken from the other side": lambda known, made: (
        replace(known, opener_is_holder=not known.opener_is_holder),
        made,
    ),
    "anchors are missing": lambda known, made: (replace(known, anchors=False), made),
    "an HTLC below our dust limit has an output": of_dust_limits(300, 300),
    "our balance is trimmed by a dust limit that is not ours": of_dust_limits(8_000_000, 354),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_commitment_that_is_built_wrongly_is_not_taken(tmp_path: Path, name: str) -> None:
    """checklist 9, 17"""
    pair = Pair(tmp_path)
    open_channel(pair, push=3_000_000_000 + ODD)
    offers(pair, pair.bob, DUST)
    pair.bob.answer()
    add, signed = said_by(pair.bob)
    assert isinstance(add, UpdateAddHtlc)
    assert isinstance(signed, CommitmentSigned)
    bobs = pair.bob.state.committed
    known = commitment_params(bobs.params)
    made = content(bobs, pair.bob.state.htlcs, Side.COUNTERPARTY, bobs.remote_number)
    point = pair.alice.state.committed.local_points[1]
    (channel,) = pair.bob.signer._channels.values()

    def signature(change: Change) -> bytes:
        params, shared = change(known.mirror(), made)
        digest = build(params, Side.HOLDER, shared, point).digest
        return bytes(curve.sign_ecdsa(channel.secrets.funding.reveal(), digest))

    assert signature(lambda params, shared: (params, shared)) == signed.signature
    wrong = replace(signed, signature=signature(WRONG[name]))
    refused(pair, add, wrong, says="signature on our commitment is not valid")


@pytest.mark.parametrize("anchors", [True, False], ids=["anchors", "static_remotekey"])
def test_odd_amounts_and_dust_in_both_directions_leave_both_ends_agreed(
    tmp_path: Path, anchors: bool
) -> None:
    """checklist 17"""
    pair = Pair(tmp_path)
    open_channel(pair, push=3_000_000_000 + ODD, anchors=anchors)
    for end in pair.ends:
        offers(pair, end, 1, 353_999, 354_000, 999_999, 1_056_999, 1_057_000, ODD)
    pair.quiet()
    assert not pair.alice.drops + pair.bob.drops
    assert [len(end.said.received) for end in pair.ends] == [7, 7]
    mirrored(pair)


# Signed wrongly (checklist 16).

Signatures = tuple[bytes, ...]
MIXED: dict[str, tuple[Callable[[Signatures], Signatures], str]] = {
    "one too few": (lambda all: all[:-1], "2 HTLC signatures came, our commitment has 3"),
    "one too many": (lambda all: (*all, all[0]), "4 HTLC signatures came, our commitment has 3"),
    "none": (lambda _: (), "0 HTLC signatures came, our commitment has 3"),
    "in another order": (lambda all: (all[1], all[0], all[2]), "HTLC signature 0 is not valid"),
    "in the order of ids": (lambda all: all[::-1], "HTLC signature 0 is not valid"),
    "one is another's": (lambda all: (all[0], all[0], all[2]), "HTLC signature 1 is not valid"),
}


@pytest.mark.parametrize("name", MIXED)
def test_htlc_signatures_stand_in_the_order_of_their_outputs(tmp_path: Path, name: str) -> None:
    """checklist 16: one for each untrimmed HTLC; the fourth of these has no output."""
    change, says = MIXED[name]
    pair = Pair(tmp_path)
    open_channel(pair, push=3_000_000_000)
    offers(pair, pair.bob, 30_000_000, 20_000_000, 10_000_000, DUST)
    pair.bob.answer()
    *adds, signed = said_by(pair.bob)
    assert isinstance(signed, CommitmentSigned)
    assert len(adds) == len(signed.htlc_signature) + 1
    wrong = replace(signed, htlc_signature=change(signed.htlc_signature))
    refused(pair, *adds, wrong, says=says)


def test_twins_are_signed_in_the_order_of_their_expiry(tmp_path: Path) -> None:
    """checklist 16: two HTLCs that we offered, with one amount and one hash, have equal outputs."""
    pair = Pair(tmp_path)
    open_channel(pair, push=3_000_000_000)
    offers(pair, pair.alice, 20_000_000, 20_000_000, expiries=(300, 200))
    pair.alice.answer()
    pair.deliver(pair.alice, 10)
    while pair.bob.answer():
        pass
    revocation, signed = said_by(pair.bob)
    assert isinstance(signed, CommitmentSigned)
    assert len(signed.htlc_signature) == 2
    swapped = replace(signed, htlc_signature=signed.htlc_signature[::-1])
    refused(pair, revocation, swapped, says="HTLC signature 0 is not valid")
    assert len(pair.bob.said.received) == 2
