"""Taproot outputs and key path signatures against BIP 341's wallet vectors."""

from typing import Any

import pytest

from protocol import curve
from protocol.bitcoin import taproot
from protocol.bitcoin.address import address_of
from protocol.bitcoin.network import MAINNET
from protocol.bitcoin.sighash import taproot as digest_of
from protocol.bitcoin.taproot import Branch, Leaf, Tree
from protocol.bitcoin.transaction import Transaction, TxOut
from protocol.hashes import sha256
from tests.support import vectors

WALLET = "bips/bip341/wallet-test-vectors.json"


def test_own_output_case() -> None:
    """The first case of the published file: an output without scripts."""
    internal = bytes.fromhex("d6889cb081036e0faefa3a35157ad71086b123b2b144b649798b494c300a961d")
    expected = "512053a1f6e454df1aa2776a2814a721372d6258050de330b3c6d10ee8f4e0dda343"
    assert taproot.script_pubkey(internal).hex() == expected


def _tree(node: Any) -> Tree | None:
    if node is None:
        return None
    if isinstance(node, list):
        left, right = (_tree(n) for n in node)
        assert left is not None and right is not None
        return Branch(left, right)
    return Leaf(bytes.fromhex(node["script"]), node["leafVersion"])


def test_published_output_constructions() -> None:
    cases = vectors(WALLET)["scriptPubKey"]
    for case in cases:
        internal = bytes.fromhex(case["given"]["internalPubkey"])
        tree = _tree(case["given"]["scriptTree"])
        root = taproot.merkle_root(tree)
        assert root.hex() == (case["intermediary"]["merkleRoot"] or "")
        assert taproot.tweak(internal, root).hex() == case["intermediary"]["tweak"]
        output, _ = taproot.output_key(internal, root)
        assert output.hex() == case["intermediary"]["tweakedPubkey"]
        script = taproot.script_pubkey(internal, root)
        assert script.hex() == case["expected"]["scriptPubKey"]
        assert address_of(script, MAINNET) == case["expected"]["bip350Address"]
        if tree is not None:
            _check_leaves(case, internal, root, tree)
    assert len(cases) == 7


def _check_leaves(case: Any, internal: bytes, root: bytes, tree: Tree) -> None:
    found = taproot.leaves(tree)
    hashes = [taproot.leaf_hash(leaf.script, leaf.version).hex() for leaf, _ in found]
    assert hashes == case["intermediary"]["leafHashes"]
    controls = [taproot.control_block(internal, root, leaf, path) for leaf, path in found]
    assert [c.hex() for c in controls] == case["expected"]["scriptPathControlBlocks"]
    output, _ = taproot.output_key(internal, root)
    for (leaf, _), control in zip(found, controls, strict=True):
        assert taproot.commits_to(output, leaf.script, control)
        assert not taproot.commits_to(output, leaf.script + b"\x51", control)
        assert not taproot.commits_to(output, leaf.script, control[:-1])
        assert not taproot.commits_to(output, leaf.script, bytes((control[0] ^ 1,)) + control[1:])


def test_published_key_path_spends() -> None:
    (case,) = vectors(WALLET)["keyPathSpending"]
    tx = Transaction.parse(bytes.fromhex(case["given"]["rawUnsignedTx"]))
    spent = [TxOut(o["amountSats"], bytes.fromhex(o["scriptPubKey"])) for o in case["given"]["utxosSpent"]]
    signed = Transaction.parse(bytes.fromhex(case["auxiliary"]["fullySignedTx"]))
    for item in case["inputSpending"]:
        given, index = item["given"], item["given"]["txinIndex"]
        digest = digest_of(tx, index, spent, given["hashType"])
        assert digest.hex() == item["intermediary"]["sigHash"]
        root = bytes.fromhex(given["merkleRoot"] or "")
        secret = taproot.output_secret(bytes.fromhex(given["internalPrivkey"]), root)
        assert secret.hex() == item["intermediary"]["tweakedPrivkey"]
        suffix = bytes((given["hashType"],)) if given["hashType"] else b""
        witness = curve.sign_schnorr(secret, digest) + suffix
        assert [witness.hex()] == item["expected"]["witness"]
        assert signed.inputs[index].witness == (witness,)
        assert not curve.verify_schnorr(spent[index].script_pubkey[2:], digest[::-1], witness[:64])
    assert len(case["inputSpending"]) == 7


def test_signature_digest_depends_on_every_part() -> None:
    """A leaf, an annex, the hash type, a spent amount and a spent script each change it."""
    (case,) = vectors(WALLET)["keyPathSpending"]
    tx = Transaction.parse(bytes.fromhex(case["given"]["rawUnsignedTx"]))
    spent = [TxOut(o["amountSats"], bytes.fromhex(o["scriptPubKey"])) for o in case["given"]["utxosSpent"]]
    other_amount = [TxOut(spent[0].value + 1, spent[0].script_pubkey), *spent[1:]]
    digests = {
        digest_of(tx, 4, spent),
        digest_of(tx, 4, spent, 1),
        digest_of(tx, 3, spent),
        digest_of(tx, 4, spent, leaf_hash=bytes(32)),
        digest_of(tx, 4, spent, annex=b"\x50"),
        digest_of(tx, 4, other_amount),
    }
    assert len(digests) == 6


def test_output_secret_signs_for_the_output_key() -> None:
    root = taproot.merkle_root(Branch(Leaf(b"\x51"), Leaf(b"\x52", 0xC2)))
    for name in (b"a", b"b", b"c", b"d"):
        secret = sha256(name)
        output, _ = taproot.output_key(curve.point_of(secret)[1:], root)
        assert curve.point_of(taproot.output_secret(secret, root))[1:] == output


def test_the_key_without_a_secret_is_a_point() -> None:
    assert curve.is_point(b"\x02" + taproot.NUMS_KEY)
    generator = "0479be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
    generator += "483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8"
    assert sha256(bytes.fromhex(generator)) == taproot.NUMS_KEY


@pytest.mark.parametrize("control", [b"", bytes(32), bytes(34), bytes(33 + 32 * 129), b"\xc0" + b"\xff" * 32])
def test_control_block_of_a_wrong_form_commits_to_nothing(control: bytes) -> None:
    assert not taproot.commits_to(bytes(32), b"\x51", control)
