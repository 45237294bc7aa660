"""Extended keys and mnemonics against BIP 32, 39, 84 and 86."""

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.bitcoin import base58, mnemonic, taproot
from protocol.bitcoin.address import address_of
from protocol.bitcoin.keys import HARDENED, ExtendedKey, format_path, parse_path
from protocol.bitcoin.network import MAINNET, REGTEST
from protocol.bitcoin.script import p2wpkh
from protocol.errors import MalformedMessage
from protocol.secret import Secret
from tests.support import vector_path, vectors

SEED = Secret(bytes.fromhex("000102030405060708090a0b0c0d0e0f"))
OWN_PATH = "m/0h/1/2h/2/1000000000"
OWN_XPUB = (
    "xpub6H1LXWLaKsWFhvm6RVpEL9P4KfRZSW7abD2ttkWP3SSQvnyA8FSVqNTEcYFgJS2"
    "UaFcxupHiYkro49S8yGasTvXEYBVPamhGW6cFJodrTHy"
)
ABANDON = Secret(b"abandon " * 11 + b"about")


def private_text(key: ExtendedKey) -> str:
    return key.to_private_string().reveal().decode()


def test_own_derivation_case() -> None:
    master = ExtendedKey.from_seed(SEED, MAINNET)
    assert master.derive(OWN_PATH).to_string() == OWN_XPUB
    assert ExtendedKey.from_string(OWN_XPUB, MAINNET) == master.derive(OWN_PATH).neuter()


def test_published_derivations_of_bip32() -> None:
    count = 0
    for case in vectors("bips/bip32/bip32.json")["valid"]:
        master = ExtendedKey.from_seed(Secret(bytes.fromhex(case["seed"])), MAINNET)
        for chain in case["chains"]:
            key = master.derive(chain["path"])
            assert (private_text(key), key.to_string()) == (chain["xprv"], chain["xpub"])
            assert ExtendedKey.from_string(chain["xprv"], MAINNET) == key
            assert ExtendedKey.from_string(chain["xpub"], MAINNET) == key.neuter()
            count += 1
    assert count == 17


def test_published_invalid_keys_of_bip32() -> None:
    cases = vectors("bips/bip32/bip32.json")["invalid"]
    for case in cases:
        with pytest.raises(MalformedMessage):
            ExtendedKey.from_string(case["extended_key"], MAINNET)
    assert len(cases) == 16


@given(st.lists(st.integers(0, HARDENED - 1), max_size=4))
def test_public_derivation_meets_private_derivation(path: list[int]) -> None:
    master = ExtendedKey.from_seed(SEED, REGTEST)
    assert master.derive(path).neuter() == master.neuter().derive(path)


def test_public_key_has_no_hardened_child() -> None:
    public = ExtendedKey.from_seed(SEED, MAINNET).neuter()
    with pytest.raises(ValueError, match="private key is not known here"):
        public.child(HARDENED)
    with pytest.raises(ValueError, match="private key is not known here"):
        public.secret()


def test_key_of_another_network_is_refused() -> None:
    with pytest.raises(MalformedMessage, match="no extended key of regtest"):
        ExtendedKey.from_string(OWN_XPUB, REGTEST)


def test_a_private_key_is_not_seen_by_accident() -> None:
    key = ExtendedKey.from_seed(SEED, MAINNET).derive("84h/0h/0h")
    secret = key.secret().reveal().hex()
    for text in (repr(key), str(key), f"{key}", key.to_string(), repr(key.to_private_string())):
        assert secret not in text and "xprv" not in text
    assert key.to_string().startswith("xpub")
    with pytest.raises(TypeError):
        pickle.dumps(key)


@pytest.mark.parametrize("path", ["m/", "x", "m/-1", "m/1H", "m/2147483648", "m//1", "m/1hh", "m/٣"])
def test_malformed_path(path: str) -> None:
    with pytest.raises(MalformedMessage):
        parse_path(path)


def test_paths_in_both_notations() -> None:
    assert parse_path("m/84'/0h/5") == parse_path("84h/0'/5") == (84 + HARDENED, HARDENED, 5)
    assert format_path((84 + HARDENED, HARDENED, 5)) == "84h/0h/5"
    assert parse_path("m") == ()


@pytest.mark.parametrize("size", [15, 65])
def test_seed_of_a_wrong_size(size: int) -> None:
    with pytest.raises(MalformedMessage):
        ExtendedKey.from_seed(Secret(bytes(size)), MAINNET)


@given(st.binary(max_size=90))
def test_no_payload_breaks_the_key_reader(payload: bytes) -> None:
    for data in (payload, MAINNET.xpub_version + payload, (MAINNET.xprv_version + payload + bytes(78))[:78]):
        try:
            ExtendedKey.from_string(base58.encode_check(data), MAINNET)
        except MalformedMessage:
            pass


