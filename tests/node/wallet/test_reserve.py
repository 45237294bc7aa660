"""The fee reserve of a running node: wallet, channels and a signer that insists on it (DESIGN, "The fee reserve")."""

import asyncio
import importlib.util
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from node.chain.regtest import RegtestChain
from node.wallet.reserve import ROOM_FOR_HTLCS, ReserveService
from protocol import reserve as numbers
from protocol.amounts import Msat, Sat
from protocol.bitcoin.address import script_pubkey_of
from protocol.bitcoin.network import REGTEST
from protocol.bitcoin.transaction import OutPoint, Transaction
from protocol.bus.messages import channel as said
from protocol.bus.messages import reserve, wallet
from protocol.bus.messages import signer as sign
from protocol.bus.messages.signer_link import SignerLink
from protocol.bus.messages.why import ListWarnings, Warnings
from protocol.errors import CommandRefused
from signer.policy.reserve import ENFORCE, SHADOW
from signer.service import SignerService
from tests.node.channel.pair import PASSPHRASE
from tests.node.onchain.services import RATE, Node, Pair, Signer
from tests.node.wallet.support import until
from tests.support import need

WANTED = numbers.needed(1, ROOM_FOR_HTLCS)
SLOT = numbers.PER_HTLC * 1000


class Keeper(Node):
    """A node whose signer has the rule in this mode, with the reserve's service."""

    def __init__(self, folder: Path, chain: RegtestChain, mode: str) -> None:
        super().__init__(folder, chain)
        self.service.close()
        self.service = SignerService(folder, PASSPHRASE, in_memory=True, fee_reserve=mode)
        self.signer = Signer(self.service)
        self.node_id = self.signer.node.welcome.node_id

    async def start(self) -> None:
        await super().start()
        self.reserve = ReserveService(self.bus, signer=self.signer)
        await self.reserve.start()
        await until(lambda: self.channels.reserve() is not None)

    async def stop(self) -> None:
        await self.reserve.stop()
        await super().stop()

    async def report(self) -> reserve.ReserveReport:
        found: reserve.ReserveReport = await self.bus.request("reserve", reserve.GetReserve())
        return found

    async def fund(self, *amounts: int) -> None:
        for amount in amounts:
            made = await self.bus.request("wallet", wallet.NewAddress())
            self.chain.fund(script_pubkey_of(made.address, REGTEST), Sat(amount))

    async def fill(self, amount: int | None = None) -> reserve.ReserveMoved:
        """Through the wallet, and confirmed."""
        wanted = None if amount is None else Sat(amount)
        moved: reserve.ReserveMoved = await self.bus.request("reserve", reserve.TopUpReserve(wanted))
        self.chain.generate(1)
        await self.at_tip()
        await self.report()
        return moved

    async def at_reserve(self, *, spent: bool = False) -> list[wallet.CoinInfo]:
        listed: wallet.Coins = await self.bus.request("wallet", wallet.ListCoins(spent))
        return [coin for coin in listed.coins if coin.branch == 3]


class Keepers(Pair):
    def __init__(self, folder: Path, alice: str, bob: str) -> None:
        self.chain = RegtestChain(folder / "chain")
        self.alice: Keeper = Keeper(folder / "alice", self.chain, alice)
        self.bob: Keeper = Keeper(folder / "bob", self.chain, bob)
        self.alice.other, self.bob.other = self.bob, self.alice
        self.connections = 0

    async def begin(self) -> None:
        for node in (self.alice, self.bob):
            await node.fund(12_000_000, 12_000_000)
        await self.mine()
        self.connect()

    async def fund_channel(self, *, anchors: bool = True, top_up: bool | None = None) -> said.ChannelFunded:
        request = said.FundChannel(
            self.bob.node_id, Sat(10_000_000), RATE, Msat(3_000_000_000), anchors=anchors, top_up=top_up
        )
        funded: said.ChannelFunded = await self.alice.bus.request("channel", request)
        return funded

    async def lock_in(self) -> None:
        await self.mine(3)
        for node in self.nodes:
            await self._until_state(node, "CHANNELD_NORMAL")


