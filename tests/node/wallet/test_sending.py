"""Plans on their way through the real signer to the chain, and all that may go wrong there."""

import asyncio
from typing import TYPE_CHECKING

import pytest
import structlog

from node.chain.backend import Outcome
from node.storage.writer import Unit
from protocol.amounts import BlockHeight, Sat
from protocol.bitcoin import psbt
from protocol.bitcoin.transaction import OutPoint, Transaction, TxIn, TxOut
from protocol.bus.messages import chain, wallet
from protocol.bus.messages import signer as contract
from protocol.errors import CommandRefused
from tests.node.wallet.support import DirectBackend

if TYPE_CHECKING:
    from tests.node.wallet.support import World

FOREIGN = b"\x00\x20" + bytes([5]) * 32


async def refusal(world: "World", request: object) -> CommandRefused:
    with pytest.raises(CommandRefused) as refused:
        await world.ask(request)
    return refused.value


async def test_sending_again_answers_the_same_and_asks_the_signer_once(world: "World"):
    await world.fund(100_000)
    await world.plan("open", 60_000)
    one, other = await asyncio.gather(
        world.ask(wallet.SignAndSend("open")), world.ask(wallet.SignAndSend("open"))
    )
    assert one == other == await world.ask(wallet.SignAndSend("open"))
    await world.restart()
    assert await world.ask(wallet.SignAndSend("open")) == one
    await world.mine()
    assert await world.ask(wallet.SignAndSend("open")) == one
    assert world.signer.calls == 1


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        (contract.NotNow("it is locked"), "not ready: it is locked"),
        (contract.Refused("tag", "no spending today", "1", "0", "Wait."), "refused: no spending today"),
        (contract.ChannelSetUp(), "answered with ChannelSetUp"),
        (contract.PsbtSigned(b"nonsense"), "cannot be used"),
    ],
)
async def test_what_is_not_signed_is_not_spent(world: "World", reply: contract.Reply, sentence: str):
    await world.fund(100_000)
    planned = await world.plan("open", 60_000)
    world.signer.instead = lambda _request: reply
    assert sentence in (await refusal(world, wallet.SignAndSend("open"))).sentence
    (coin,) = await world.coins()
    assert (coin.reserved, coin.spent) == (True, False)
    world.signer.instead = None
    assert (await world.ask(wallet.SignAndSend("open"))).txid == planned.txid


async def test_signer_that_signs_nothing_or_something_else_is_found_out(world: "World"):
    await world.fund(100_000, 100_000)
    await world.plan("one", 60_000)
    await world.plan("two", 60_000)
    asked: list[bytes] = []

    def unsigned(request: contract.Request) -> contract.Reply:
        assert isinstance(request, contract.SignPsbt)
        asked.append(request.psbt)
        return contract.PsbtSigned(request.psbt)

    world.signer.instead = unsigned
    assert "did not sign input 0" in (await refusal(world, wallet.SignAndSend("one"))).sentence
    other = world.signer.node.ask(contract.SignPsbt(asked[0]))
    world.signer.instead = lambda _request: other
    assert "another transaction" in (await refusal(world, wallet.SignAndSend("two"))).sentence
    world.signer.instead = None
    await world.ask(wallet.SignAndSend("one"))


async def test_wrong_signature_is_found_out(world: "World"):
    await world.fund(100_000)
    await world.plan("one", 60_000)

    def broken(request: contract.Request) -> contract.Reply:
        reply = world.signer.node.ask(request)
        assert isinstance(reply, contract.PsbtSigned)
        (signature,) = [v for k, v in psbt.parse(reply.psbt).inputs[0].items() if k[0] == 2]
        wrong = signature[:-4] + bytes([signature[-4] ^ 1]) + signature[-3:]
        return contract.PsbtSigned(reply.psbt.replace(signature, wrong))

    world.signer.instead = broken
    assert "signature of input 0 is wrong" in (await refusal(world, wallet.SignAndSend("one"))).sentence
    assert [coin.spent for coin in await world.coins()] == [False]


async def test_psbt_shows_previous_transactions_and_the_origin_of_the_change(world: "World"):
    (outpoint,) = await world.fund(100_000)
    planned = await world.plan("one", 60_000)
    asked: list[bytes] = []

    def look(request: contract.Request) -> contract.Reply:
        assert isinstance(request, contract.SignPsbt)
        asked.append(request.psbt)
        return world.signer.node.ask(request)

    world.signer.instead = look
    await world.ask(wallet.SignAndSend("one"))
    shown = psbt.parse(asked[0])
    funding = world.chain.transaction(outpoint.txid)
    assert funding is not None
    assert shown.inputs[0][b"\x00"] == funding.serialize()
    assert len([key for key in shown.outputs[1 - planned.output_index] if key[0] == 2]) == 1
    assert shown.outputs[planned.output_index] == {}


async def test_transaction_that_the_network_refuses_is_not_spent(world: "World"):
    await world.fund(100_000)
    await world.plan("one", 60_000)
    world.backend.refusal = "min relay fee not met"
    assert "min relay fee not met" in (await refusal(world, wallet.SignAndSend("one"))).sentence
    (coin,) = await world.coins()
    assert (coin.value, coin.reserved) == (100_000, True)
    await world.ask(wallet.ReleasePlan("one"))
    world.backend.refusal = None
    await world.plan("two", 60_000)
    await world.ask(wallet.SignAndSend("two"))


