"""The three acts, their failures, and the static key outside (BOLT 8, "Authenticated Key Exchange")."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import curve
from protocol.bolt8.handshake import HandshakeFailed, Initiator, Responder, Session, StaticDh, Why
from protocol.bolt8.static_key import mix_static
from protocol.errors import PeerViolation
from protocol.secret import Secret
from tests.protocol.bolt8.cases import HANDSHAKE
from tests.support import vectors

CASE = {name: bytes.fromhex(value) for name, value in HANDSHAKE.items()}

VECTOR_ERRORS = {
    "ACT1_READ_FAILED": (1, Why.SHORT),
    "ACT1_BAD_VERSION": (1, Why.BAD_VERSION),
    "ACT1_BAD_PUBKEY": (1, Why.BAD_KEY),
    "ACT1_BAD_TAG": (1, Why.BAD_TAG),
    "ACT2_READ_FAILED": (2, Why.SHORT),
    "ACT2_BAD_VERSION 1": (2, Why.BAD_VERSION),
    "ACT2_BAD_PUBKEY": (2, Why.BAD_KEY),
    "ACT2_BAD_TAG": (2, Why.BAD_TAG),
    "ACT3_READ_FAILED": (3, Why.SHORT),
    "ACT3_BAD_VERSION 1": (3, Why.BAD_VERSION),
    "ACT3_BAD_CIPHERTEXT": (3, Why.BAD_CIPHERTEXT),
    "ACT3_BAD_PUBKEY": (3, Why.BAD_KEY),
    "ACT3_BAD_TAG": (3, Why.BAD_TAG),
}


def signer(secret: bytes, request: StaticDh | None) -> tuple[bytes, bytes]:
    assert request is not None
    return mix_static(secret, request.chaining_key.reveal(), request.remote_ephemeral)


def initiator() -> Initiator:
    return Initiator(Secret(CASE["e_initiator"]), CASE["responder_id"], CASE["initiator_id"])


def responder() -> Responder:
    return Responder(Secret(CASE["e_responder"]), CASE["responder_id"])


def open_act_one(end: Responder, act: bytes) -> bytes:
    end.receive_act_one(act)
    return end.act_two(signer(CASE["ls_responder"], end.static_request))


def run(case: dict, inputs: list[bytes]) -> tuple[list[bytes], Session]:
    return run_initiator(case, inputs[0]) if case["role"] == "initiator" else run_responder(case, inputs)


def run_initiator(case: dict, act_two: bytes) -> tuple[list[bytes], Session]:
    end = Initiator(
        Secret(bytes.fromhex(case["e_priv"])),
        bytes.fromhex(case["rs_pub"]),
        bytes.fromhex(case["ls_pub"]),
    )
    act_one = end.act_one()
    end.receive_act_two(act_two)
    act_three, session = end.finish(signer(bytes.fromhex(case["ls_priv"]), end.static_request))
    return [act_one, act_three], session


def run_responder(case: dict, inputs: list[bytes]) -> tuple[list[bytes], Session]:
    end = Responder(Secret(bytes.fromhex(case["e_priv"])), bytes.fromhex(case["ls_pub"]))
    end.receive_act_one(inputs[0])
    act_two = end.act_two(signer(bytes.fromhex(case["ls_priv"]), end.static_request))
    return [act_two], end.receive_act_three(inputs[1])


def test_both_ends_reach_the_published_acts_and_keys():
    dialling, dialled = initiator(), responder()
    act_one = dialling.act_one()
    assert act_one == CASE["act_one"]
    dialled.receive_act_one(act_one)
    act_two = dialled.act_two(signer(CASE["ls_responder"], dialled.static_request))
    assert act_two == CASE["act_two"]
    dialling.receive_act_two(act_two)
    act_three, ours = dialling.finish(signer(CASE["ls_initiator"], dialling.static_request))
    assert act_three == CASE["act_three"]
    theirs = dialled.receive_act_three(act_three)
    assert ours == Session(CASE["responder_id"], Secret(CASE["sk"]), Secret(CASE["rk"]), Secret(CASE["ck"]))
    assert theirs == Session(CASE["initiator_id"], Secret(CASE["rk"]), Secret(CASE["sk"]), Secret(CASE["ck"]))


def test_all_published_handshakes():
    cases = vectors("bolt08/handshake.json")
    assert len(cases) == 15
    for case in cases:
        inputs = [bytes.fromhex(step["input"]) for step in case["steps"] if "input" in step]
        outputs = [bytes.fromhex(step["output"]) for step in case["steps"] if "output" in step]
        errors = [step["error"] for step in case["steps"] if "error" in step]
        inputs += [b""] * (2 - len(inputs))
        if errors:
            with pytest.raises(HandshakeFailed) as caught:
                run(case, inputs)
            assert (caught.value.act, caught.value.why) == VECTOR_ERRORS[errors[0]], case["name"]
            continue
        made, session = run(case, inputs)
        assert made == outputs, case["name"]
        assert session.sending_key.reveal().hex() == case["result"]["sk"]
        assert session.receiving_key.reveal().hex() == case["result"]["rk"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda act: act[:-1], Why.SHORT),
        (lambda act: act + b"\x00", Why.SHORT),
        (lambda act: b"\x01" + act[1:], Why.BAD_VERSION),
        (lambda act: act[:1] + b"\x04" + act[2:], Why.BAD_KEY),
        (lambda act: act[:-1] + bytes((act[-1] ^ 1,)), Why.BAD_TAG),
    ],
)
def test_a_changed_act_is_refused_with_its_reason(change, why):
    """One case of each published failure, both for act one and act two."""
    end = initiator()
    end.act_one()
    with pytest.raises(HandshakeFailed) as caught:
        end.receive_act_two(change(CASE["act_two"]))
    assert (caught.value.act, caught.value.why) == (2, why)
    with pytest.raises(HandshakeFailed) as caught:
        open_act_one(responder(), change(CASE["act_one"]))
    assert (caught.value.act, caught.value.why) == (1, why)


def test_a_caller_who_wants_another_node_is_refused():
    stranger = Initiator(Secret(CASE["e_initiator"]), curve.point_of(b"\x05" * 32), CASE["initiator_id"])
    end = responder()
    end.receive_act_one(stranger.act_one())
    with pytest.raises(HandshakeFailed, match="act 1"):
        end.act_two(signer(CASE["ls_responder"], end.static_request))


def test_a_wrong_answer_of_the_signer_reaches_no_session():
    end = responder()
    end.receive_act_one(CASE["act_one"])
    with pytest.raises(HandshakeFailed):
        end.act_two(signer(b"\x07" * 32, end.static_request))


def test_a_node_id_off_the_curve_cannot_be_dialled():
    with pytest.raises(curve.InvalidKey):
        Initiator(Secret(b"\x01" * 32), b"\x02" + b"\xff" * 32, CASE["initiator_id"])


def test_acts_out_of_order_are_a_bug_of_the_caller():
    end = initiator()
    with pytest.raises(RuntimeError, match="act 1"):
        end.receive_act_two(CASE["act_two"])
    end.act_one()
    with pytest.raises(RuntimeError, match="act 2"):
        end.finish((bytes(32), bytes(32)))


def test_the_static_request_exists_only_while_it_is_open():
    end = initiator()
    end.act_one()
    assert end.static_request is None
    end.receive_act_two(CASE["act_two"])
    request = end.static_request
    assert request is not None
    assert request.remote_ephemeral == CASE["act_two"][1:34]
    assert request.chaining_key.reveal().hex() not in repr(request)
    end.finish(signer(CASE["ls_initiator"], request))
    assert end.static_request is None


def test_the_static_operation_gives_the_published_chaining_and_cipher_key():
    """BOLT 8 vectors, initiator's third act: values after mixing `se`."""
    ck = bytes.fromhex("e89d31033a1b6bf68c07d22e08ea4d7884646c4b60a9528598ccb4ee2c8f56ba")
    new_ck, key = mix_static(CASE["ls_initiator"], ck, CASE["act_two"][1:34])
    assert new_ck.hex() == HANDSHAKE["ck"]
    assert key.hex() == "981a46c820fb7a241bc8184ba4bb1f01bcdfafb00dde80098cb8c38db9141520"


def test_the_static_operation_refuses_what_is_no_key():
    with pytest.raises(curve.InvalidKey):
        mix_static(b"\x01" * 32, bytes(32), b"\x02" + b"\xff" * 32)
    with pytest.raises(ValueError, match="chaining key"):
        mix_static(b"\x01" * 32, bytes(31), CASE["initiator_id"])


@given(st.binary(max_size=80) | st.binary(min_size=49, max_size=49).map(lambda body: b"\x00" + body))
def test_random_acts_raise_nothing_but_a_failed_handshake(data):
    end = initiator()
    end.act_one()
    with pytest.raises(PeerViolation):
        end.receive_act_two(data)
    with pytest.raises(PeerViolation):
        open_act_one(responder(), data)
