"""Random and mutated bytes for every decoder that takes bytes from outside: only declared errors come out."""

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, Target

EXAMPLES = 60 if os.environ.get("LNP_HYPOTHESIS", "ci") == "ci" else 5_000
_EDITS = ("flip", "cut", "insert", "repeat", "drop", "max")


def mutated(seeds: tuple[bytes, ...]) -> st.SearchStrategy[bytes]:
    edit = st.tuples(st.sampled_from(_EDITS), st.integers(0, 1 << 16), st.binary(max_size=6))
    return st.builds(_mutate, st.sampled_from(seeds), st.lists(edit, min_size=1, max_size=4))


def _mutate(seed: bytes, edits: list[tuple[str, int, bytes]]) -> bytes:
    data = bytearray(seed)
    for kind, place, piece in edits:
        at = place % (len(data) + 1)
        match kind:
            case "flip" if at < len(data):
                data[at] ^= (piece or b"\x01")[0] or 0x80
            case "cut":
                del data[at:]
            case "insert":
                data[at:at] = piece
            case "repeat":
                data[at:at] = data[at : at + 40]
            case "drop":
                del data[at : at + len(piece) + 1]
            case "max":
                data[at : at + len(piece)] = b"\xff" * len(piece)
            case _:
                pass
    return bytes(data)


def feed(target: Target, data: bytes) -> None:
    try:
        target.run(data)
    except target.declared:
        pass


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_only_declared_errors_come_out_of_a_decoder(name: str, data: st.DataObject) -> None:
    target = TARGETS[name]
    feed(target, data.draw(st.binary(max_size=300) | mutated(target.seeds), label="bytes"))


@pytest.mark.parametrize("name", TARGETS)
def test_every_prefix_of_a_seed_and_deep_nesting_are_survived(name: str) -> None:
    target = TARGETS[name]
    longest = max(target.seeds, key=len)
    step = max(1, len(longest) // 60)
    for end in range(0, len(longest), step):
        feed(target, longest[:end])
    for piece in (b"[", b"{", b"\x91", b"\x81\xa1a", b"(", b"\xff", b"0", b"9", "\u0661".encode(), b"\x00"):
        feed(target, piece * 20_000)


@pytest.mark.parametrize("name", TARGETS)
def test_a_seed_is_what_the_decoder_is_for(name: str) -> None:
    """Else the mutations of it would never reach the depths."""
    target = TARGETS[name]
    accepted = 0
    for seed in target.seeds:
        try:
            target.run(seed)
            accepted += 1
        except target.declared:
            pass
    assert accepted or name in ("bus message",), "no seed of this target is accepted"
