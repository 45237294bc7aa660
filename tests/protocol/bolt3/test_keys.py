"""Key derivation (BOLT 3, "Key Derivation", Appendix E)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.bolt3.keys import (
    derive_commitment_keys,
    derive_public_key,
    derive_revocation_public_key,
    derive_revocation_secret,
    derive_secret,
    per_commitment_point,
)
from protocol.curve import InvalidKey, point_of
from tests.protocol.bolt3.channel import COUNTERPARTY, HOLDER, PER_COMMITMENT_POINT
from tests.support import vectors

APPENDIX_E = {
    "base_secret": "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
    "per_commitment_secret": "1f1e1d1c1b1a191817161514131211100f0e0d0c0b0a09080706050403020100",
    "base_point": "036d6caac248af96f6afa7f904f550253a0f3ef3f5aa2fe6838a95b216691468e2",
    "per_commitment_point": "025f7117a78150fe2ef97db7cfc83bd57b2e2c0d0dd25eaf467a4a1c2a45ce1486",
    "localpubkey": "0235f2dbfaa89b57ec7b055afe29849ef7ddfeb1cefdb9ebdc43f5494984db29e5",
    "localprivkey": "cbced912d3b21bf196a766651e436aff192362621ce317704ea2f75d87e7be0f",
    "revocationpubkey": "02916e326636d19c33f13e8c0c3a03dd157f332f3e99c317c141dd865eb01f8ff0",
    "revocationprivkey": "d09ffff62ddb2297ab000cc85bcb4283fdeb6aa052affbc9dddcf33b61078110",
}

secrets = st.binary(min_size=32, max_size=32).filter(lambda raw: 0 < int.from_bytes(raw, "big") < 1 << 255)


def check(case: dict[str, str]) -> None:
    value = {name: bytes.fromhex(text) for name, text in case.items()}
    base, point = value["base_point"], value["per_commitment_point"]
    assert per_commitment_point(value["per_commitment_secret"]) == point
    assert derive_public_key(base, point) == value["localpubkey"]
    assert derive_secret(value["base_secret"], base, point) == value["localprivkey"]
    assert derive_revocation_public_key(base, point) == value["revocationpubkey"]
    revocation = derive_revocation_secret(value["base_secret"], value["per_commitment_secret"])
    assert revocation == value["revocationprivkey"]


def test_derivation_agrees_with_appendix_e() -> None:
    check(APPENDIX_E)


def test_derivation_agrees_with_the_published_file() -> None:
    check(vectors("bolt03/key_derivation.json"))


@given(secrets, secrets)
def test_derived_secrets_belong_to_derived_points(base: bytes, commitment: bytes) -> None:
    basepoint, point = point_of(base), point_of(commitment)
    assert point_of(derive_secret(base, basepoint, point)) == derive_public_key(basepoint, point)
    revocation = derive_revocation_secret(base, commitment)
    assert point_of(revocation) == derive_revocation_public_key(basepoint, point)


def test_a_point_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidKey):
        derive_public_key(b"\x02" + b"\xff" * 32, PER_COMMITMENT_POINT)
    with pytest.raises(InvalidKey):
        derive_revocation_public_key(HOLDER.keys.revocation_basepoint, bytes(33))


def test_commitment_keys_take_each_point_from_its_side() -> None:
    keys = derive_commitment_keys(HOLDER.keys, COUNTERPARTY.keys, PER_COMMITMENT_POINT)
    assert keys.local_htlcpubkey.hex() == "030d417a46946384f88d5f3337267c5e579765875dc4daca813e21734b140639e7"
    assert (
        keys.remote_htlcpubkey.hex() == "0394854aa6eab5b2a8122cc726e9dded053a2184d88256816826d6231c068d4a5b"
    )
    assert (
        keys.local_delayedpubkey.hex() == "03fd5960528dc152014952efdb702a88f71e3c1653b2314431701ec77e57fde83c"
    )
    assert keys.revocationpubkey.hex() == "0212a140cd0c6539d07cd08dfe09984dec3251ea808b892efeac3ede9402bf2b19"
    assert keys.remotepubkey == COUNTERPARTY.keys.payment_basepoint
    assert keys != derive_commitment_keys(COUNTERPARTY.keys, HOLDER.keys, PER_COMMITMENT_POINT)
