"""What a payer decides, without any service."""

from typing import Any

import pytest
from msgspec.structs import replace

from node.payments import send
from node.payments.send import PayCode
from protocol.amounts import BlockHeight, Msat, ShortChannelId
from protocol.bolt4 import failure, failure_onion, payload, sphinx
from protocol.bolt4.attribution import Told, keys_of, update
from protocol.bolt4.failure import FailureCode, IncorrectOrUnknownPaymentDetails, MppTimeout
from protocol.bolt11.invoice import HopHint
from protocol.bus.messages.routing import RouteHop
from protocol.errors import CommandRefused
from protocol.hashes import sha256
from protocol.secret import Secret
from tests.node.payments.support import (
    HEIGHT,
    NOW,
    PAYEE_ID,
    PAYEE_KEY,
    PREIMAGE,
    SECRET,
    STRANGER_ID,
    invoice_text,
)

SESSION = Secret(b"\x77" * 32)


def read(text: str):
    return send.read_invoice(text, prefix="bcrt")


def read_failure(reason: bytes, malformed_code: int | None, secrets: tuple[Secret, ...]) -> CommandRefused:
    return send.refusal(send.open_failure(reason, malformed_code, secrets), len(secrets))


def test_onion_tells_the_payee_amount_expiry_secret_and_total():
    invoice = read(invoice_text())
    hop = send.build_hop(
        send.goal_of(invoice, Msat(10_000)), Msat(10_000), height=HEIGHT, session_key=SESSION
    )
    peeled = sphinx.peel(PAYEE_KEY, hop.onion, sha256(PREIMAGE))
    final = payload.decode_final(peeled.payload)
    assert peeled.next_packet is None
    assert final == payload.FinalPayload(Msat(10_000), hop.cltv_expiry, SECRET, Msat(10_000))
    assert hop.cltv_expiry == HEIGHT + 18 + send.BLOCKS_OF_PATIENCE


@pytest.mark.parametrize("metadata", [None, b"", bytes(range(100))])
def test_the_metadata_of_the_invoice_comes_to_the_payee_as_it_is(metadata: bytes | None):
    """checklist 36: a payee may keep nothing of its invoice but this."""
    invoice = replace(read(invoice_text()), payment_metadata=metadata)
    goal = send.goal_of(invoice, Msat(10_000))
    hop = send.build_hop(goal, Msat(10_000), height=HEIGHT, session_key=SESSION)
    peeled = sphinx.peel(PAYEE_KEY, hop.onion, sha256(PREIMAGE))
    assert payload.decode_final(peeled.payload).payment_metadata == metadata


def test_secrets_of_an_earlier_run_are_found_again_from_the_session_key():
    hop = send.build_hop(
        send.goal_of(read(invoice_text()), Msat(10_000)), Msat(10_000), height=HEIGHT, session_key=SESSION
    )
    assert send.shared_secrets_again(SESSION, [PAYEE_ID]) == hop.shared_secrets


@pytest.mark.parametrize(
    ("text", "asked", "sentence"),
    [
        (invoice_text(amount=None), None, "leaves the amount open"),
        (invoice_text(amount=None), 0, "amount of 0"),
        (invoice_text(amount=10_000), 9_999, "asks for 10000 msat"),
        (invoice_text(amount=10_000), 10_001, "asks for 10000 msat"),
    ],
)
def test_amount_that_does_not_fit_the_invoice_is_refused(text: str, asked: int | None, sentence: str):
    with pytest.raises(CommandRefused, match=sentence) as refused:
        send.amount_to_pay(read(text), asked)
    assert refused.value.code == PayCode.INVALID_PARAMETER


def test_amount_is_the_invoices_or_the_one_given_where_it_is_open():
    assert send.amount_to_pay(read(invoice_text(amount=10_000)), None) == 10_000
    assert send.amount_to_pay(read(invoice_text(amount=10_000)), Msat(10_000)) == 10_000
    assert send.amount_to_pay(read(invoice_text(amount=None)), Msat(7)) == 7


def test_fees_may_be_a_hundredth_or_5_sat_unless_the_payer_says_otherwise():
    """A payer who allows no fee at all means it."""
    asked = [
        (10_000, None),
        (500_001, None),
        (1_000_000, None),
        (10_000, 0),
        (1_000_000, 7),
        (10_000, 20_000),
    ]
    assert [send.fee_budget(Msat(n), fee) for n, fee in asked] == [5000, 5000, 10_000, 0, 7, 20_000]


