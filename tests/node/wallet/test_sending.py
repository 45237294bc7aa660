"""Plans on their way through the real signer to the chain, and all that may go wrong there."""

import asyncio
from typing import TYPE_CHECKING

import pytest

from protocol.bitcoin import psbt
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
