"""Output scripts of the funding and commitment transactions (BOLT 3, "Funding Transaction Output",
"Commitment Transaction Outputs").

The functions return witness scripts; `protocol.bitcoin.script.p2wsh` makes outputs of them. Keys have 33
bytes, so that each is pushed by a length byte.
"""

from functools import lru_cache

import msgspec

from protocol.bitcoin.script import (
    OP_2,
    OP_CHECKLOCKTIMEVERIFY,
    OP_CHECKMULTISIG,
    OP_CHECKSEQUENCEVERIFY,
    OP_CHECKSIG,
    OP_CHECKSIGVERIFY,
    OP_DROP,
    OP_DUP,
    OP_ELSE,
    OP_ENDIF,
    OP_EQUAL,
    OP_EQUALVERIFY,
    OP_HASH160,
    OP_IF,
    OP_IFDUP,
    OP_NOTIF,
    OP_SIZE,
    OP_SWAP,
    number,
    p2wpkh,
    p2wsh,
    script,
)
from protocol.bolt3.keys import ChannelKeys, CommitmentKeys, derive_commitment_keys
from protocol.hashes import hash160, ripemd160

_PUSH_20 = b"\x14"
_ONE_BLOCK = number(1) + script(OP_CHECKSEQUENCEVERIFY, OP_DROP)
_KEY_SETS = 2048
_PAYMENT_HASHES = 16384

# An HTLC stands in many commitments in turn, and RIPEMD-160 is the dearest hash we use.
hash_of_payment_hash = lru_cache(_PAYMENT_HASHES)(ripemd160)


def funding(pubkey_a: bytes, pubkey_b: bytes) -> bytes:
    """2-of-2; the order of the arguments does not matter, as the lesser key comes first."""
    first, second = sorted((pubkey_a, pubkey_b))
    return script(OP_2, first, second, OP_2, OP_CHECKMULTISIG)


def to_local(revocationpubkey: bytes, to_self_delay: int, local_delayedpubkey: bytes) -> bytes:
    """The owner after a delay, the other side at once with the revocation key; second stages use it too."""
    return (
        script(OP_IF, revocationpubkey, OP_ELSE)
        + number(to_self_delay)
        + script(OP_CHECKSEQUENCEVERIFY, OP_DROP, local_delayedpubkey, OP_ENDIF, OP_CHECKSIG)
    )


def to_remote_anchors(remotepubkey: bytes) -> bytes:
    """The witness script of `to_remote` where `option_anchors` applies: one block of delay."""
    return script(remotepubkey, OP_CHECKSIGVERIFY) + number(1) + script(OP_CHECKSEQUENCEVERIFY)


def to_remote_script_pubkey(remotepubkey: bytes, anchors: bool) -> bytes:
    return p2wsh(to_remote_anchors(remotepubkey)) if anchors else p2wpkh(remotepubkey)


def anchor(funding_pubkey: bytes) -> bytes:
    return (
        script(funding_pubkey, OP_CHECKSIG, OP_IFDUP, OP_NOTIF)
        + number(16)
        + script(OP_CHECKSEQUENCEVERIFY, OP_ENDIF)
    )


class HtlcTemplate(msgspec.Struct, frozen=True, gc=False):
    """The HTLC scripts of one commitment, all but the payment hash and the expiry."""

    offered_head: bytes
    offered_tail: bytes
    received_head: bytes
    received_middle: bytes
    received_tail: bytes

    def offered(self, payment_hash: bytes) -> bytes:
        return self.offered_head + hash_of_payment_hash(payment_hash) + self.offered_tail

    def received(self, payment_hash: bytes, cltv_expiry: int) -> bytes:
        return (
            self.received_head
            + hash_of_payment_hash(payment_hash)
            + self.received_middle
            + number(cltv_expiry)
            + self.received_tail
        )


def htlc_template(keys: CommitmentKeys, anchors: bool) -> HtlcTemplate:
    delay = _ONE_BLOCK if anchors else b""
    head = (
        script(OP_DUP, OP_HASH160, hash160(keys.revocationpubkey), OP_EQUAL)
        + script(OP_IF, OP_CHECKSIG, OP_ELSE, keys.remote_htlcpubkey, OP_SWAP, OP_SIZE)
        + number(32)
        + script(OP_EQUAL)
    )
    two_keys = script(OP_2, OP_SWAP, keys.local_htlcpubkey, OP_2, OP_CHECKMULTISIG)
    payment_hash = script(OP_HASH160) + _PUSH_20
    return HtlcTemplate(
        offered_head=head + script(OP_NOTIF, OP_DROP) + two_keys + script(OP_ELSE) + payment_hash,
        offered_tail=script(OP_EQUALVERIFY, OP_CHECKSIG, OP_ENDIF) + delay + script(OP_ENDIF),
        received_head=head + script(OP_IF) + payment_hash,
        received_middle=script(OP_EQUALVERIFY) + two_keys + script(OP_ELSE, OP_DROP),
        received_tail=script(OP_CHECKLOCKTIMEVERIFY, OP_DROP, OP_CHECKSIG, OP_ENDIF)
        + delay
        + script(OP_ENDIF),
    )


def offered_htlc(keys: CommitmentKeys, anchors: bool, payment_hash: bytes) -> bytes:
    return htlc_template(keys, anchors).offered(payment_hash)


def received_htlc(keys: CommitmentKeys, anchors: bool, payment_hash: bytes, cltv_expiry: int) -> bytes:
    return htlc_template(keys, anchors).received(payment_hash, cltv_expiry)


class CommitmentScripts(msgspec.Struct, frozen=True):
    """Everything in a commitment that depends on its keys and not on its content."""

    keys: CommitmentKeys
    to_local: bytes
    to_local_script_pubkey: bytes
    to_remote: bytes
    """The witness script; empty for p2wpkh."""
    to_remote_script_pubkey: bytes
    htlc: HtlcTemplate


@lru_cache(_KEY_SETS)
def commitment_scripts(
    owner: ChannelKeys, other: ChannelKeys, to_self_delay: int, anchors: bool, per_commitment_point: bytes
) -> CommitmentScripts:
    """`to_self_delay`: the one that the owner of the commitment must wait."""
    keys = derive_commitment_keys(owner, other, per_commitment_point)
    own = to_local(keys.revocationpubkey, to_self_delay, keys.local_delayedpubkey)
    return CommitmentScripts(
        keys=keys,
        to_local=own,
        to_local_script_pubkey=p2wsh(own),
        to_remote=to_remote_anchors(keys.remotepubkey) if anchors else b"",
        to_remote_script_pubkey=to_remote_script_pubkey(keys.remotepubkey, anchors),
        htlc=htlc_template(keys, anchors),
    )