def test_the_private_ways_that_an_invoice_names_are_used():
    hint = HopHint(STRANGER_ID, ShortChannelId(7), 1, 2, 3)
    assert send.goal_of(replace(read(invoice_text()), route_hints=((hint,),)), Msat(10_000)).hints == (
        (hint,),
    )


def test_invoice_of_another_chain_is_refused():
    with pytest.raises(CommandRefused) as refused:
        read(invoice_text(prefix="tb"))
    assert refused.value.code == PayCode.INVALID_PARAMETER
    assert "testnet" in str(refused.value)


def test_expired_invoice_is_refused_with_code_207():
    goal = send.goal_of(read(invoice_text(expiry=60)), Msat(10_000))
    send.check_payable(goal, now=NOW + 59)
    with pytest.raises(CommandRefused) as refused:
        send.check_payable(goal, now=NOW + 60)
    assert refused.value.code == PayCode.EXPIRED


def test_permanent_failure_of_the_payee_is_code_203_and_says_what_to_do():
    secret = Secret(b"\x01" * 32)
    reason = failure_onion.create(secret, IncorrectOrUnknownPaymentDetails(Msat(10_000), BlockHeight(500)))
    refusal = read_failure(reason, None, (secret,))
    assert refusal.code == PayCode.REFUSED_BY_PAYEE
    assert "incorrect_or_unknown_payment_details" in refusal.sentence
    assert refusal.what_to_do == "Ask for a new invoice."


def test_passing_failure_is_not_called_permanent():
    secret = Secret(b"\x01" * 32)
    refusal = read_failure(failure_onion.create(secret, MppTimeout()), None, (secret,))
    assert refusal.code == PayCode.OTHER
    assert refusal.what_to_do == "Try again."


def test_failure_that_nobody_signed_is_code_202():
    assert read_failure(bytes(292), None, (Secret(b"\x01" * 32),)).code == PayCode.UNREADABLE_FAILURE
    assert read_failure(b"", None, (Secret(b"\x01" * 32),)).code == PayCode.UNREADABLE_FAILURE


def test_malformed_onion_is_told_by_its_code():
    refusal = read_failure(bytes(32), FailureCode.INVALID_ONION_HMAC, (Secret(b"\x01" * 32),))
    assert "invalid_onion_hmac" in refusal.sentence
    without_badonion = read_failure(bytes(32), FailureCode.MPP_TIMEOUT, (Secret(b"\x01" * 32),))
    assert without_badonion.code == PayCode.UNREADABLE_FAILURE


@pytest.mark.parametrize("code", list(FailureCode))
def test_every_failure_has_a_sentence_and_a_next_step(code: FailureCode):
    secret = Secret(b"\x01" * 32)
    refusal = read_failure(
        failure_onion.create(secret, failure.decode(code.to_bytes(2, "big") + bytes(64))), None, (secret,)
    )
    assert refusal.sentence.endswith(f"({code.name.lower()})")
    assert refusal.what_to_do.endswith(".")


ROUTE = tuple(Secret(bytes([n]) * 32) for n in (1, 2, 3))


def come_back(
    made: bytes, *, silent: int | None = None, garbles: int | None = None, times: tuple[int, ...] = (3, 2, 1)
) -> tuple[bytes, bytes]:
    """A failure packet of the last hop, before its layer, and its data as they reach us. `silent` gives no data, and
    `garbles` changes the packet that it passes on."""
    carried, data = b"", None
    for hop in range(len(ROUTE) - 1, -1, -1):
        is_source = hop == len(ROUTE) - 1
        plain = failure_onion.wrap(ROUTE[hop], made) if is_source else carried
        data = update(keys_of(ROUTE[hop]), plain, times[hop], data, is_source=is_source)
        carried = made if is_source else failure_onion.wrap(ROUTE[hop], carried)
        data = None if hop == silent else data
        if hop == garbles:
            carried = carried[:-1] + bytes([carried[-1] ^ 1])
    assert data is not None
    return carried, data


def test_a_failure_that_can_be_read_brings_the_hold_times_of_its_route():
    """checklist 39"""
    reason, data = come_back(failure_onion.create(ROUTE[2], MppTimeout()))
    opened = send.open_failure(reason, None, ROUTE, data)
    assert opened == send.Opened(3, MppTimeout(), Told((3, 2, 1)))
    assert opened.suspects(3) is None
    assert send.open_failure(reason, None, ROUTE) == send.Opened(3, MppTimeout())


