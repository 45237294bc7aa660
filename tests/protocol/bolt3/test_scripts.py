"""Output scripts (BOLT 3, "Commitment Transaction Outputs")."""

import pytest

from protocol.bitcoin.script import number, p2wpkh, p2wsh
from protocol.bolt3 import scripts
from protocol.bolt3.keys import CommitmentKeys, derive_commitment_keys
from protocol.hashes import sha256
from tests.protocol.bolt3.channel import COUNTERPARTY, HOLDER, PER_COMMITMENT_POINT

KEYS = derive_commitment_keys(HOLDER.keys, COUNTERPARTY.keys, PER_COMMITMENT_POINT)
PAYMENT_HASH = sha256(bytes(32))


def test_the_funding_script_puts_the_lesser_key_first() -> None:
    a, b = HOLDER.keys.funding_pubkey, COUNTERPARTY.keys.funding_pubkey
    assert scripts.funding(a, b) == scripts.funding(b, a)
    assert scripts.funding(a, b).hex() == f"5221{min(a, b).hex()}21{max(a, b).hex()}52ae"


@pytest.mark.parametrize(
    ("delay", "pushed"),
    [(0, "00"), (1, "51"), (16, "60"), (17, "0111"), (144, "029000"), (65535, "03ffff00")],
)
def test_to_local_pushes_the_delay_in_its_shortest_form(delay: int, pushed: str) -> None:
    script = scripts.to_local(KEYS.revocationpubkey, delay, KEYS.local_delayedpubkey)
    expected = f"6321{KEYS.revocationpubkey.hex()}67{pushed}b27521{KEYS.local_delayedpubkey.hex()}68ac"
    assert script.hex() == expected


def test_to_remote_is_p2wpkh_and_with_anchors_waits_a_block() -> None:
    key = KEYS.remotepubkey
    assert scripts.to_remote_script_pubkey(key, False) == p2wpkh(key)
    assert scripts.to_remote_anchors(key).hex() == f"21{key.hex()}ad51b2"
    assert scripts.to_remote_script_pubkey(key, True) == p2wsh(scripts.to_remote_anchors(key))


def test_the_anchor_opens_to_anyone_after_16_blocks() -> None:
    key = HOLDER.keys.funding_pubkey
    assert scripts.anchor(key).hex() == f"21{key.hex()}ac736460b268"


def test_htlc_scripts_have_the_sizes_of_appendix_a() -> None:
    expiry_of_four_bytes = 400_000_000
    for anchors, offered, received in ((False, 133, 140), (True, 136, 143)):
        assert len(scripts.offered_htlc(KEYS, anchors, PAYMENT_HASH)) == offered
        assert len(scripts.received_htlc(KEYS, anchors, PAYMENT_HASH, expiry_of_four_bytes)) == received


def test_htlc_scripts_agree_with_appendix_c() -> None:
    assert scripts.received_htlc(KEYS, False, PAYMENT_HASH, 500).hex() == (
        "76a91414011f7254d96b819c76986c277d115efce6f7b58763ac67210394854aa6eab5b2a8122cc726e9dded053a2184d882"
        "56816826d6231c068d4a5b7c8201208763a914b8bcb07f6344b42ab04250c86a6e8b75d3fdbbc688527c21030d417a469463"
        "84f88d5f3337267c5e579765875dc4daca813e21734b140639e752ae677502f401b175ac6868"
    )
    assert scripts.offered_htlc(KEYS, False, sha256(b"\x02" * 32)).hex() == (
        "76a91414011f7254d96b819c76986c277d115efce6f7b58763ac67210394854aa6eab5b2a8122cc726e9dded053a2184d882"
        "56816826d6231c068d4a5b7c820120876475527c21030d417a46946384f88d5f3337267c5e579765875dc4daca813e21734b"
        "140639e752ae67a914b43e1b38138a41b37f7cd9a1d274bc63e3a9b5d188ac6868"
    )


@pytest.mark.parametrize("field", ["revocationpubkey", "local_htlcpubkey", "remote_htlcpubkey"])
def test_every_key_of_an_htlc_is_bound(field: str) -> None:
    other = CommitmentKeys(
        **{
            name: getattr(KEYS, name) if name != field else KEYS.local_delayedpubkey
            for name in KEYS.__struct_fields__
        }
    )
    for anchors in (False, True):
        assert scripts.offered_htlc(other, anchors, PAYMENT_HASH) != scripts.offered_htlc(
            KEYS, anchors, PAYMENT_HASH
        )
        assert scripts.received_htlc(other, anchors, PAYMENT_HASH, 500) != scripts.received_htlc(
            KEYS, anchors, PAYMENT_HASH, 500
        )


def test_the_expiry_stands_in_a_received_htlc_in_its_shortest_form() -> None:
    for expiry in (0, 1, 16, 17, 127, 128, 32_767, 32_768, 800_000, 499_999_999):
        script = scripts.received_htlc(KEYS, True, PAYMENT_HASH, expiry)
        assert b"\x67\x75" + number(expiry) + b"\xb1\x75\xac\x68\x51\xb2\x75\x68" in script


def test_scripts_of_a_key_set_are_made_once() -> None:
    arguments = (HOLDER.keys, COUNTERPARTY.keys, 144, True, PER_COMMITMENT_POINT)
    assert scripts.commitment_scripts(*arguments) is scripts.commitment_scripts(*arguments)
    other = scripts.commitment_scripts(HOLDER.keys, COUNTERPARTY.keys, 145, True, PER_COMMITMENT_POINT)
    assert other.to_local != scripts.commitment_scripts(*arguments).to_local
