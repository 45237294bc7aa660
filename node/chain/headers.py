"""Headers that prove themselves, and transactions proven by them (Bitcoin's "Simplified Payment Verification").

Each header must meet its own target, be no easier than its network allows, and follow the one before. The window
of headers that we hold begins near the tip at the first start and grows downwards on demand; its beginning is not
linked to a checkpoint, and changes of the target are not calculated. So a stranger who mines can make a chain of
little work on a test network, where that is cheap; a mainnet needs a start at a checkpoint before it may be served
this way. Signet's signed blocks cannot be checked from headers.
"""

from node.chain.blocks import HEADER_BYTES, Header, header_of
from protocol.bitcoin.network import Network
from protocol.bitcoin.transaction import Transaction, txid_hex
from protocol.errors import MalformedMessage
from protocol.hashes import double_sha256

EASIEST_BITS = {
    "regtest": 0x207FFFFF,
    "signet": 0x1E0377AE,
    "testnet": 0x1D00FFFF,
    "testnet4": 0x1D00FFFF,
    "mainnet": 0x1D00FFFF,
}
INNER_NODE_BYTES = 64
MAX_BRANCH = 32


class LessWork(MalformedMessage):
    """A chain that proves less work than the one that we hold: its teller is behind, or tells a story."""


def target_of(bits: int) -> int:
    """A number as the header shortens it; raises MalformedMessage for what is no target."""
    size, mantissa = bits >> 24, bits & 0x7FFFFF
    if bits & 0x800000 or mantissa == 0:
        raise MalformedMessage(f"{bits:08x} is no target")
    return mantissa << 8 * (size - 3) if size > 3 else mantissa >> 8 * (3 - size)


def work_of(header: Header) -> int:
    return int(2**256 // (target_of(header.bits) + 1))


def read_headers(raw: bytes, start: int, network: Network) -> list[Header]:
    """The headers from height `start` on. Raises MalformedMessage unless each proves its work and they chain."""
    if len(raw) % HEADER_BYTES:
        raise MalformedMessage("headers of a broken length")
    easiest = target_of(EASIEST_BITS[network.name])
    found: list[Header] = []
    for at in range(0, len(raw), HEADER_BYTES):
        header, height = header_of(raw[at : at + HEADER_BYTES]), start + len(found)
        target = target_of(header.bits)
        if target > easiest:
            raise MalformedMessage(f"header {height} asks for less work than {network.name} allows")
        if int.from_bytes(header.block_hash, "little") > target:
            raise MalformedMessage(f"header {height} has not the work that it claims")
        if height == 0 and header.block_hash != network.chain_hash:
            raise MalformedMessage(f"header 0 is not that of {network.name}")
        if found and header.previous != found[-1].block_hash:
            raise MalformedMessage(f"header {height} does not follow header {height - 1}")
        found.append(header)
    return found


class HeaderChain:
    """A window of headers without a gap, from `low` to `high`. Fed with what `read_headers` let through."""

    def __init__(self) -> None:
        self._headers: dict[int, Header] = {}
        self.low = 0
        self.high = -1

    def at(self, height: int) -> Header | None:
        return self._headers.get(height)

    def fits(self, start: int, headers: list[Header]) -> bool:
        """Whether these stand on what we hold, or are the first of all."""
        if self.high < 0 or start == 0:
            return True
        if start == self.low:
            return headers[0].previous == self._headers[start].previous
        below = self._headers.get(start - 1)
        return below is not None and headers[0].previous == below.block_hash

    def replace(self, start: int, headers: list[Header]) -> None:
        """Everything from `start` on. Raises LessWork."""
        ours = sum(work_of(self._headers[height]) for height in range(start, self.high + 1))
        if sum(map(work_of, headers)) < ours:
            raise LessWork(
                f"a chain up to block {start + len(headers) - 1} with less work than the known one, "
                f"which reaches to block {self.high}"
            )
        if self.high < 0:
            self.low = start
        for height in range(start, self.high + 1):
            del self._headers[height]
        self._headers.update(enumerate(headers, start))
        self.high = start + len(headers) - 1

    def prepend(self, start: int, headers: list[Header]) -> None:
        """Raises MalformedMessage unless they end where the window begins."""
        if start + len(headers) != self.low or headers[-1].block_hash != self._headers[self.low].previous:
            raise MalformedMessage(f"header {self.low} does not follow header {self.low - 1}")
        self._headers.update(enumerate(headers, start))
        self.low = start


def check_position(tx: Transaction, position: int, branch: list[bytes], header: Header) -> None:
    """Raises MalformedMessage unless the Merkle branch proves the transaction at this position of the block."""
    if len(tx.serialize(witness=False)) == INNER_NODE_BYTES:
        # Such bytes may as well be two hashes inside the tree: they prove nothing.
        raise MalformedMessage(f"a transaction of 64 bytes, {txid_hex(tx.txid)}, cannot be proven")
    if len(branch) > MAX_BRANCH or position < 0 or position >> len(branch):
        raise MalformedMessage(f"position {position} is not in a tree of depth {len(branch)}")
    node, rest = tx.txid, position
    for sibling in branch:
        if rest & 1 and sibling == node:
            # The last node of an odd row is paired with itself: it is the left one, the right one is no leaf.
            raise MalformedMessage(f"position {position} is beyond the last transaction")
        node = double_sha256(sibling + node if rest & 1 else node + sibling)
        rest >>= 1
    if node != header.merkle_root:
        raise MalformedMessage(
            f"the branch of {txid_hex(tx.txid)} does not lead to the block {txid_hex(header.block_hash)}"
        )
