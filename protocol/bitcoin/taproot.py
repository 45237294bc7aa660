"""Taproot outputs: script trees, output keys and control blocks (BIP 341, "Constructing and spending")."""

from dataclasses import dataclass
from typing import assert_never

from protocol import curve
from protocol.bitcoin import script
from protocol.bitcoin.transaction import var_bytes
from protocol.errors import MalformedMessage
from protocol.hashes import tagged_hash

TAPSCRIPT_LEAF_VERSION = 0xC0
MAX_DEPTH = 128
NUMS_KEY = bytes.fromhex("50929b74c1a04954b78b4b6035e97a5e078a5a0f28ec96d547bfee9ace803ac0")
"""BIP 341's point with an unknown private key, for outputs without a key path."""


@dataclass(frozen=True, slots=True)
class Leaf:
    script: bytes
    version: int = TAPSCRIPT_LEAF_VERSION


@dataclass(frozen=True, slots=True)
class Branch:
    left: "Leaf | Branch"
    right: "Leaf | Branch"


Tree = Leaf | Branch


def leaf_hash(leaf_script: bytes, version: int = TAPSCRIPT_LEAF_VERSION) -> bytes:
    return tagged_hash("TapLeaf", bytes((version,)) + var_bytes(leaf_script))


def branch_hash(one: bytes, other: bytes) -> bytes:
    """The smaller hash goes first, so a proof needs no left and right."""
    return tagged_hash("TapBranch", min(one, other) + max(one, other))


def merkle_root(tree: Tree | None) -> bytes:
    """32 bytes, or empty for an output without scripts."""
    match tree:
        case None:
            return b""
        case Leaf(leaf_script, version):
            return leaf_hash(leaf_script, version)
        case Branch(left, right):
            return branch_hash(merkle_root(left), merkle_root(right))
        case _:
            assert_never(tree)


def leaves(tree: Tree) -> list[tuple[Leaf, tuple[bytes, ...]]]:
    """Each leaf, left to right, with the hashes that lead from it to the root."""
    match tree:
        case Leaf():
            return [(tree, ())]
        case Branch(left, right):
            beside_left, beside_right = merkle_root(right), merkle_root(left)
            return [(leaf, (*path, beside_left)) for leaf, path in leaves(left)] + [
                (leaf, (*path, beside_right)) for leaf, path in leaves(right)
            ]
        case _:
            assert_never(tree)


def tweak(internal_key: bytes, root: bytes) -> bytes:
    return tagged_hash("TapTweak", internal_key + root)


def output_key(internal_key: bytes, root: bytes = b"") -> tuple[bytes, int]:
    """The x-only key of the output and the parity of its full point."""
    return curve.tweak_xonly(internal_key, tweak(internal_key, root))


def script_pubkey(internal_key: bytes, root: bytes = b"") -> bytes:
    return script.p2tr(output_key(internal_key, root)[0])


def output_secret(secret: bytes, root: bytes = b"") -> bytes:
    """The private key that signs for a key path spend."""
    return curve.tweak_xonly_secret(secret, tweak(curve.point_of(secret)[1:], root))


def control_block(internal_key: bytes, root: bytes, leaf: Leaf, path: tuple[bytes, ...]) -> bytes:
    """What a script path spend shows beside the script; `path` as `leaves` gives it."""
    parity = output_key(internal_key, root)[1]
    return bytes((leaf.version | parity,)) + internal_key + b"".join(path)


def commits_to(output: bytes, leaf_script: bytes, control: bytes) -> bool:
    """Whether an output key commits to this script by this control block (BIP 341, "Script validation rules")."""
    if len(control) < 33 or (len(control) - 33) % 32 or (len(control) - 33) // 32 > MAX_DEPTH:
        return False
    node = leaf_hash(leaf_script, control[0] & 0xFE)
    for at in range(33, len(control), 32):
        node = branch_hash(node, control[at : at + 32])
    try:
        return output_key(control[1:33], node) == (output, control[0] & 1)
    except MalformedMessage:
        return False