async def made(folder: Path, alice: str, bob: str) -> Keepers:
    need("kernel", importlib.util.find_spec("pbk") is not None, "py-bitcoinkernel is not installed")
    pair = Keepers(folder, alice, bob)
    await pair.start()
    await pair.begin()
    return pair


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Keepers]:
    """Alice's signer insists, Bob's only looks on."""
    running = await made(tmp_path, ENFORCE, SHADOW)
    yield running
    await running.stop()


@pytest.fixture
async def strict(tmp_path: Path) -> AsyncIterator[Keepers]:
    running = await made(tmp_path, SHADOW, ENFORCE)
    yield running
    await running.stop()


# Opening.


async def test_the_funding_of_a_channel_brings_along_what_the_reserve_lacks(pair: Keepers) -> None:
    funded = await pair.fund_channel()
    (coin,) = await pair.alice.at_reserve()
    assert coin.txid == funded.txid and coin.value == WANTED
    report = await pair.alice.report()
    assert (report.mode, report.present, report.coming, report.short) == (ENFORCE, WANTED, WANTED, 0)
    await pair.lock_in()
    report = await pair.alice.report()
    assert (report.needed, report.confirmed, report.channels) == (numbers.PER_CHANNEL, WANTED, 1)
    assert report.room_htlcs == ROOM_FOR_HTLCS
    assert not (await pair.bob.at_reserve())


async def test_a_reserve_that_suffices_is_not_topped_up(pair: Keepers) -> None:
    await pair.alice.fill(WANTED)
    funded = await pair.fund_channel()
    assert len(Transaction.parse(funded.tx).outputs) == 2
    assert len(await pair.alice.at_reserve()) == 1


async def test_who_wants_no_top_up_is_refused_with_amount_and_address(pair: Keepers) -> None:
    calls = pair.alice.signer.requests
    with pytest.raises(CommandRefused) as refused:
        await pair.fund_channel(top_up=False)
    address = (await pair.alice.report()).address
    assert "the fee reserve holds 0 sat, and 9210 sat are needed" in refused.value.sentence
    assert f"send {WANTED} sat to {address}" in refused.value.what_to_do
    assert pair.alice.signer.requests == calls
    await pair.fund_channel(top_up=False, anchors=False)


async def test_a_signer_in_shadow_costs_the_opener_nothing_unless_it_is_wished(strict: Keepers) -> None:
    await strict.bob.fill()
    await strict.fund_channel()
    assert not await strict.alice.at_reserve()
    await strict.fund_channel(top_up=True)
    (coin,) = await strict.alice.at_reserve()
    assert coin.value == numbers.needed(2, ROOM_FOR_HTLCS)


async def test_an_acceptor_that_is_short_refuses_and_says_what_it_needs(strict: Keepers) -> None:
    with pytest.raises(CommandRefused, match="cannot open a channel now"):
        await strict.fund_channel()
    await strict.bob.fill()
    await strict.fund_channel()
    await strict.lock_in()
    assert (await strict.bob.report()).channels == 1


async def test_what_a_failed_opening_would_have_brought_is_taken_back(pair: Keepers) -> None:
    noted: list[int] = []
    ask = pair.bob.signer.node.ask

    def refuse(request: sign.Request) -> sign.Reply:
        if isinstance(request, sign.SetupChannel):
            noted.append(pair.alice.service._reserve.present)
            return sign.Refused("test", "a rule", "seen", "limit", "Nothing.")
        return ask(request)

    pair.bob.signer.node.ask = refuse  # type: ignore[method-assign]
    with pytest.raises(CommandRefused):
        await pair.fund_channel()
    assert noted == [WANTED]
    await until(lambda: not pair.alice.wallet._ledger.plans)
    report = await pair.alice.report()
    assert (report.present, report.coming) == (0, 0)


# HTLCs.