@pytest.mark.parametrize(
    ("spoils", "suspects", "named"),
    [
        ({"garbles": 0}, (0, 1), "hop 1 of 3"),
        ({"garbles": 1}, (0, 2), "hops 1 to 2 of 3"),
        ({"garbles": 2}, (1, 3), "hops 2 to 3 of 3"),
        ({"garbles": 1, "silent": 1}, (0, 3), "hops 1 to 3 of 3"),
        ({}, (2, 3), "hop 3 of 3"),  # all data is whole: the last node itself made what nobody can read
    ],
)
def test_an_unreadable_failure_is_blamed_on_the_pair_that_attribution_data_names(
    spoils: dict[str, int], suspects: tuple[int, int], named: str
):
    """checklist 39"""
    made = failure_onion.create(ROUTE[2], MppTimeout()) if spoils else b"nobody can read this" * 15
    reason, data = come_back(made, **spoils)
    opened = send.open_failure(reason, None, ROUTE, data)
    assert (opened.failed_at, opened.failure) == (send.NOBODY, None)
    assert opened.suspects(3) == suspects
    assert send.refusal(opened, 3).sentence.endswith(f"attribution data leads to {named}")
    assert send.open_failure(reason, None, ROUTE).suspects(3) is None


def test_hold_times_end_where_a_node_tells_none():
    """checklist 39"""
    data = None
    for hop in (2, 1, 0):
        data = update(keys_of(ROUTE[hop]), b"", hop + 5, data, is_source=hop == 2)
    assert send.hold_times(data, ROUTE) == (5, 6, 7)
    assert send.hold_times(update(keys_of(ROUTE[0]), b"", 5, None), ROUTE) == (5,)
    assert send.hold_times(None, ROUTE) == send.hold_times(bytes(919), ROUTE) == ()


def hops(*terms: tuple[bytes, int, int]) -> tuple[RouteHop, ...]:
    return tuple(
        RouteHop(node, ShortChannelId(n), 0, Msat(amount), delay)
        for n, (node, amount, delay) in enumerate(terms)
    )


WAY = hops((STRANGER_ID, 6010, 61), (PAYEE_ID, 6000, 21))


def check(route: tuple[RouteHop, ...], max_fee: int = 10) -> None:
    goal = send.goal_of(read(invoice_text()), Msat(10_000))
    send.check_route(route, goal, max_fee, parts_of=6000)


@pytest.mark.parametrize(
    "wrong",
    [
        (),
        hops((STRANGER_ID, 6000, 61)),  # to another node
        hops((STRANGER_ID, 5999, 61), (PAYEE_ID, 6000, 21)),  # a node that pays for us will not
        hops((STRANGER_ID, 6010, 20), (PAYEE_ID, 6000, 21)),
        hops((STRANGER_ID, 6011, 61), (PAYEE_ID, 6000, 21)),  # dearer than allowed
        hops((STRANGER_ID, 6011, 61), (PAYEE_ID, 6001, 21)),  # more than is missing
        hops((STRANGER_ID, 10, 61), (PAYEE_ID, 0, 21)),
        hops(
            (STRANGER_ID, 6010, 61), (PAYEE_ID, 6000, 20)
        ),  # fewer blocks than the recipient wants to have left
        hops((STRANGER_ID, 6010, 2017), (PAYEE_ID, 6000, 21)),  # the money may be locked for 2016
        hops(*[(STRANGER_ID, 6000, 61)] * 20, (PAYEE_ID, 6000, 21)),  # no onion holds so many
    ],
)
def test_a_route_that_breaks_what_was_asked_is_refused(wrong: tuple[RouteHop, ...]):
    check(WAY)
    with pytest.raises(CommandRefused):
        check(wrong)


@pytest.mark.parametrize(
    ("ruled_out", "kept"),
    [
        ({"excluded": ((1, 0),)}, {"excluded": ((1, 1), (2, 0))}),
        ({"excluded_nodes": (STRANGER_ID,)}, {"excluded_nodes": (bytes(33),)}),
        ({"max_delay": 60}, {"max_delay": 61}),
    ],
)
def test_a_route_that_the_payer_ruled_out_is_refused(ruled_out: dict[str, Any], kept: dict[str, Any]):
    """From whoever found it: what finds routes may be wrong, and what is offered cannot be taken back."""
    goal = send.goal_of(read(invoice_text()), Msat(10_000), **kept)
    send.check_route(WAY, goal, 10, parts_of=6000)
    goal = send.goal_of(read(invoice_text()), Msat(10_000), **ruled_out)
    with pytest.raises(CommandRefused):
        send.check_route(WAY, goal, 10, parts_of=6000)
