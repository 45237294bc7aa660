"""The one operation of a handshake that needs the node's private key (BOLT 8, "Handshake State").

It runs in the signer. What leaves is the new chaining key and the cipher key, never the Diffie-Hellman value.
"""

import hmac

from protocol import curve


def hkdf_two(salt: bytes, material: bytes) -> tuple[bytes, bytes]:
    """HKDF with SHA-256 and no info (RFC 5869), two outputs of 32 bytes."""
    inner = hmac.digest(salt, material, "sha256")
    first = hmac.digest(inner, b"\x01", "sha256")
    return first, hmac.digest(inner, first + b"\x02", "sha256")


def mix_static(secret: bytes, chaining_key: bytes, remote_ephemeral: bytes) -> tuple[bytes, bytes]:
    """The chaining key and cipher key after mixing ECDH(node secret, their ephemeral key).

    `InvalidKey` when the ephemeral key is not on the curve, ValueError for a chaining key of another size.
    """
    if len(chaining_key) != 32:
        raise ValueError(f"a chaining key has 32 bytes, not {len(chaining_key)}")
    return hkdf_two(chaining_key, curve.ecdh(secret, remote_ephemeral))