def test_own_mnemonic_case() -> None:
    assert mnemonic.words_of(Secret(bytes(16))) == ABANDON
    assert mnemonic.entropy_of(ABANDON) == Secret(bytes(16))
    seed = mnemonic.seed_of(ABANDON, "TREZOR")
    assert seed.reveal().hex().startswith("c55257c360c07c72029aebc1b53c05ed0362ada38ead3e3e9efa3708e5349553")


def test_published_mnemonics_of_bip39() -> None:
    document = vectors("bips/bip39/english_vectors.json")
    for case in document["cases"]:
        entropy, words = Secret(bytes.fromhex(case["entropy"])), Secret(case["mnemonic"].encode())
        assert mnemonic.words_of(entropy) == words
        assert mnemonic.entropy_of(words) == entropy
        seed = mnemonic.seed_of(words, document["passphrase"])
        assert seed.reveal().hex() == case["seed"]
        assert private_text(ExtendedKey.from_seed(seed, MAINNET)) == case["xprv"]
    assert len(document["cases"]) == 24


def test_word_list_is_the_published_one() -> None:
    assert list(mnemonic.WORDS) == vector_path("bips/bip39/english.txt").read_text().split()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (b"abandon " * 12, "checksum"),
        (b"abandon " * 11, "has 12, 15"),
        (b"abandon " * 11 + b"abaut", "word 12 is not in"),
        (b"", "has 12, 15"),
        (b"\xff", "UTF-8"),
    ],
)
def test_wrong_words_are_named_by_position_only(words: bytes, why: str) -> None:
    with pytest.raises(MalformedMessage, match=why) as error:
        mnemonic.seed_of(Secret(words))
    assert "abaut" not in str(error.value)


def test_spaces_between_words_do_not_matter() -> None:
    spaced = Secret(ABANDON.reveal().replace(b" ", b"  ") + b"\n")
    assert mnemonic.seed_of(spaced) == mnemonic.seed_of(ABANDON)


@pytest.mark.parametrize("size", [0, 15, 33])
def test_entropy_of_a_wrong_size(size: int) -> None:
    with pytest.raises(ValueError, match="entropy has"):
        mnemonic.words_of(Secret(bytes(size)))


def _zpub(text: str) -> str:
    """The same key under BIP 84's own version bytes."""
    data = base58.decode_check(text)
    version = {MAINNET.xpub_version: "04b24746", MAINNET.xprv_version: "04b2430c"}[data[:4]]
    return base58.encode_check(bytes.fromhex(version) + data[4:])


def _wif(key: ExtendedKey) -> str:
    return base58.encode_check(b"\x80" + key.secret().reveal() + b"\x01")


def test_own_bip84_and_bip86_cases() -> None:
    master = ExtendedKey.from_seed(mnemonic.seed_of(ABANDON), MAINNET)
    key = master.derive("m/84h/0h/0h/0/0").public_key()
    assert address_of(p2wpkh(key), MAINNET) == "bc1qcr8te4kr609gcawutmrza0j4xv80jy8z306fyu"
    internal = master.derive("m/86h/0h/0h/0/0").public_key()[1:]
    taproot_address = "bc1p5cyxnuxmeuwuvkwfem96lqzszd02n6xdcjrs20cac6yqjjwudpxqkedrcr"
    assert address_of(taproot.script_pubkey(internal), MAINNET) == taproot_address


def test_published_accounts_of_bip84() -> None:
    root, account, *addresses = vectors("bips/bip84/bip84.json")
    master = ExtendedKey.from_seed(mnemonic.seed_of(Secret(root["mnemonic"].encode())), MAINNET)
    assert (_zpub(private_text(master)), _zpub(master.to_string())) == (root["rootpriv"], root["rootpub"])
    key = master.derive(account["path"])
    assert (_zpub(private_text(key)), _zpub(key.to_string())) == (account["xpriv"], account["xpub"])
    for case in addresses:
        key = master.derive(case["path"])
        assert (_wif(key), key.public_key().hex()) == (case["privkey"], case["pubkey"])
        assert address_of(p2wpkh(key.public_key()), MAINNET) == case["address"]
    assert len(addresses) == 3


def test_published_accounts_of_bip86() -> None:
    root, *cases = vectors("bips/bip86/bip86.json")
    master = ExtendedKey.from_seed(mnemonic.seed_of(Secret(root["mnemonic"].encode())), MAINNET)
    assert (private_text(master), master.to_string()) == (root["rootpriv"], root["rootpub"])
    for case in cases:
        key = master.derive(case["path"])
        assert (private_text(key), key.to_string()) == (case["xprv"], case["xpub"])
        if "address" in case:
            _check_taproot_address(key, case)
    assert len(cases) == 4


def _check_taproot_address(key: ExtendedKey, case: Any) -> None:
    internal = key.public_key()[1:]
    script = taproot.script_pubkey(internal)
    assert internal.hex() == case["internal_key"]
    assert taproot.output_key(internal)[0].hex() == case["output_key"]
    assert (script.hex(), address_of(script, MAINNET)) == (case["scriptPubKey"], case["address"])
