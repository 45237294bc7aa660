"""The wallet on a real chain with the real signer: paid, planned, signed, mined, reorganised, restarted."""

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from protocol import curve
from protocol.amounts import FeeratePerKw, Sat
from protocol.bitcoin import psbt
from protocol.bitcoin.address import script_pubkey_of
from protocol.bitcoin.network import REGTEST
from protocol.bitcoin.transaction import OutPoint, Transaction, TxOut
from protocol.bus.messages import signer as contract
from protocol.bus.messages import wallet
from protocol.errors import CommandRefused

if TYPE_CHECKING:
    from tests.node.wallet.support import World

FOREIGN = b"\x00\x20" + bytes([5]) * 32


async def refusal(world: "World", request: object) -> CommandRefused:
    with pytest.raises(CommandRefused) as refused:
        await world.ask(request)
    return refused.value


# Coins.


async def test_confirmed_payment_to_an_address_is_a_coin(world: "World"):
    (outpoint,) = await world.fund(200_000)
    (coin,) = await world.coins()
    assert (OutPoint(coin.txid, coin.vout), coin.value) == (outpoint, 200_000)
    assert coin.height == world.chain.height
    assert script_pubkey_of(coin.address, REGTEST) == coin.script
    assert (await world.balance()).confirmed == 200_000


async def test_unconfirmed_payment_of_others_is_not_counted(world: "World"):
    world.chain.fund(await world.address(), Sat(50_000))
    assert await world.coins() == []
    await world.mine()
    assert len(await world.coins()) == 1


async def test_addresses_differ_and_outlive_a_restart(world: "World"):
    first = await world.ask(wallet.NewAddress())
    second = await world.ask(wallet.NewAddress())
    assert (first.index, second.index) == (0, 1)
    assert first.address != second.address
    await world.restart()
    assert (await world.ask(wallet.NewAddress())).index == 2


async def test_payment_to_the_cold_branch_is_ours(world: "World"):
    """Closes and sweeps pay there, to scripts that the signer draws."""
    drawn = world.signer.node.ask(contract.NewChannel(b"\x01" * 32, curve.point_of(bytes([9]) * 32)))
    assert isinstance(drawn, contract.ChannelDrawn)
    world.chain.fund(drawn.shutdown_script, Sat(70_000))
    await world.mine()
    (coin,) = await world.coins()
    assert (coin.value, coin.script) == (70_000, drawn.shutdown_script)


async def test_reward_of_a_block_waits_for_maturity(world: "World"):
    world.chain.generate(1, await world.address())
    await world.at_tip()
    balance = await world.balance()
    assert (balance.confirmed, balance.immature > 0) == (0, True)
    assert (await refusal(world, wallet.PlanSpend("p", FOREIGN, Sat(1000), FeeratePerKw(1000)))).code == 301
    await world.mine(99)
    planned = await world.plan("p", 1_000)
    sent = await world.ask(wallet.SignAndSend("p"))
    assert sent.txid == planned.txid
    await world.mine()
    assert world.chain.confirmations(planned.txid) == 1


# Plans.


async def test_planned_signed_and_mined(world: "World"):
    await world.fund(200_000)
    planned = await world.plan("open 1", 120_000)
    unsigned = Transaction.parse(planned.tx)
    assert unsigned.outputs[planned.output_index] == TxOut(Sat(120_000), FOREIGN)
    sent = await world.ask(wallet.SignAndSend("open 1"))
    tx = Transaction.parse(sent.tx)
    assert tx.txid == planned.txid == sent.txid
    fee = 200_000 - sum(output.value for output in tx.outputs)
    assert fee == planned.fee
    assert tx.vsize * 4 <= fee <= (tx.vsize + 1) * 4  # 1000 sat/kw, and a signature may be a byte shorter

    (change,) = await world.coins()
    assert (change.value, change.height) == (80_000 - fee, None)
    await world.mine()
    assert world.chain.confirmations(sent.txid) == 1
    (change,) = await world.coins()
    assert change.height == world.chain.height
    assert (await world.balance()).total == 80_000 - fee


async def test_many_coins_are_spent_together(world: "World"):
    await world.fund(*[10_000] * 12)
    planned = await world.plan("all", None)
    sent = await world.ask(wallet.SignAndSend("all"))
    assert len(Transaction.parse(sent.tx).inputs) == 12
    assert planned.value == 120_000 - planned.fee
    await world.mine()
    assert await world.coins() == []
    assert world.chain.confirmations(planned.txid) == 1


