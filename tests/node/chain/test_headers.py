"""Headers and Merkle branches, by blocks that stand here: the published first one of regtest and a few of our own."""

import pytest

from node.chain.blocks import Header, header_of
from node.chain.headers import (
    HeaderChain,
    LessWork,
    check_position,
    read_headers,
    target_of,
    work_of,
)
from protocol.amounts import Sat
from protocol.bitcoin.network import REGTEST, TESTNET
from protocol.bitcoin.transaction import OutPoint, Transaction, TxIn, TxOut
from protocol.errors import MalformedMessage
from protocol.hashes import double_sha256
from tests.node.chain.test_bitcoind import GENESIS_REGTEST

FIRST = GENESIS_REGTEST[:80]


def mined(previous: bytes, root: bytes = bytes(32), *, tag: int = 0, bits: int = 0x207FFFFF) -> bytes:
    for nonce in range(1000):
        raw = b"".join(
            (
                (1).to_bytes(4, "little"),
                previous,
                root,
                tag.to_bytes(4, "little"),
                bits.to_bytes(4, "little"),
                nonce.to_bytes(4, "little"),
            )
        )
        if int.from_bytes(double_sha256(raw), "little") <= target_of(bits):
            return raw
    raise AssertionError("no luck in 1000 tries")


def chain_of(count: int, *, tag: int = 0) -> list[Header]:
    raws = [FIRST]
    for n in range(count):
        raws.append(mined(double_sha256(raws[-1]), tag=tag + n))
    return read_headers(b"".join(raws), 0, REGTEST)[1:]


@pytest.mark.parametrize(
    ("bits", "target"),
    [
        (0x1D00FFFF, 0xFFFF << 208),
        (0x207FFFFF, 0x7FFFFF << 232),
        (0x05009234, 0x92340000),  # from Bitcoin's developer reference
        (0x01120000, 0x12),
    ],
)
def test_short_targets_are_read(bits: int, target: int) -> None:
    assert target_of(bits) == target


@pytest.mark.parametrize("bits", [0, 0x1D000000, 0x04923456])
def test_zero_and_negative_targets_are_malformed(bits: int) -> None:
    with pytest.raises(MalformedMessage):
        target_of(bits)


def test_the_first_block_proves_itself_on_its_own_network_only() -> None:
    (header,) = read_headers(FIRST, 0, REGTEST)
    assert header == header_of(FIRST) and header.block_hash == REGTEST.chain_hash
    assert work_of(header) == 2
    with pytest.raises(MalformedMessage, match="less work than testnet allows"):
        read_headers(FIRST, 0, TESTNET)
    with pytest.raises(MalformedMessage, match="not that of regtest"):
        read_headers(mined(bytes(32)), 0, REGTEST)
    with pytest.raises(MalformedMessage, match="does not follow"):
        read_headers(FIRST + mined(bytes(32)), 0, REGTEST)


def test_a_window_takes_more_work_and_never_less() -> None:
    chain = HeaderChain()
    ours, longer, shorter = chain_of(3), chain_of(4, tag=50), chain_of(2, tag=90)
    chain.replace(1, ours)
    assert (chain.low, chain.high) == (1, 3)
    assert chain.fits(4, [header_of(mined(ours[-1].block_hash))])
    assert not chain.fits(2, longer[1:]) and chain.fits(1, longer)
    with pytest.raises(LessWork):
        chain.replace(1, shorter)
    assert chain.at(3) == ours[2]
    chain.replace(1, longer)
    assert [chain.at(height) for height in range(1, 6)] == [*longer, None]
    with pytest.raises(MalformedMessage, match="header 1 does not follow header 0"):
        chain.prepend(0, [ours[0]])
    chain.prepend(0, [header_of(FIRST)])
    assert chain.low == 0


def payment(n: int) -> Transaction:
    return Transaction(2, (TxIn(OutPoint(bytes([n]) * 32, 0)),), (TxOut(Sat(n), b"\x51" * 22),))


def test_a_branch_proves_one_position() -> None:
    """Three transactions: the third is paired with itself, and must not be shown as the fourth too."""
    txs = [payment(n) for n in range(3)]
    a, b, c = (tx.txid for tx in txs)
    ab, cc = double_sha256(a + b), double_sha256(c + c)
    header = header_of(mined(bytes(32), double_sha256(ab + cc)))
    check_position(txs[0], 0, [b, cc], header)
    check_position(txs[1], 1, [a, cc], header)
    check_position(txs[2], 2, [c, ab], header)
    for tx, position, branch in [
        (txs[2], 3, [c, ab]),
        (txs[0], 1, [b, cc]),
        (txs[0], 4, [b, cc]),
        (txs[0], -1, [b, cc]),
        (txs[0], 0, [b]),
        (txs[0], 0, []),
        (txs[0], 0, [b] * 33),
        (payment(9), 0, [b, cc]),
    ]:
        with pytest.raises(MalformedMessage):
            check_position(tx, position, branch, header)


def test_a_transaction_that_may_be_two_hashes_of_the_tree_proves_nothing() -> None:
    tx = Transaction(2, (TxIn(OutPoint(bytes(32), 0)),), (TxOut(Sat(1), b"\x51" * 4),))
    assert len(tx.serialize()) == 64
    header = header_of(mined(bytes(32), tx.txid))
    with pytest.raises(MalformedMessage, match="64 bytes"):
        check_position(tx, 0, [], header)