async def test_backend_without_an_index_is_explained(world: "World"):
    world.backend.has_index = False
    await world.fund(100_000)
    await world.plan("one", 60_000)
    refused = await refusal(world, wallet.SignAndSend("one"))
    assert "txindex=1" in refused.what_to_do


async def test_crash_between_saving_and_sending_sends_at_the_next_start(world: "World"):
    await world.fund(100_000)
    planned = await world.plan("one", 60_000)
    signed = await world.wallet._sign(world.wallet._plan("one"))
    await world.wallet._save(world.wallet._ledger.send("one", signed))
    assert world.chain.transaction(planned.txid) is None
    await world.restart()
    assert world.chain.transaction(planned.txid) is not None
    await world.mine()
    assert world.chain.confirmations(planned.txid) == 1


def spent_otherwise(world: "World", outpoint: OutPoint) -> None:
    """A block spends a coin of ours by a transaction that is not ours."""
    spender = Transaction(2, (TxIn(outpoint),), (TxOut(Sat(1_000), FOREIGN),))
    world.wallet.outpoint_spent(
        chain.OutpointSpent(outpoint.txid, outpoint.index, spender.serialize(), BlockHeight(1), 1)
    )


async def test_a_coin_that_a_block_takes_while_the_network_is_asked_is_no_bug(
    world: "World", monkeypatch: pytest.MonkeyPatch
):
    """What refuses the transaction is that very block, and it has already taken the plan away."""
    (outpoint,) = await world.fund(100_000)
    await world.plan("one", 60_000)

    async def broadcast(_raw: bytes) -> Outcome:
        spent_otherwise(world, outpoint)
        return Outcome(False, "bad-txns-inputs-missingorspent")

    monkeypatch.setattr(world.backend, "broadcast", broadcast)
    with structlog.testing.capture_logs() as logs:
        refused = await refusal(world, wallet.SignAndSend("one"))
    assert "spent otherwise" in refused.sentence
    assert [entry for entry in logs if entry["event"] == "bug"] == []
    assert not await world.coins()


async def test_a_parent_that_is_lost_while_its_transaction_is_looked_for_is_no_bug(
    world: "World", monkeypatch: pytest.MonkeyPatch
):
    """The change of a payment that a block made impossible was to be spent."""
    (outpoint,) = await world.fund(100_000)
    await world.plan("one", 60_000)
    await world.ask(wallet.SignAndSend("one"))
    await world.plan("two", 20_000, minconf=0)
    ask = world.wallet._previous

    async def previous(txid: bytes) -> Transaction:
        found = await ask(txid)
        spent_otherwise(world, outpoint)
        return found

    monkeypatch.setattr(world.wallet, "_previous", previous)
    with structlog.testing.capture_logs() as logs:
        refused = await refusal(world, wallet.SignAndSend("two"))
    assert "no plan 'two'" in refused.sentence
    assert [entry for entry in logs if entry["event"] == "bug"] == []


async def test_coins_that_a_block_takes_while_they_are_lent_are_not_lent(
    world: "World", monkeypatch: pytest.MonkeyPatch
):
    """The parent of the coin left the chain, and something else spent what it had spent."""
    (outpoint,) = await world.fund(100_000)
    made = await world.address()
    await world.plan("one", None, script=made)
    await world.ask(wallet.SignAndSend("one"))
    await world.mine()
    save = world.wallet._save

    def slow(unit: Unit) -> asyncio.Future[None]:
        """The wait for the plan to be on disk, in which both is heard."""
        saved = save(unit)
        if not unit:
            monkeypatch.undo()
            gone = chain.BlockDisconnected(BlockHeight(world.chain.height), bytes(32))
            world.wallet.block_disconnected(gone)
            spent_otherwise(world, outpoint)
        return saved

    monkeypatch.setattr(world.wallet, "_save", slow)
    with structlog.testing.capture_logs() as logs:
        refused = await refusal(world, wallet.LendCoins("a close", Sat(20_000)))
    assert "while they were lent" in refused.sentence
    assert [entry for entry in logs if entry["event"] == "bug"] == []


async def test_what_was_taken_back_while_the_wallet_starts_is_not_sent(
    world: "World", monkeypatch: pytest.MonkeyPatch
):
    """A crash left two signed; while the first is sent, the network refuses the second and its coins are free again."""
    await world.fund(100_000, 100_000)
    for purpose in ("one", "two"):
        await world.plan(purpose, 60_000)
        signed = await world.wallet._sign(world.wallet._plan(purpose))
        await world.wallet._save(world.wallet._ledger.send(purpose, signed))
    first, second = (world.wallet._plan(purpose).txid for purpose in ("one", "two"))
    send = DirectBackend.broadcast

    async def broadcast(backend: DirectBackend, raw: bytes) -> Outcome:
        if Transaction.parse(raw).txid == first:
            monkeypatch.undo()
            backend.refusal = "min relay fee not met"
            await refusal(world, wallet.SignAndSend("two"))
            await world.ask(wallet.ReleasePlan("two"))
            backend.refusal = None
        return await send(backend, raw)

    monkeypatch.setattr(DirectBackend, "broadcast", broadcast)
    await world.restart()
    assert world.chain.transaction(first) is not None
    assert world.chain.transaction(second) is None