async def test_change_is_spent_unconfirmed_only_when_asked(world: "World"):
    await world.fund(200_000)
    await world.plan("one", 50_000)
    await world.ask(wallet.SignAndSend("one"))
    assert (
        await refusal(world, wallet.PlanSpend("two", FOREIGN, Sat(50_000), FeeratePerKw(1000)))
    ).code == 301
    planned = await world.plan("two", 50_000, minconf=0)
    await world.ask(wallet.SignAndSend("two"))
    await world.mine()
    assert world.chain.confirmations(planned.txid) == 1


async def test_change_of_two_plans_goes_to_two_addresses(world: "World"):
    await world.fund(100_000, 100_000)
    scripts = set()
    for purpose in ("one", "two"):
        planned = await world.plan(purpose, 50_000)
        tx = Transaction.parse(planned.tx)
        scripts.add(tx.outputs[1 - planned.output_index].script_pubkey)
    assert len(scripts) == 2


async def test_reserved_coins_are_not_chosen_twice(world: "World"):
    await world.fund(100_000, 90_000)
    one, two = await asyncio.gather(world.plan("one", 60_000), world.plan("two", 60_000))
    first = {i.outpoint for i in Transaction.parse(one.tx).inputs}
    second = {i.outpoint for i in Transaction.parse(two.tx).inputs}
    assert not first & second
    assert [coin.reserved for coin in await world.coins()] == [True, True]
    refused = await refusal(world, wallet.PlanSpend("three", FOREIGN, Sat(60_000), FeeratePerKw(1000)))
    assert refused.code == 301


async def test_insufficient_coins_are_refused_with_the_numbers(world: "World"):
    await world.fund(50_000)
    refused = await refusal(world, wallet.PlanSpend("p", FOREIGN, Sat(50_000), FeeratePerKw(1000)))
    assert refused.code == 301
    assert "50000 sat" in refused.sentence and "fee of" in refused.sentence
    assert [coin.reserved for coin in await world.coins()] == [False]


async def test_same_purpose_is_the_same_plan_also_after_a_restart(world: "World"):
    await world.fund(100_000, 90_000)
    planned = await world.plan("open", 60_000)
    assert await world.plan("open", 60_000) == planned
    await world.restart()
    assert await world.plan("open", 60_000) == planned
    assert sorted(coin.reserved for coin in await world.coins()) == [False, True]


async def test_two_who_ask_for_the_same_purpose_at_once_get_the_same_plan(world: "World"):
    await world.fund(100_000, 90_000)
    one, other = await asyncio.gather(world.plan("open", 60_000), world.plan("open", 60_000))
    assert one == other
    assert sorted(coin.reserved for coin in await world.coins()) == [False, True]


async def test_purpose_stands_for_one_payment_only(world: "World"):
    await world.fund(100_000)
    await world.plan("open", 60_000)
    for script, value in ((FOREIGN, 61_000), (b"\x00\x20" + bytes(32), 60_000)):
        refused = await refusal(world, wallet.PlanSpend("open", script, Sat(value), FeeratePerKw(1000)))
        assert "another payment" in refused.sentence


async def test_released_coins_are_free_again(world: "World"):
    await world.fund(100_000)
    await world.plan("open", 60_000)
    await world.ask(wallet.ReleasePlan("open"))
    assert [coin.reserved for coin in await world.coins()] == [False]
    await world.restart()
    assert [coin.reserved for coin in await world.coins()] == [False]
    assert "no plan" in (await refusal(world, wallet.SignAndSend("open"))).sentence
    await world.plan("other", 90_000)


async def test_plan_is_released_by_a_message_without_an_answer(world: "World"):
    await world.fund(100_000)
    await world.plan("open", 60_000)
    world.bus.send("wallet", wallet.ReleasePlan("open"))
    world.bus.send("wallet", wallet.ReleasePlan("never made"))
    assert [coin.reserved for coin in await world.coins()] == [False]


async def test_plan_that_was_signed_is_not_released(world: "World"):
    await world.fund(100_000)
    await world.plan("open", 60_000)
    await world.ask(wallet.SignAndSend("open"))
    assert "signed" in (await refusal(world, wallet.ReleasePlan("open"))).sentence
    world.bus.send("wallet", wallet.ReleasePlan("open"))
    assert (await world.ask(wallet.SignAndSend("open"))).txid


