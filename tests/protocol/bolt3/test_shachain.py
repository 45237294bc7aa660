"""Per-commitment secrets (BOLT 3, "Efficient Per-commitment Secret Storage", Appendix D)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.bolt3.shachain import (
    FIRST_INDEX,
    SecretChain,
    SecretStore,
    generate_from_seed,
    index_of_commitment,
    secret_for_commitment,
)
from protocol.errors import MalformedMessage, PeerViolation
from protocol.secret import Secret
from tests.support import vectors

ALL_ONES = b"\xff" * 32
GENERATION = [
    (bytes(32), FIRST_INDEX, "02a40c85b6f28da08dfdbe0926c53fab2de6d28c10301f8f7c4073d5e42e3148"),
    (ALL_ONES, FIRST_INDEX, "7cc854b54e3e0dcdb010d7a3fee464a9687be6e8db3be6854c475621e007a5dc"),
    (ALL_ONES, 0xAAAAAAAAAAA, "56f4008fb007ca9acf0e15b054d5c9fd12ee06cea347914ddbaed70d1c13a528"),
    (ALL_ONES, 0x555555555555, "9015daaeb06dba4ccc05b91b2f73bd54405f2be9f217fbacd3c5ac2e62327d31"),
    (b"\x01" * 32, 1, "915c75942a26bb3a433a8ce2cb0427c29ec6c1775cfc78328b57f6ba7bfeaa9c"),
]
# "insert_secret #2 incorrect": the fourth secret exposes the second.
STORAGE = [
    (FIRST_INDEX, "02a40c85b6f28da08dfdbe0926c53fab2de6d28c10301f8f7c4073d5e42e3148", True),
    (FIRST_INDEX - 1, "c7518c8ae4660ed02894df8976fa1a3659c1a8b4b5bec0c4b872abeba4cb8964", False),
]


def fill(count: int, seed: bytes = ALL_ONES) -> SecretStore:
    store = SecretStore()
    for number in range(count):
        store = store.insert(index_of_commitment(number), Secret(secret_for_commitment(seed, number)))
    return store


def play(insertions: list[tuple[int, str, bool]]) -> None:
    store = SecretStore()
    for index, secret, ok in insertions:
        if ok:
            store = store.insert(index, Secret(bytes.fromhex(secret)))
            assert store.secret(index) == Secret(bytes.fromhex(secret))
        else:
            with pytest.raises(PeerViolation):
                store.insert(index, Secret(bytes.fromhex(secret)))


@pytest.mark.parametrize(("seed", "index", "output"), GENERATION)
def test_generation_agrees_with_appendix_d(seed: bytes, index: int, output: str) -> None:
    assert generate_from_seed(seed, index).hex() == output


def test_storage_agrees_with_appendix_d() -> None:
    """checklist 23"""
    play(STORAGE)


def test_generation_and_storage_agree_with_the_published_file() -> None:
    """checklist 23"""
    file = vectors("bolt03/per_commitment_secrets.json")
    for case in file["generation"]:
        assert generate_from_seed(bytes.fromhex(case["seed"]), case["index"]).hex() == case["output"]
    assert len(file["storage"]) == 9
    for case in file["storage"]:
        play([(step["index"], step["secret"], step["ok"]) for step in case["insertions"]])


def test_the_first_commitment_uses_the_highest_index_and_the_seed_is_never_given_out() -> None:
    assert index_of_commitment(0) == FIRST_INDEX
    assert index_of_commitment(FIRST_INDEX - 1) == 1
    for number in (-1, FIRST_INDEX):
        with pytest.raises(ValueError, match="no commitment"):
            secret_for_commitment(ALL_ONES, number)
    with pytest.raises(ValueError, match="index 0"):
        generate_from_seed(ALL_ONES, 0)


@given(st.binary(min_size=32, max_size=32), st.integers(1, 200))
def test_every_inserted_secret_can_be_derived_again_and_no_other(seed: bytes, count: int) -> None:
    """checklist 23"""
    store = fill(count, seed)
    for number in range(count):
        secret = store.secret(index_of_commitment(number))
        assert secret is not None and secret.reveal() == secret_for_commitment(seed, number)
    assert store.secret(index_of_commitment(count)) is None
    assert store.secret(FIRST_INDEX + 1) is None
    assert len(store.buckets) <= count.bit_length()


@given(st.integers(0, 300))
def test_a_store_survives_its_bytes(count: int) -> None:
    store = fill(count)
    raw = store.to_bytes()
    assert SecretStore.from_bytes(raw) == store
    assert len(raw) == 6 + 32 * len(store.buckets)


@pytest.mark.parametrize("raw", [b"", bytes(5), fill(3).to_bytes()[:-1], fill(3).to_bytes() + bytes(32)])
def test_bytes_that_are_no_store_are_refused(raw: bytes) -> None:
    with pytest.raises(MalformedMessage):
        SecretStore.from_bytes(raw)


def test_secrets_out_of_turn_are_our_bug_and_a_short_one_is_malformed() -> None:
    """checklist 23"""
    store = fill(2)
    with pytest.raises(ValueError, match="next secret"):
        store.insert(index_of_commitment(3), Secret(bytes(32)))
    with pytest.raises(MalformedMessage):
        store.insert(index_of_commitment(2), Secret(bytes(31)))


def test_a_failed_insert_leaves_the_store_as_it_was() -> None:
    """checklist 23"""
    store = fill(3)
    with pytest.raises(PeerViolation):
        store.insert(index_of_commitment(3), Secret(bytes(32)))
    assert store == fill(3)
    assert "hidden" in repr(store) and secret_for_commitment(ALL_ONES, 2).hex() not in repr(store)


@given(st.binary(min_size=32, max_size=32), st.lists(st.integers(0, FIRST_INDEX - 1), max_size=20))
def test_a_chain_gives_the_same_secrets_in_any_order(seed: bytes, numbers: list[int]) -> None:
    chain = SecretChain(Secret(seed))
    for number in (*numbers, *range(130), 64, 63, 0):
        assert chain.secret(number).reveal() == secret_for_commitment(seed, number)


def test_a_chain_needs_a_seed_of_32_bytes_and_a_number_in_range() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        SecretChain(Secret(bytes(31)))
    with pytest.raises(ValueError, match="no commitment"):
        SecretChain(Secret(ALL_ONES)).secret(FIRST_INDEX)
