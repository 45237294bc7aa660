"""The hash functions of Bitcoin and Lightning, by the names that the BIPs and BOLTs give them."""

import hashlib
from functools import cache


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def double_sha256(data: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(data).digest()).digest()


try:
    hashlib.new("ripemd160", b"")

    def ripemd160(data: bytes) -> bytes:
        return hashlib.new("ripemd160", data).digest()

except ValueError:  # OpenSSL 3 without its legacy provider
    from embit.util.py_ripemd160 import ripemd160  # type: ignore[no-redef]


def hash160(data: bytes) -> bytes:
    return ripemd160(hashlib.sha256(data).digest())


@cache
def _tag_prefix(tag: str) -> bytes:
    return sha256(tag.encode()) * 2


def tagged_hash(tag: str, data: bytes) -> bytes:
    """BIP 340, "Design", tagged hashes."""
    return sha256(_tag_prefix(tag) + data)
