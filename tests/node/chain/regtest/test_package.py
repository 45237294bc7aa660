"""Packages: what a child pays for its parents, and what it cannot (Bitcoin Core's doc/policy/packages.md)."""

import pytest

pytest.importorskip("pbk")

from node.chain.regtest import RegtestChain, Rejected
from node.chain.regtest.methods import Methods
from node.chain.regtest.policy import PAY_TO_ANCHOR
from node.chain.regtest.rpc_values import RpcError
from protocol.bitcoin.sighash import p2wpkh_script_code
from protocol.bitcoin.transaction import OutPoint, Transaction, TxIn, txid_hex
from tests.node.chain.regtest.wallet import (
    ELSEWHERE,
    PUBLIC_KEY,
    SCRIPT,
    confirmed_coin,
    signature,
    spend,
    with_witness,
)

Coin = tuple[OutPoint, int]


def pair(coin: Coin, parent_fee: int, child_fee: int, *, version: int = 2) -> tuple[Transaction, Transaction]:
    parent = spend([coin], [(coin[1] - parent_fee, SCRIPT)], version=version)
    return parent, child_of(parent, child_fee, version=version)


def child_of(parent: Transaction, fee: int, *, version: int = 2, more: tuple[Coin, ...] = ()) -> Transaction:
    left = parent.outputs[0].value + sum(amount for _, amount in more) - fee
    return spend(
        [(OutPoint(parent.txid, 0), parent.outputs[0].value), *more], [(left, SCRIPT)], version=version
    )


def refused(chain: RegtestChain, tx: Transaction) -> str:
    with pytest.raises(Rejected) as error:
        chain.submit(tx)
    return str(error.value)


def hexes(*transactions: Transaction) -> list[str]:
    return [tx.serialize().hex() for tx in transactions]


@pytest.fixture
def rpc(chain: RegtestChain) -> Methods:
    return Methods(chain, stop=lambda: None)


def test_a_child_pays_for_a_parent_below_the_mempool_minimum(chain: RegtestChain) -> None:
    parent, child = pair(confirmed_coin(chain), 200, 5_000)
    chain.mempool.set_floor(10_000)
    assert refused(chain, parent).startswith("mempool min fee not met")
    result = chain.submit_package([parent, child])
    assert (result.message, result.error) == ("success", None)
    assert list(chain.mempool.entries) == [parent.txid, child.txid]


def test_a_child_that_pays_too_little_for_both_is_refused_with_its_parent(chain: RegtestChain) -> None:
    parent, child = pair(confirmed_coin(chain), 200, 1_500)
    chain.mempool.set_floor(10_000)
    result = chain.submit_package([parent, child])
    total = parent.vsize + child.vsize
    assert result.message == "transaction failed"
    assert result.error == f"mempool min fee not met, 1700 < {total * 10}"
    assert not chain.mempool.entries


def test_without_version_3_a_parent_pays_the_fixed_minimum_itself(chain: RegtestChain) -> None:
    parent, child = pair(confirmed_coin(chain), 0, 5_000)
    result = chain.submit_package([parent, child])
    assert [member.error for member in result.members] == [
        f"min relay fee not met, 0 < {parent.vsize}",
        "bad-txns-inputs-missingorspent",
    ]


def test_a_version_3_parent_without_fee_is_taken_with_its_child_and_mined(chain: RegtestChain) -> None:
    parent, child = pair(confirmed_coin(chain), 0, 5_000, version=3)
    assert refused(chain, parent).startswith("min relay fee not met")
    assert chain.submit_package([parent, child]).error is None
    chain.generate(1)
    assert chain.confirmations(parent.txid) == chain.confirmations(child.txid) == 1


def test_what_can_stand_alone_stays_although_the_rest_is_refused(chain: RegtestChain) -> None:
    coin = confirmed_coin(chain)
    parent = spend([coin], [(99_000, SCRIPT)])
    greedy = spend([(OutPoint(parent.txid, 0), 99_000)], [(99_001, SCRIPT)])
    result = chain.submit_package([parent, greedy])
    assert result.members[0].error is None and "in-belowout" in str(result.error)
    assert set(chain.mempool.entries) == {parent.txid}


def test_a_parent_that_is_known_does_no_harm(chain: RegtestChain) -> None:
    parent, child = pair(confirmed_coin(chain), 1_000, 1_000)
    chain.submit(parent)
    assert chain.submit_package([parent, child]).message == "success"
    assert chain.submit_package([parent, child]).message == "success"


def test_a_package_replaces_a_pair_only_when_it_pays_more(chain: RegtestChain) -> None:
    coin = confirmed_coin(chain)
    theirs = pair(coin, 0, 5_000, version=3)
    chain.submit_package(theirs)
    cheap = pair(coin, 1, 5_000, version=3)
    assert "not enough additional fees" in str(chain.submit_package(cheap).error)
    assert set(chain.mempool.entries) == {tx.txid for tx in theirs}
    ours = pair(coin, 1, 6_000, version=3)
    result = chain.submit_package(ours)
    assert result.error is None and set(result.replaced) == {tx.txid for tx in theirs}
    assert list(chain.mempool.entries) == [tx.txid for tx in ours]


