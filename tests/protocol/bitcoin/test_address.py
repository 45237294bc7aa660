"""Addresses against BIP 173 and BIP 350, and the base58 forms."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.bitcoin import base58, bech32
from protocol.bitcoin.address import address_of, script_pubkey_of
from protocol.bitcoin.network import MAINNET, NETWORKS, REGTEST, SIGNET, TESTNET, TESTNET4, network_named
from protocol.errors import MalformedMessage
from tests.support import vectors

OWN = [
    ("bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4", MAINNET, "0014751e76e8199196d454941c45d1b3a323f1433bd6"),
    (
        "bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqzk5jj0",
        MAINNET,
        "512079be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798",
    ),
    ("1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN2", MAINNET, "76a91477bff20c60e522dfaa3350c39b030a5d004e839a88ac"),
    ("3J98t1WpEZ73CNmQviecrnyiWrnqRhWNLy", MAINNET, "a914b472a266d0bd89c13706a4132ccfb16f7c3b9fcb87"),
]


@pytest.mark.parametrize(("address", "network", "script"), OWN)
def test_address_and_script_stand_for_each_other(address: str, network: Any, script: str) -> None:
    assert script_pubkey_of(address, network).hex() == script
    assert address_of(bytes.fromhex(script), network) == address
    with pytest.raises(MalformedMessage):
        script_pubkey_of(address, REGTEST)


@pytest.mark.parametrize(("address", "network", "_script"), OWN)
def test_one_wrong_character_is_noticed(address: str, network: Any, _script: str) -> None:
    wrong = address[:-3] + ("q" if address[-3] != "q" else "p") + address[-2:]
    with pytest.raises(MalformedMessage):
        script_pubkey_of(wrong, network)


def _refused_everywhere(address: str) -> bool:
    for network in NETWORKS.values():
        try:
            script_pubkey_of(address, network)
        except MalformedMessage:
            continue
        return False
    return True


def test_published_segwit_addresses_of_bip350() -> None:
    cases = vectors("bips/bip350/bech32m.json")["segwit_addresses"]
    for case in cases["valid"]:
        network = MAINNET if case["address"].lower().startswith("bc1") else TESTNET
        script = script_pubkey_of(case["address"], network)
        assert script.hex() == case["scriptpubkey"]
        assert address_of(script, network) == case["address"].lower()
    assert [c for c in cases["invalid"] if not _refused_everywhere(c["address"])] == []
    assert len(cases["valid"]) >= 7 and len(cases["invalid"]) >= 14


def test_published_segwit_addresses_of_bip173_as_bip350_left_them() -> None:
    """Version 0 addresses stand; those of later versions carry the old checksum and are refused now."""
    cases = vectors("bips/bip173/bech32.json")["segwit_addresses_as_of_bip173"]
    for case in cases["valid"]:
        network = MAINNET if case["address"].lower().startswith("bc1") else TESTNET
        if case["scriptpubkey"].startswith("00"):
            assert script_pubkey_of(case["address"], network).hex() == case["scriptpubkey"]
        else:
            assert _refused_everywhere(case["address"])
    assert [c for c in cases["invalid"] if not _refused_everywhere(c["address"])] == []


@pytest.mark.parametrize("name", ["bip173/bech32.json:bech32", "bip350/bech32m.json:bech32m"])
def test_published_bech32_texts(name: str) -> None:
    file, kind = name.split(":")
    cases = vectors(f"bips/{file}")[kind]
    expected = bech32.Checksum.BECH32 if kind == "bech32" else bech32.Checksum.BECH32M
    for text in cases["valid"]:
        checksum, hrp, words = bech32.decode(text)
        assert checksum is expected
        assert bech32.encode(checksum, hrp, words) == text.lower()
    for case in cases["invalid"]:
        with pytest.raises(MalformedMessage):
            bech32.decode(bytes.fromhex(case["bytes_hex"]).decode("latin-1"))
    assert len(cases["invalid"]) >= 12


def test_own_bech32_cases() -> None:
    assert bech32.decode("A12UEL5L") == (bech32.Checksum.BECH32, "a", [])
    assert bech32.decode("a1lqfn3a") == (bech32.Checksum.BECH32M, "a", [])
    for bad in ("A12uEL5L", "pzry9x0s0muk", "1pzry9x0s0muk", "", "a12uel5k"):
        with pytest.raises(MalformedMessage):
            bech32.decode(bad)


def test_padding_must_be_short_and_zero() -> None:
    assert bech32.to_bytes(bech32.to_words(b"\xff\x00\x01")) == b"\xff\x00\x01"
    with pytest.raises(MalformedMessage):
        bech32.to_bytes([0, 1])
    with pytest.raises(MalformedMessage):
        bech32.to_bytes([0, 0, 0])


@given(st.binary(max_size=60))
def test_base58check_round_trip(payload: bytes) -> None:
    assert base58.decode(base58.encode(payload)) == payload
    if payload:
        assert base58.decode_check(base58.encode_check(payload)) == payload


@pytest.mark.parametrize("bad", ["", "1", "0OIl", "3J98t1WpEZ73CNmQviecrnyiWrnqRhWNLz", "1" * 201, "ä"])
def test_base58_that_is_wrong_is_malformed(bad: str) -> None:
    with pytest.raises(MalformedMessage):
        base58.decode_check(bad)


@given(st.text(max_size=100))
def test_no_text_breaks_the_address_reader(text: str) -> None:
    for address in (text, "bc1" + text, "bcrt1" + text):
        try:
            script_pubkey_of(address, MAINNET)
            script_pubkey_of(address, REGTEST)
        except MalformedMessage:
            pass


@given(st.sampled_from(list(NETWORKS.values())), st.integers(0, 16), st.binary(min_size=2, max_size=40))
def test_every_witness_program_has_one_address(network: Any, version: int, program: bytes) -> None:
    script = bytes((0x50 + version if version else 0, len(program))) + program
    address = address_of(script, network)
    if version == 0 and len(program) not in (20, 32):
        assert address is None
    else:
        assert address is not None
        assert script_pubkey_of(address, network) == script


def test_scripts_without_an_address() -> None:
    for script in (b"", b"\x6a\x01a", b"\x51", bytes(25), b"\x76\xa9\x14" + bytes(22)):
        assert address_of(script, MAINNET) is None


def test_networks_are_told_apart() -> None:
    assert network_named("testnet4") is TESTNET4
    assert len({n.chain_hash for n in NETWORKS.values()}) == 5
    assert SIGNET.bolt11_prefix == "lntbs"
    assert REGTEST.chain_hash.hex() == "06226e46111a0b59caaf126043eb5bbf28c34f3a5e332a1fc7b2b73cf188910f"
    with pytest.raises(ValueError, match="use one of mainnet, testnet"):
        network_named("mainnett")