async def test_feerate_is_estimated_when_none_is_given(world: "World"):
    await world.fund(100_000)
    refused = await refusal(world, wallet.PlanSpend("p", FOREIGN, Sat(50_000), None))
    assert "no fee estimate" in refused.sentence
    world.backend.estimate = FeeratePerKw(2000)
    planned = await world.ask(wallet.PlanSpend("p", FOREIGN, Sat(50_000), None))
    sent = await world.ask(wallet.SignAndSend("p"))
    assert planned.fee >= Transaction.parse(sent.tx).weight * 2


async def test_dust_is_refused(world: "World"):
    await world.fund(100_000)
    refused = await refusal(world, wallet.PlanSpend("p", FOREIGN, Sat(329), FeeratePerKw(1000)))
    assert "below the 330 sat" in refused.sentence


async def test_plan_that_is_never_sent_gives_its_coins_back_in_the_end(world: "World"):
    await world.fund(100_000)
    await world.plan("open", 60_000)
    made_at = world.chain.height
    world.wallet._ledger.tip(made_at + 2015)
    assert [coin.reserved for coin in await world.coins()] == [True]
    world.wallet._ledger.tip(made_at + 2016)
    assert [coin.reserved for coin in await world.coins()] == [False]


# The chain turns back, and time passes without us.


async def test_reorganised_payment_is_unconfirmed_until_it_is_mined_again(world: "World"):
    await world.fund(100_000)
    world.chain.reorg(1)
    await world.at_tip()
    (coin,) = await world.coins()
    assert coin.height is None
    assert (await world.balance()).unconfirmed == 100_000
    assert (
        await refusal(world, wallet.PlanSpend("p", FOREIGN, Sat(50_000), FeeratePerKw(1000), 0))
    ).code == 301
    await world.mine()
    (coin,) = await world.coins()
    assert coin.height == world.chain.height


async def test_reorganised_reward_is_gone(world: "World"):
    world.chain.generate(1, await world.address())
    await world.at_tip()
    assert len(await world.coins()) == 1
    world.chain.reorg(1)
    await world.at_tip()
    assert await world.coins() == []


async def test_reorganised_spend_of_ours_stays_spent_and_confirms_again(world: "World"):
    await world.fund(100_000)
    planned = await world.plan("one", 60_000)
    await world.ask(wallet.SignAndSend("one"))
    await world.mine()
    world.chain.reorg(1)
    await world.at_tip()
    assert world.chain.confirmations(planned.txid) == 0
    (change,) = await world.coins()
    assert (change.txid, change.height) == (planned.txid, None)
    await world.mine()
    assert world.chain.confirmations(planned.txid) == 1
    assert (await world.balance()).confirmed == 40_000 - planned.fee


async def test_payment_during_our_absence_is_found_at_the_next_start(world: "World"):
    script = await world.address()
    await world.stop()
    world.chain.fund(script, Sat(60_000))
    world.chain.generate(3)
    await world.start()
    (coin,) = await world.coins()
    assert (coin.value, coin.height) == (60_000, world.chain.height - 2)


async def test_reorganisation_during_our_absence_is_noticed(world: "World"):
    await world.fund(100_000)
    await world.stop()
    world.chain.reorg(1)
    await world.start()
    await world.at_tip()
    (coin,) = await world.coins()
    assert coin.height is None


async def test_coin_that_somebody_else_with_our_seed_spent_is_spent(world: "World"):
    """The same signer behind another database: a restored node that still runs elsewhere."""
    await world.fund(100_000)
    await world.stop()
    await world.start(birth_height=0, database="elsewhere.db")
    await world.plan("there", 60_000)
    await world.ask(wallet.SignAndSend("there"))
    await world.mine()
    await world.restart()
    (change,) = await world.coins()
    (spent,) = [coin for coin in await world.coins(spent=True) if coin.spent]
    assert (spent.value, change.height) == (100_000, world.chain.height)


async def test_conflicting_spend_takes_our_unconfirmed_one_with_it(world: "World"):
    await world.fund(100_000)
    planned = await world.plan("one", 60_000)
    await world.ask(wallet.SignAndSend("one"))
    await world.plan("two", 20_000, minconf=0)
    (change,) = [coin for coin in await world.coins() if coin.txid == planned.txid]
    assert change.reserved
    # Somebody with our keys pays it all elsewhere, and a miner takes that one.
    tx = Transaction.parse(planned.tx)
    other = Transaction(2, tx.inputs, (TxOut(Sat(99_000), FOREIGN),))
    (coin,) = [coin for coin in world.wallet._ledger.coins.values() if coin.value == 100_000]
    previous = await world.wallet._previous(coin.outpoint.txid)
    asked = psbt.create(
        other,
        [TxOut(coin.value, coin.script)],
        [previous],
        [world.wallet._account.origin(coin.branch, coin.index)],
    )
    answer = world.signer.node.ask(contract.SignPsbt(asked))
    assert isinstance(answer, contract.PsbtSigned)
    world.chain.generate_block([psbt.finalize(psbt.parse(answer.psbt))])
    await world.at_tip()
    assert await world.coins() == []
    assert world.wallet._ledger.plans == {}


