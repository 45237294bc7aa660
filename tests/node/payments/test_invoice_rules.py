"""What of BOLT 11 a payer holds an invoice to (checklist 40); the published vectors are in tests/protocol/bolt11."""

import pytest

from node.payments import send
from protocol import curve
from protocol.amounts import Msat
from protocol.bolt11 import encode
from protocol.bolt11.invoice import InvoiceTerms
from protocol.errors import CommandRefused
from protocol.hashes import sha256
from tests.node.payments.support import NOW, PAYEE_ID, PAYEE_KEY, PREIMAGE, SECRET, invoice_text


def read(text: str):
    return send.read_invoice(text, prefix="bcrt")


def high_s(*, node_id: bytes | None) -> str:
    """The other signature of the same key over the same invoice."""
    terms = InvoiceTerms(
        prefix="bcrt",
        amount_msat=Msat(10_000),
        timestamp=NOW,
        payment_hash=sha256(PREIMAGE),
        payment_secret=SECRET,
        description="coffee",
        features=frozenset({8, 14}),
        node_id=node_id,
    )
    unsigned = encode.unsigned(terms)
    signature, recovery_id = curve.sign_recoverable(PAYEE_KEY, unsigned.digest)
    s = curve.ORDER - int.from_bytes(signature[32:], "big")
    return unsigned.with_signature(signature[:32] + s.to_bytes(32, "big"), recovery_id ^ 1)


def test_a_high_s_is_taken_when_the_key_is_recovered():
    """checklist 40"""
    assert read(high_s(node_id=None)).payee == PAYEE_ID


def test_a_high_s_is_refused_when_the_key_is_given():
    """checklist 40"""
    with pytest.raises(CommandRefused) as refused:
        read(high_s(node_id=PAYEE_ID))
    assert refused.value.code == -32602


def test_without_their_fields_expiry_is_an_hour_and_the_final_delay_18_blocks():
    """checklist 40"""
    goal = send.goal_of(read(invoice_text()), Msat(10_000))
    assert (goal.expires_at, goal.final_delay) == (NOW + 3600, 18)


@pytest.mark.parametrize(("bit", "payable"), [(101, True), (100, False)])
def test_an_unknown_even_feature_refuses_and_an_odd_one_does_not(bit: int, payable: bool):
    """checklist 40"""
    text = invoice_text(features=frozenset({8, 14, bit}))
    if payable:
        assert not send.goal_of(read(text), Msat(10_000)).in_parts
    else:
        with pytest.raises(CommandRefused):
            read(text)


def test_parts_are_for_invoices_that_offer_them():
    """checklist 37"""
    assert send.goal_of(read(invoice_text(features=frozenset({8, 14, 17}))), Msat(10_000)).in_parts
