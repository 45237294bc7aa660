"""What is told of watched outputs, and for how long (no chain is needed for that)."""

from node.chain.watches import Watches
from protocol.amounts import BlockHeight, Sat
from protocol.bitcoin.transaction import OutPoint, Transaction, TxIn, TxOut
from protocol.bus.messages.chain import FINAL_DEPTH, OutpointSpent

SCRIPT = b"\x00\x14" + bytes(20)
ELSEWHERE = b"\x00\x14" + b"\x01" * 20


def paid_and_spent() -> tuple[Watches, OutPoint]:
    """Our script was paid at block 111 and the coin spent at 117."""
    watches = Watches()
    watches.watch_script(SCRIPT)
    paying = Transaction(2, (TxIn(OutPoint(b"\x07" * 32, 0)),), (TxOut(Sat(50_000), SCRIPT),))
    coin = OutPoint(paying.txid, 0)
    spending = Transaction(2, (TxIn(coin),), (TxOut(Sat(49_000), ELSEWHERE),))
    watches.connect(BlockHeight(111), [(1, paying)])
    watches.connect(BlockHeight(117), [(1, spending)])
    return watches, coin


def test_a_spend_is_told_with_each_block_until_it_is_final() -> None:
    watches, coin = paid_and_spent()
    last = BlockHeight(117 + FINAL_DEPTH - 1)
    (told,) = watches.standing(last)
    assert isinstance(told, OutpointSpent)
    assert (told.txid, told.index, told.height, told.depth) == (coin.txid, 0, 117, FINAL_DEPTH)
    assert not list(watches.standing(BlockHeight(last + 1)))


def test_who_searches_old_blocks_hears_of_spends_of_long_ago_too() -> None:
    """A restored wallet would else count coins that were spent years before."""
    watches, coin = paid_and_spent()
    (told,) = watches.standing(BlockHeight(117 + 5 * FINAL_DEPTH), however_deep=True)
    assert isinstance(told, OutpointSpent)
    assert OutPoint(told.txid, told.index) == coin
