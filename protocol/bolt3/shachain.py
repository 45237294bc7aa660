"""Per-commitment secrets: making them and storing the peer's (BOLT 3, "Per-commitment Secret Requirements",
"Efficient Per-commitment Secret Storage")."""

import hashlib

import msgspec

from protocol.errors import MalformedMessage, PeerViolation
from protocol.secret import Secret

INDEX_BITS = 48
FIRST_INDEX = (1 << INDEX_BITS) - 1
_CLAUSE = 'BOLT 3, "Efficient Per-commitment Secret Storage"'
_HEADER_BYTES = 6
_LEAF_BITS = 6


def index_of_commitment(number: int) -> int:
    """Commitment 0 uses the highest index. Index 0 is the seed itself and is never given out."""
    if not 0 <= number < FIRST_INDEX:
        raise ValueError(f"a channel has no commitment {number}: numbers go from 0 to {FIRST_INDEX - 1}")
    return FIRST_INDEX - number


def _derive(base: bytes, bits: int, index: int) -> bytes:
    """The secret of `index` out of one whose index agrees above the lowest `bits` bits and is 0 in them."""
    value = base
    for bit in range(bits - 1, -1, -1):
        if index >> bit & 1:
            flipped = bytearray(value)
            flipped[bit >> 3] ^= 1 << (bit & 7)
            value = hashlib.sha256(flipped).digest()
    return value


def generate_from_seed(seed: bytes, index: int) -> bytes:
    if len(seed) != 32:
        raise ValueError(f"a seed has 32 bytes, not {len(seed)}")
    if not 0 < index <= FIRST_INDEX:
        raise ValueError(f"no per-commitment secret has index {index}")
    return _derive(seed, INDEX_BITS, index)


def secret_for_commitment(seed: bytes, number: int) -> bytes:
    return generate_from_seed(seed, index_of_commitment(number))


class SecretChain:
    """The secrets of our own commitments. It keeps the last branch of the tree, so that neighbours cost at
    most `_LEAF_BITS` hashes instead of 48."""

    __slots__ = ("_branch", "_branch_index", "_seed")

    def __init__(self, seed: Secret) -> None:
        if len(seed) != 32:
            raise ValueError(f"a seed has 32 bytes, not {len(seed)}")
        self._seed = seed
        self._branch = seed
        self._branch_index = -1

    def secret(self, number: int) -> Secret:
        index = index_of_commitment(number)
        branch_index = index >> _LEAF_BITS << _LEAF_BITS
        if branch_index != self._branch_index:
            self._branch = Secret(_derive(self._seed.reveal(), INDEX_BITS, branch_index))
            self._branch_index = branch_index
        return Secret(_derive(self._branch.reveal(), _LEAF_BITS, index))


def _bucket_of(index: int) -> int:
    """The number of zero bits at the end of the index."""
    return (index & -index).bit_length() - 1


def _bucket_index(bucket: int, last: int) -> int:
    """The index that `bucket` holds once every index down to `last` has been inserted."""
    step = 1 << bucket
    return ((last - step + 2 * step - 1) // (2 * step)) * 2 * step + step


class SecretStore(msgspec.Struct, frozen=True):
    """The secrets that the peer has revealed: at most 48 are kept, all others follow from them.

    `buckets[b]` is the last index with `b` zero bits at its end, and its secret.
    """

    buckets: tuple[tuple[int, Secret], ...] = ()
    next_index: int = FIRST_INDEX

    def insert(self, index: int, secret: Secret) -> "SecretStore":
        """The store with one secret more. Raises PeerViolation when it contradicts those before it."""
        if index != self.next_index or index == 0:
            # Not the peer's doing: which commitment it revokes is for us to know.
            raise ValueError(f"the next secret to store has index {self.next_index}, not {index}")
        value = secret.reveal()
        if len(value) != 32:
            raise MalformedMessage(f"a per-commitment secret has 32 bytes, not {len(value)}")
        bucket = _bucket_of(index)
        for known_index, known in self.buckets[:bucket]:
            if _derive(value, bucket, known_index) != known.reveal():
                raise PeerViolation(
                    f"the per-commitment secret of index {index} does not lead to the one of {known_index}",
                    clause=_CLAUSE,
                )
        buckets = (*self.buckets[:bucket], (index, secret), *self.buckets[bucket + 1 :])
        return SecretStore(buckets, index - 1)

    def secret(self, index: int) -> Secret | None:
        """The secret of `index`, or None while the peer has not revealed it."""
        if not self.next_index < index <= FIRST_INDEX:
            return None
        for bucket, (known_index, known) in enumerate(self.buckets):
            if index >> bucket == known_index >> bucket:
                return Secret(_derive(known.reveal(), bucket, index))
        raise AssertionError(f"no bucket covers index {index}, though it was inserted")

    def to_bytes(self) -> bytes:
        """The next index in 6 bytes, then the secrets; their indices follow from it."""
        secrets = b"".join(secret.reveal() for _, secret in self.buckets)
        return self.next_index.to_bytes(_HEADER_BYTES, "big") + secrets

    @classmethod
    def from_bytes(cls, raw: bytes) -> "SecretStore":
        if len(raw) < _HEADER_BYTES:
            raise MalformedMessage("a secret store begins with an index of 6 bytes")
        next_index = int.from_bytes(raw[:_HEADER_BYTES], "big")
        last = next_index + 1
        # Bucket b is first filled by index 2^48 - 2^b.
        count = sum(last <= FIRST_INDEX + 1 - (1 << bucket) for bucket in range(INDEX_BITS))
        if len(raw) != _HEADER_BYTES + 32 * count:
            raise MalformedMessage(f"a secret store that is due index {next_index} holds {count} secrets")
        buckets = tuple(
            (_bucket_index(bucket, last), Secret(raw[start : start + 32]))
            for bucket, start in enumerate(range(_HEADER_BYTES, len(raw), 32))
        )
        return cls(buckets, next_index)