async def test_an_htlc_that_the_reserve_cannot_cover_is_refused_with_these_words(pair: Keepers) -> None:
    await pair.fund_channel()
    await pair.lock_in()
    expiry = pair.chain.height + 60
    for _ in range(ROOM_FOR_HTLCS):
        await pair.offer(pair.alice, SLOT, expiry)
    refused: list[said.HtlcRefused] = []
    pair.alice.payments._inbox._heard[said.HtlcRefused] = refused.append
    before = pair.alice.signer.requests
    channel_id = (await pair.alice.channel()).channel_id
    want = said.OfferHtlc(channel_id, Msat(SLOT), bytes(32), expiry, bytes(1366), "one too many")
    pair.alice.bus.send("channel", want)
    await until(lambda: refused)
    needed = numbers.needed(1, ROOM_FOR_HTLCS + 1)
    assert f"the fee reserve holds {WANTED} sat, and {needed} sat are needed" in refused[0].sentence
    assert f"send {needed - WANTED} sat to bcrt1" in refused[0].what_to_do
    assert pair.alice.signer.requests == before
    await pair.offer(pair.alice, SLOT - 1, expiry)  # not worth its second stage, so it takes no slot
    await pair.alice.fill(numbers.PER_HTLC)
    await until(lambda: pair.alice.channels.reserve().present == WANTED + numbers.PER_HTLC)  # type: ignore[union-attr]
    await pair.offer(pair.alice, SLOT, expiry)


async def test_a_short_reserve_is_warned_of_until_it_is_filled(strict: Keepers) -> None:
    await strict.bob.fill()
    await strict.fund_channel()
    await strict.lock_in()
    for _ in range(ROOM_FOR_HTLCS + 1):  # what the peer adds is never refused
        await strict.offer(strict.alice, SLOT, strict.chain.height + 60)
    await strict.mine()
    warned: Warnings = await strict.bob.bus.request("channel", ListWarnings())
    (short,) = [one for one in warned.warnings if one.key == "reserve"]
    assert (
        "lnp reserve topup" in short.what_to_do and f"{WANTED} sat are in the fee reserve" in short.sentence
    )
    report = await strict.bob.report()
    assert report.short == numbers.PER_HTLC and "lnp reserve topup" in report.what_to_do
    await strict.bob.fill()
    await strict.mine()
    warned = await strict.bob.bus.request("channel", ListWarnings())
    assert not [one for one in warned.warnings if one.key == "reserve"]


# Paying for a close.


async def test_a_force_close_pays_its_child_from_the_reserve(pair: Keepers) -> None:
    """checklist 48"""
    await pair.fund_channel()
    await pair.lock_in()
    (coin,) = await pair.alice.at_reserve()
    await pair.offer(pair.alice, 200_000_000, pair.chain.height + 20)
    pair.disconnect()
    pair.alice.backend.estimate = numbers.RESERVE_FEERATE
    pair.chain.generate_block([])
    for node in pair.nodes:
        await node.at_tip()
    info = await pair.alice.channel()
    closed: said.ChannelClosed = await pair.alice.bus.request(
        "channel", said.CloseChannel(info.channel_id.hex(), 1)
    )
    commitment = Transaction.parse(closed.tx)
    await until(lambda: len(pair.chain.mempool.children_of(commitment)) == 1)
    (txid,) = pair.chain.mempool.children_of(commitment)
    child = pair.chain.mempool.entries[txid].tx
    assert OutPoint(coin.txid, coin.vout) in {spend.outpoint for spend in child.inputs}
    report = await pair.alice.report()
    assert (report.lent, report.present) == (coin.value, 0)
    await pair.mine()
    (change,) = await pair.alice.at_reserve()
    assert change.txid == child.txid and change.height == pair.chain.height
    assert pair.alice.wallet._account.place_of(child.outputs[-1].script_pubkey) == (3, change.position)
    await until(lambda: pair.alice.channels.reserve().present == change.value)  # type: ignore[union-attr]


async def test_fee_coins_come_from_the_wallet_when_the_reserve_is_too_small(pair: Keepers) -> None:
    await pair.alice.fill(6_000)
    await pair.alice.fund(50_000)
    await pair.mine()
    lend = wallet.LendCoins("a close", Sat(20_000))
    lent: wallet.CoinsLent = await pair.alice.bus.request("wallet", lend)
    assert sorted((coin.branch, coin.value) for coin in lent.coins) == [(0, 50_000), (3, 6_000)]
    assert lent.change[0] == 3
    assert await pair.alice.bus.request("wallet", lend) == lent
    await pair.alice.bus.request("wallet", wallet.ReleasePlan("a close"))
    small: wallet.CoinsLent = await pair.alice.bus.request("wallet", wallet.LendCoins("b", Sat(2_000)))
    assert [coin.branch for coin in small.coins] == [3]