async def test_wallet_restored_from_its_seed_finds_all_coins_from_the_birth_height(world: "World"):
    """Also those beyond the first gap of twenty, which earlier coins have moved."""
    for _ in range(3):
        scripts = [await world.address() for _ in range(15)]
        world.chain.pay([TxOut(Sat(20_000), scripts[14]), TxOut(Sat(10_000), scripts[3])])
        await world.mine()
    await world.plan("one", 55_000)
    await world.ask(wallet.SignAndSend("one"))
    await world.mine(30)
    before = {(coin.txid, coin.vout, coin.height) for coin in await world.coins()}
    await world.stop()
    await world.start(birth_height=0, database="restored.db")
    assert {(coin.txid, coin.vout, coin.height) for coin in await world.coins()} == before
    assert (await world.ask(wallet.NewAddress())).index == 45


async def test_until_old_blocks_are_read_no_coin_is_confirmed_and_none_is_spent(
    world: "World", monkeypatch: pytest.MonkeyPatch
):
    """A coin that is found may have been spent further on: the network would refuse what spends it again."""
    await world.fund(50_000)
    await world.plan("one", 30_000)
    await world.ask(wallet.SignAndSend("one"))
    await world.mine(40)
    (left,) = await world.coins()
    await world.stop()
    backend: Any = type(world.backend)
    go_on, look, last = asyncio.Event(), backend.look, world.chain.height

    async def slowly(self: Any, height: int, *arguments: Any) -> Any:
        if height > last - 40:
            await go_on.wait()
        return await look(self, height, *arguments)

    monkeypatch.setattr(backend, "look", slowly)
    await world.start(birth_height=0, database="restored.db", wait=False)
    async with asyncio.timeout(20):
        while not await world.coins():  # noqa: ASYNC110 - the scan runs by itself
            await asyncio.sleep(0)
    listed: wallet.Coins = await world.ask(wallet.ListCoins())
    assert [(coin.value, coin.height) for coin in listed.coins] == [(50_000, None)]
    assert listed.reading is not None and 0 < listed.reading[0] < listed.reading[1] == last
    refused = await refusal(world, wallet.PlanSpend("two", FOREIGN, Sat(1_000), FeeratePerKw(1000)))
    assert f"of {last}" in refused.sentence
    with pytest.raises(CommandRefused, match="reads old blocks"):
        await world.ask(wallet.LendCoins("close", Sat(1_000)))
    go_on.set()
    await world.caught_up()
    listed = await world.ask(wallet.ListCoins())
    assert listed == wallet.Coins((left,))
    await world.plan("two", 1_000)


async def test_until_old_blocks_are_read_no_coin_is_in_the_fee_reserve(world: "World"):
    """The signer opens channels on the strength of these coins: one that is gone would raise no fee."""
    world.chain.fund(world.wallet._reserve_script(), Sat(40_000))
    await world.mine()
    listed: wallet.ReserveCoins = await world.ask(wallet.ListReserve())
    assert [coin.state for coin in listed.coins] == ["confirmed"]
    world.wallet._ledger.scanned = -1  # as while the first scan of an old seed lasts
    listed = await world.ask(wallet.ListReserve())
    assert [coin.state for coin in listed.coins] == ["unconfirmed"]


async def test_coin_that_its_block_does_not_hold_any_more_is_unconfirmed_after_a_restart(world: "World"):
    """A reorganisation of which the wallet never heard, since it ran apart from the chain service."""
    await world.fund(50_000)
    script = await world.address()
    lost = OutPoint(bytes(32), 0)
    await world.wallet._save(
        world.wallet._ledger.paid(script, lost, Sat(70_000), height=world.chain.height, coinbase=False)
    )
    assert (await world.balance()).confirmed == 120_000
    await world.restart()
    balance = await world.balance()
    assert (balance.confirmed, balance.unconfirmed) == (50_000, 70_000)
