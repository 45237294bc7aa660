"""Parameters by position and by name, in every spelling that clients use."""

import pytest

from node.rpc import params
from node.rpc.catalogue import METHODS
from node.rpc.errors import RpcError
from node.rpc.params import bind


def bound(method: str, given: object):
    return bind(method, METHODS[method].params, given)


def refusal(method: str, given: object) -> RpcError:
    with pytest.raises(RpcError) as refused:
        bound(method, given)
    assert refused.value.code == -32602
    return refused.value


def test_position_name_and_nulls_give_the_same_arguments():
    by_position = bound("invoice", [1000, "a", "b", None, None, None, True])
    by_name = bound(
        "invoice",
        {"amount_msat": "1000msat", "label": "a", "description": "b", "exposeprivatechannels": True},
    )
    assert by_position == by_name
    assert by_position["expiry"] == 604_800


def test_a_missing_parameter_is_named_with_the_usage():
    assert "missing required parameter: label" in refusal("invoice", [1]).message
    assert "missing required parameter: label" in refusal("invoice", [1, None, "x"]).message
    assert "invoice amount_msat label description [expiry]" in refusal("invoice", {}).message


def test_an_unknown_name_is_answered_with_the_nearest():
    assert "did you mean 'amount_msat'?" in refusal("pay", {"bolt11": "x", "amount": 1}).message
    assert "unknown parameter 'qqqq': pay bolt11" in refusal("pay", {"bolt11": "x", "qqqq": 1}).message


def test_too_many_positions_and_other_shapes_are_refused():
    assert "at most 1" in refusal("waitinvoice", ["a", "b"]).message
    assert "list or an object" in refusal("getinfo", "text").message
    assert bound("getinfo", None) == {}


@pytest.mark.parametrize(
    ("kind", "given", "value"),
    [
        (params.msat, 5, 5),
        (params.msat, "5", 5),
        (params.msat, "5msat", 5),
        (params.msat, "5sat", 5000),
        (params.msat, "1.5sat", 1500),
        (params.msat, "0.00000001btc", 1000),
        (params.msat_or_any, "any", None),
        (params.sat, "5", 5),
        (params.sat, "5000msat", 5),
        (params.sat_or_all, "all", None),
        (params.sat_or_all, 7, 7),
        (params.feerate, "253perkw", 253),
        (params.feerate, "1000perkb", 250),
        (params.feerate, "1001perkb", 251),
        (params.feerate, 1012, 253),
        (params.feerate, "urgent", "urgent"),
        (params.label, 5, "5"),
        (params.boolean, "true", True),
        (params.boolean, False, False),
        (params.integer(1, 9), "9", 9),
        (params.number, "0.5", 0.5),
        (params.short_channel_id, "1x2x3", 1 << 40 | 2 << 16 | 3),
        (params.hex_bytes(2), "00FF", b"\x00\xff"),
        (params.not_offered("no"), [], None),
    ],
)
def test_spellings_that_clients_use(kind, given: object, value: object):
    assert kind(given) == value


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (params.msat, "1.5msat"),
        (params.msat, "-1"),
        (params.msat, -1),
        (params.msat, True),
        (params.msat, 1.5),
        (params.msat, "1e3"),
        (params.msat, "22000000btc"),
        (params.msat, "any"),
        (params.sat, "1msat"),
        (params.feerate, "fast"),
        (params.feerate, True),
        (params.feerate, "1perkg"),
        (params.label, True),
        (params.label, 1.5),
        (params.boolean, 1),
        (params.integer(1, 9), 10),
        (params.integer(1, 9), "0"),
        (params.integer(1, 9), True),
        (params.integer(1), 2**63),
        (params.number, "x"),
        (params.node_id, "05" + "00" * 32),
        (params.node_id, 5),
        (params.hex_bytes(2), "0x12"),
        (params.short_channel_id, "1x2"),
        (params.not_offered("no"), 1),
        (params.one_of("a"), "b"),
        (params.one_of("a"), ["a"]),
        (params.text, 5),
    ],
)
def test_anything_else_is_refused(kind, given: object):
    with pytest.raises(ValueError):
        kind(given)


def test_a_wrong_value_is_shown_but_not_at_length():
    assert refusal("listpays", [None, "zz"]).message == "payment_hash: should be 64 hex digits, not 'zz'"
    assert len(refusal("listpays", [None, "z" * 10_000]).message) < 200
