"""Any terms come back, and any text is an invoice or `InvalidInvoice` (BOLT 11)."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.amounts import MAX_MONEY, Msat, ShortChannelId
from protocol.bolt11 import bech32
from protocol.bolt11.decode import decode
from protocol.bolt11.encode import DEFAULT_ORDER, unsigned
from protocol.bolt11.invoice import FallbackAddress, HopHint, InvalidInvoice, Invoice, InvoiceTerms
from protocol.errors import MalformedMessage
from tests.protocol.bolt11.test_invoice import DONATION, NODE_ID, sign

digests = st.binary(min_size=32, max_size=32)
hints = st.builds(
    HopHint,
    node_id=st.just(bytes.fromhex(NODE_ID)),
    short_channel_id=st.integers(0, 2**64 - 1).map(ShortChannelId),
    fee_base_msat=st.integers(0, 2**32 - 1),
    fee_proportional_millionths=st.integers(0, 2**32 - 1),
    cltv_expiry_delta=st.integers(0, 2**16 - 1),
)
terms_of_any_kind = st.builds(
    InvoiceTerms,
    prefix=st.sampled_from(["bc", "tb", "tbs", "bcrt"]),
    amount_msat=st.none() | st.integers(1, MAX_MONEY * 1000).map(Msat),
    timestamp=st.integers(0, 2**35 - 1),
    payment_hash=digests,
    payment_secret=digests,
    description=st.text(st.characters(codec="utf-8"), max_size=60),
    expiry=st.integers(0, 2**35 - 1),
    min_final_cltv_expiry_delta=st.integers(0, 2**16 - 1),
    node_id=st.none() | st.just(bytes.fromhex(NODE_ID)),
    fallback_addresses=st.lists(
        st.builds(FallbackAddress, st.sampled_from([0, 17, 18]), st.binary(min_size=20, max_size=20)),
        max_size=2,
    ).map(tuple),
    route_hints=st.lists(st.lists(hints, min_size=1, max_size=3).map(tuple), max_size=2).map(tuple),
    features=st.frozensets(st.sampled_from([8, 9, 14, 15, 49, 99, 4001]), max_size=4),
    payment_metadata=st.none() | st.binary(max_size=100),
)


@given(terms_of_any_kind, st.permutations(DEFAULT_ORDER))
def test_what_is_written_is_read(terms: InvoiceTerms, order: list[str]) -> None:
    text = sign(unsigned(terms, order="".join(order)))
    invoice = decode(text, expect_prefix=terms.prefix)
    assert {name: getattr(invoice, name) for name in terms.__struct_fields__} == msgspec.structs.asdict(terms)
    assert invoice.payee.hex() == NODE_ID
    assert invoice.text == text


@given(st.integers(0, len(DONATION) - 1), st.sampled_from("qpzry9x8gf2tvdw0s3jn54khce6mua7l1bio"))
def test_any_one_changed_character_is_noticed(at: int, character: str) -> None:
    text = DONATION[:at] + character + DONATION[at + 1 :]
    if text == DONATION:
        assert decode(text).payee.hex() == NODE_ID
        return
    with pytest.raises(InvalidInvoice):
        decode(text)


@given(st.text(max_size=200) | st.text(st.sampled_from("qpzry9x8gf2tvdw0s3jn54khce6mua7l1"), max_size=300))
def test_any_text_is_refused(text: str) -> None:
    with pytest.raises(MalformedMessage):
        decode(text)


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 31)), min_size=1, max_size=5))
def test_mutated_words_under_a_right_checksum_are_read_or_invalid(changes: list[tuple[int, int]]) -> None:
    hrp, words = bech32.decode(DONATION)
    mutated = bytearray(words)
    for at, value in changes:
        mutated[at % len(mutated)] = value
    try:
        invoice = decode(bech32.encode(hrp, bytes(mutated)))
    except InvalidInvoice:
        return
    assert isinstance(invoice, Invoice)
    assert (bytes(mutated) == words) == (invoice.payee.hex() == NODE_ID)


def test_text_that_fits_no_qr_code_is_refused_at_once() -> None:
    with pytest.raises(InvalidInvoice, match="too long"):
        decode("lnbc1" + "q" * 8000)


def test_letters_that_only_become_ascii_in_lower_case_are_refused() -> None:
    with pytest.raises(InvalidInvoice, match="characters"):
        decode(DONATION.upper().replace("K", "\u212a", 1))