def test_a_package_that_pays_more_for_more_room_replaces_nothing(chain: RegtestChain) -> None:
    coin = confirmed_coin(chain)
    chain.submit_package(pair(coin, 0, 5_000, version=3))
    parent = spend([coin], [(99_999, SCRIPT)], version=3)
    wide = [(90_000, SCRIPT), (0, b"\x6a\x4d\x90\x01" + bytes(400))]
    child = spend([(OutPoint(parent.txid, 0), 99_999)], wide, version=3)
    assert "does not improve feerate diagram" in str(chain.submit_package([parent, child]).error)


def test_ephemeral_dust_must_be_without_fee_and_spent_by_the_child(chain: RegtestChain) -> None:
    coin, amount = confirmed_coin(chain)
    paying = spend([(coin, amount)], [(90_000, SCRIPT), (0, PAY_TO_ANCHOR)], version=3)
    assert refused(chain, paying) == "dust, tx with dust output must be 0-fee"
    parent = spend([(coin, amount)], [(amount, SCRIPT), (0, PAY_TO_ANCHOR)], version=3)
    leaving = child_of(parent, 5_000, version=3)
    assert "missing-ephemeral-spends" in str(chain.submit_package([parent, leaving]).error)
    anchor = TxIn(OutPoint(parent.txid, 1), sequence=0xFFFFFFFD)
    taking = Transaction(3, (anchor, *leaving.inputs), leaving.outputs)
    signed = spend_second(taking, amount)
    assert chain.submit_package([parent, signed]).error is None


def spend_second(tx: Transaction, amount: int) -> Transaction:
    """With the second input signed; the first is an anchor that anybody may spend."""
    made = signature(tx, 1, p2wpkh_script_code(SCRIPT), amount)
    return with_witness(tx, 1, (made, PUBLIC_KEY))


def test_submitpackage_answers_in_cores_shape(chain: RegtestChain, rpc: Methods) -> None:
    parent, child = pair(confirmed_coin(chain), 200, 5_000)
    rpc.setminfeerate(10_000)
    answer = rpc.submitpackage(hexes(parent, child))
    assert (answer["package_msg"], answer["replaced-transactions"]) == ("success", [])
    row = answer["tx-results"][txid_hex(parent.wtxid)]
    both = [txid_hex(parent.wtxid), txid_hex(child.wtxid)]
    rate = 5_200 * 1000 // (parent.vsize + child.vsize) / 100_000_000
    assert row == {
        "txid": txid_hex(parent.txid),
        "vsize": parent.vsize,
        "fees": {"base": 2e-6, "effective-feerate": rate, "effective-includes": both},
    }
    again = rpc.submitpackage(hexes(parent, child))
    assert again["tx-results"][txid_hex(parent.wtxid)]["fees"] == {"base": 2e-6}


def test_submitpackage_refuses_what_is_no_child_with_its_parents(chain: RegtestChain, rpc: Methods) -> None:
    parent, child = pair(confirmed_coin(chain), 1_000, 1_000)
    stranger = spend([confirmed_coin(chain)], [(90_000, SCRIPT)])
    grandchild = child_of(child, 1_000)
    for wrong in ((parent, stranger), (child, parent), (parent, child, grandchild)):
        with pytest.raises(RpcError, match="package topology disallowed") as error:
            rpc.submitpackage(hexes(*wrong))
        assert error.value.code == -25
    with pytest.raises(RpcError, match="between 1 and 25"):
        rpc.submitpackage([])
    assert not chain.mempool.entries


def test_submitpackage_refuses_a_fee_that_must_be_a_slip(chain: RegtestChain, rpc: Methods) -> None:
    parent, child = pair(confirmed_coin(chain, 10_000_000), 1_000, 5_000_000)
    answer = rpc.submitpackage(hexes(parent, child))
    assert answer["package_msg"] == "transaction failed"
    assert answer["tx-results"][txid_hex(child.wtxid)]["error"] == "max feerate exceeded"
    assert not chain.mempool.entries
    assert rpc.submitpackage(hexes(parent, child), 0)["package_msg"] == "success"


def test_testmempoolaccept_judges_several_in_order_and_changes_nothing(
    chain: RegtestChain, rpc: Methods
) -> None:
    coin, free = confirmed_coin(chain), confirmed_coin(chain)
    parent, child = pair(coin, 1_000, 1_000)
    assert [row["allowed"] for row in rpc.testmempoolaccept(hexes(parent, child))] == [True, True]
    poor, rich = pair(coin, 0, 9_000)
    rows = rpc.testmempoolaccept(hexes(poor, rich))
    assert rows[0]["reject-reason"] == "min relay fee not met" and "allowed" not in rows[1]
    twice = rpc.testmempoolaccept(hexes(parent, poor))
    assert [row["package-error"] for row in twice] == ["conflict-in-package"] * 2
    assert [row["package-error"] for row in rpc.testmempoolaccept(hexes(child, parent))] == [
        "package-not-sorted"
    ] * 2
    assert not chain.mempool.entries
    chain.submit(parent)
    replacing = spend([coin], [(80_000, ELSEWHERE)])
    rows = rpc.testmempoolaccept(hexes(replacing, spend([free], [(80_000, ELSEWHERE)])))
    assert rows[0]["reject-reason"] == "bip125-replacement-disallowed"
    assert rpc.testmempoolaccept(hexes(replacing))[0]["allowed"]
    assert set(chain.mempool.entries) == {parent.txid}
