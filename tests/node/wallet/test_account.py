"""The scripts of the account: what is watched, what is handed out, and where the gap lies."""

import pytest

from node.wallet.account import CHANGE, COLD, GAP, RECEIVE, Account
from protocol.bitcoin.keys import ExtendedKey
from protocol.bitcoin.network import REGTEST
from protocol.bitcoin.script import p2wpkh
from protocol.secret import Secret

MASTER = ExtendedKey.from_seed(Secret(bytes(range(32))), REGTEST)
XPUB = MASTER.derive("m/9735h/1h/2h").neuter().to_string()
ORIGIN = f"{MASTER.fingerprint().hex()}/9735h/1h/2h"


def account() -> Account:
    return Account(XPUB, ORIGIN, REGTEST)


@pytest.mark.parametrize("branch", [RECEIVE, CHANGE, COLD])
def test_gap_ahead_of_the_used_scripts_is_watched(branch: int):
    ours = account()
    last = GAP[branch] - 1
    assert ours.place_of(ours.script(branch, last)) == (branch, last)
    assert ours.place_of(ours.script(branch, last + 1)) is None
    assert ours.mark_used(branch, 5)
    assert ours.place_of(ours.script(branch, last + 6)) == (branch, last + 6)
    assert not ours.mark_used(branch, 4)


def test_keys_are_those_of_the_seed_with_their_origin():
    ours = account()
    key = MASTER.derive("m/9735h/1h/2h/1/7").public_key()
    assert ours.script(CHANGE, 7) == p2wpkh(key)
    ((public_key, origin),) = ours.origin(CHANGE, 7).items()
    assert public_key == key
    assert str(origin) == f"[{ORIGIN}/1/7]"


def test_scripts_that_are_new_are_told_once():
    ours = account()
    assert len(ours.take_new()) == sum(GAP.values())
    assert ours.take_new() == []
    ours.mark_issued(RECEIVE, 0)
    assert ours.take_new() == [ours.script(RECEIVE, 20)]


def test_addresses_follow_each_other_and_skip_used_ones():
    ours = account()
    assert ours.next_receive() == 0
    ours.mark_issued(RECEIVE, 0)
    ours.mark_used(RECEIVE, 7)
    assert ours.next_receive() == 8


def test_twenty_unpaid_addresses_come_round_again():
    """A restored wallet would not look beyond them; a payment opens the way to further ones."""
    ours = account()
    for index in range(20):
        assert ours.next_receive() == index
        ours.mark_issued(RECEIVE, index)
    assert [ours.next_receive() for _ in range(22)] == [*range(20), 0, 1]
    ours.mark_used(RECEIVE, 3)
    assert ours.next_receive() == 20


def test_change_takes_the_lowest_index_that_is_free():
    """So plans that are released leave no gap behind."""
    ours = account()
    assert ours.next_free(CHANGE, ()) == 0
    ours.mark_used(CHANGE, 0)
    assert ours.next_free(CHANGE, (1, 2)) == 3
    assert ours.next_free(CHANGE, (2,)) == 1