async def test_a_large_coin_of_the_wallet_keeps_its_change_there(pair: Keepers) -> None:
    lent: wallet.CoinsLent = await pair.alice.bus.request("wallet", wallet.LendCoins("c", Sat(20_000)))
    assert [coin.branch for coin in lent.coins] == [0] and lent.change[0] == 1
    with pytest.raises(CommandRefused, match="fee reserve"):
        await pair.alice.bus.request("wallet", wallet.LendCoins("d", Sat(30_000_000)))


# The coins.


async def test_ordinary_payments_never_spend_the_reserve(pair: Keepers) -> None:
    await pair.alice.fill(100_000)
    (coin,) = await pair.alice.at_reserve()
    plan = wallet.PlanSpend("all", bytes.fromhex("0020" + "05" * 32), None, RATE)
    planned: wallet.SpendPlanned = await pair.alice.bus.request("wallet", plan)
    spent = {spend.outpoint for spend in Transaction.parse(planned.tx).inputs}
    assert spent and OutPoint(coin.txid, coin.vout) not in spent
    assert (await pair.alice.wallet.balance()).fee_reserve == 100_000


async def test_a_signer_that_came_back_is_told_again(pair: Keepers) -> None:
    await pair.alice.fill(50_000)
    reserve_of = pair.alice.service._reserve
    assert reserve_of.present == 50_000
    reserve_of._coins.clear()  # it came back from an older database
    reserve_of._count()
    pair.alice.bus.publish(SignerLink(False, "away"))
    pair.alice.bus.publish(SignerLink(True, ""))
    await until(lambda: reserve_of.present == 50_000)


async def test_a_restarted_node_tells_its_signer_what_it_holds(pair: Keepers) -> None:
    await pair.alice.fill(50_000)
    await pair.alice.restart()
    report = await pair.alice.report()
    assert (report.present, report.confirmed, report.needed) == (50_000, 50_000, 0)


async def test_the_surplus_returns_to_cold(pair: Keepers) -> None:
    await pair.alice.fill(200_000)
    moved: reserve.ReserveMoved = await pair.alice.bus.request("reserve", reserve.ReturnReserve())
    (output,) = Transaction.parse(moved.tx).outputs
    place = pair.alice.wallet._account.place_of(output.script_pubkey)
    assert place is not None and place[0] == 2
    assert moved.amount + moved.fee == 200_000
    await pair.mine()
    assert not await pair.alice.at_reserve()
    with pytest.raises(CommandRefused, match="not worth a transaction"):
        await pair.alice.bus.request("reserve", reserve.ReturnReserve())


async def test_two_returns_at_once_leave_what_living_channels_need(pair: Keepers) -> None:
    """As of a caller who did not wait for the first answer."""
    await pair.alice.fill(numbers.PER_CHANNEL - 200)
    await pair.alice.fill(numbers.PER_CHANNEL - 200)
    await pair.fund_channel(top_up=False)
    await pair.lock_in()
    needed = (await pair.alice.report()).needed
    asked = (pair.alice.bus.request("reserve", reserve.ReturnReserve()) for _ in range(2))
    moved = await asyncio.gather(*asked, return_exceptions=True)
    await pair.mine()
    assert (await pair.alice.report()).present >= needed
    assert sum(isinstance(each, reserve.ReserveMoved) for each in moved) == 1


async def test_two_top_ups_at_once_fill_it_once(pair: Keepers) -> None:
    asked = (pair.alice.bus.request("reserve", reserve.TopUpReserve(None)) for _ in range(2))
    moved = await asyncio.gather(*asked, return_exceptions=True)
    await pair.mine()
    assert (await pair.alice.report()).present == WANTED
    assert sum(isinstance(each, reserve.ReserveMoved) for each in moved) == 1


async def test_what_living_channels_need_stays_in_the_reserve(pair: Keepers) -> None:
    await pair.alice.fill(200_000)
    await pair.fund_channel()
    await pair.lock_in()
    await pair.alice.bus.request("reserve", reserve.ReturnReserve())
    await pair.mine()
    report = await pair.alice.report()
    assert report.needed <= report.present < report.needed + 1_000
    assert report.short == 0


async def test_a_full_reserve_needs_no_top_up_without_an_amount(pair: Keepers) -> None:
    await pair.alice.fill()
    with pytest.raises(CommandRefused, match="nothing is lacking"):
        await pair.alice.fill()
