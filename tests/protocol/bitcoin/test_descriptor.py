"""Descriptors: BIP 380's checksums and key expressions, and accounts of BIP 84 and BIP 86."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.bitcoin import descriptor, mnemonic
from protocol.bitcoin.address import address_of
from protocol.bitcoin.descriptor import KeyExpression, KeyOrigin, TrDescriptor, WpkhDescriptor
from protocol.bitcoin.keys import HARDENED, ExtendedKey, parse_path
from protocol.bitcoin.network import MAINNET, REGTEST
from protocol.errors import MalformedMessage
from protocol.secret import Secret
from tests.support import vectors

MASTER = ExtendedKey.from_seed(mnemonic.seed_of(Secret(b"abandon " * 11 + b"about")), MAINNET)
ORIGIN_84 = KeyOrigin(MASTER.fingerprint(), parse_path("84h/0h/0h"))
ACCOUNT_84 = MASTER.derive("84h/0h/0h").neuter()
ACCOUNT_86 = MASTER.derive("86h/0h/0h").neuter()
XPUB = ACCOUNT_84.to_string()
KEY = "0260b2003c386519fc9eadf2b5cf124dd8eea4c4e68d5e154050a9346ea98ce600"


def test_own_checksum_case() -> None:
    assert descriptor.with_checksum("raw(deadbeef)") == "raw(deadbeef)#89f8spxm"
    assert descriptor.strip_checksum("raw(deadbeef)#89f8spxm") == "raw(deadbeef)"


def test_published_checksums_of_bip380() -> None:
    cases = vectors("bips/bip380/descriptors.json")["checksum"]
    good = {"Valid checksum", "No checksum"}
    for case in cases:
        if case["case"] in good:
            assert descriptor.strip_checksum(case["expression"]) == "raw(deadbeef)"
        else:
            with pytest.raises(MalformedMessage):
                descriptor.strip_checksum(case["expression"])
    with pytest.raises(MalformedMessage, match="no checksum"):
        descriptor.strip_checksum("raw(deadbeef)", required=True)
    assert len(cases) == 8


def test_published_key_expressions_of_bip380() -> None:
    """All public ones are read; private ones are refused, because a watch-only wallet must not take them."""
    document = vectors("bips/bip380/descriptors.json")
    for case in document["valid_keys"]:
        if "rivate" in case["case"]:
            with pytest.raises(MalformedMessage):
                KeyExpression.parse(case["expression"], MAINNET)
        else:
            found = KeyExpression.parse(case["expression"], MAINNET)
            assert (found.origin is not None) is case["expression"].startswith("[")
            assert bool(found.wildcard) is ("*" in case["expression"])
    for case in document["invalid_keys"]:
        with pytest.raises(MalformedMessage):
            KeyExpression.parse(case["expression"], MAINNET)
    assert (len(document["valid_keys"]), len(document["invalid_keys"])) == (21, 16)


def test_key_expression_parts() -> None:
    found = KeyExpression.parse(f"[deadbeef/0h/1'/2]{XPUB}/3/4h/*'", MAINNET)
    assert found.origin == KeyOrigin(bytes.fromhex("deadbeef"), (HARDENED, 1 + HARDENED, 2))
    assert found.key == ACCOUNT_84
    assert (found.path, found.wildcard) == ((3, 4 + HARDENED), "*h")
    assert KeyExpression.parse(KEY, MAINNET) == KeyExpression(bytes.fromhex(KEY))


@pytest.mark.parametrize(
    "text",
    [
        f"[deadbeef/*]{KEY}",
        f"[deadbeef/0h/]{KEY}",
        f"[deadbef]{KEY}",
        f"[deadbeef/0H]{KEY}",
        f"[deadbeef{KEY}",
        f"[deadbeef][deadbeef]{XPUB}",
        f"deadbeef]{XPUB}",
        f"{KEY}/0",
        f"{XPUB}/2147483648",
        f"{XPUB}/1a",
        f"{XPUB}/*/1",
        f"{XPUB}/",
        "[deadbeef]",
        "",
        "02" + "ff" * 32,
    ],
)
def test_malformed_key_expression(text: str) -> None:
    with pytest.raises(MalformedMessage):
        KeyExpression.parse(text, MAINNET)


def test_accounts_give_the_published_addresses() -> None:
    wpkh, tr = WpkhDescriptor(ACCOUNT_84, ORIGIN_84), TrDescriptor(ACCOUNT_86)
    expected = {
        (wpkh, 0, 0): "bc1qcr8te4kr609gcawutmrza0j4xv80jy8z306fyu",
        (wpkh, 0, 1): "bc1qnjg0jd8228aq7egyzacy8cys3knf9xvrerkf9g",
        (wpkh, 1, 0): "bc1q8c6fshw2dlwun7ekn9qwf37cu2rn755upcp6el",
        (tr, 0, 0): "bc1p5cyxnuxmeuwuvkwfem96lqzszd02n6xdcjrs20cac6yqjjwudpxqkedrcr",
        (tr, 0, 1): "bc1p4qhjn9zdvkux4e44uhx8tc55attvtyu358kutcqkudyccelu0was9fqzwh",
        (tr, 1, 0): "bc1p3qkhfews2uk44qtvauqyr2ttdsw7svhkl9nkm9s9c3x4ax5h60wqwruhk7",
    }
    found = {(d, b, i): address_of(d.script_pubkey(b, i), MAINNET) for d, b, i in expected}
    assert found == expected


def test_text_with_checksum_is_read_back() -> None:
    for made in (WpkhDescriptor(ACCOUNT_84, ORIGIN_84), TrDescriptor(ACCOUNT_86), WpkhDescriptor(ACCOUNT_84)):
        text = made.to_string()
        assert descriptor.parse(text, MAINNET) == made
        assert descriptor.parse(text[:-9], MAINNET) == made
        with pytest.raises(MalformedMessage):
            descriptor.parse(text.replace("0h", "1h", 1) if "0h" in text else text[:-1] + "!", MAINNET)
        with pytest.raises(MalformedMessage, match="regtest"):
            descriptor.parse(text, REGTEST)
    assert WpkhDescriptor(ACCOUNT_84, ORIGIN_84).to_string().startswith("wpkh([73c5da0a/84h/0h/0h]xpub")
    receive = WpkhDescriptor(ACCOUNT_84, ORIGIN_84).to_string(0)
    assert descriptor.strip_checksum(receive, required=True).endswith("/0/*)")


def test_a_private_key_never_enters_a_descriptor() -> None:
    private = MASTER.derive("84h/0h/0h")
    with pytest.raises(ValueError, match="neuter"):
        WpkhDescriptor(private)
    xprv = private.to_private_string().reveal().decode()
    with pytest.raises(MalformedMessage, match="holds a private key") as error:
        descriptor.parse(f"wpkh({xprv}/<0;1>/*)", MAINNET)
    assert xprv not in str(error.value)


@pytest.mark.parametrize(
    "body", [f"pkh({XPUB}/<0;1>/*)", f"wpkh({XPUB})", f"wpkh({XPUB}/5/<0;1>/*)", f"wpkh({KEY}/<0;1>/*)"]
)
def test_descriptor_of_another_form_is_refused(body: str) -> None:
    with pytest.raises(MalformedMessage):
        descriptor.parse(body, MAINNET)


def test_key_origin_of_an_address() -> None:
    made = WpkhDescriptor(ACCOUNT_84, ORIGIN_84).key_origin(1, 7)
    assert str(made) == "[73c5da0a/84h/0h/0h/1/7]"
    assert MASTER.derive(made.path).public_key() == WpkhDescriptor(ACCOUNT_84).public_key(1, 7)
    assert WpkhDescriptor(ACCOUNT_84).key_origin(0, 2) == KeyOrigin(ACCOUNT_84.fingerprint(), (0, 2))


@given(st.text(max_size=60))
def test_no_text_breaks_the_reader(text: str) -> None:
    for candidate in (text, f"wpkh({text}/<0;1>/*)", f"wpkh([{text}]{XPUB}/<0;1>/*)"):
        try:
            descriptor.parse(candidate, MAINNET)
        except MalformedMessage:
            pass
