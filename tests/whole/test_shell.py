"""The shell of a channel when its signer goes away with a question: it asks again by itself."""

import asyncio
import os
from pathlib import Path

import pytest

from node.channel import channel as shell
from node.channel import store
from node.channel.channel import Answered, Channel
from node.channel.events import Env, Offer, Tick
from node.channel.state import Htlc, OfferWant, State, Volatile
from node.signer_link.client import SignerAway
from protocol.amounts import BlockHeight, Msat
from protocol.bus.messages import signer as sign
from tests.node.channel.pair import Pair, invoice, onion_for, open_channel

ENV = Env(height=BlockHeight(110))


class Outside:
    """What a channel service does for a channel, by hand."""

    keeps_revoked = False

    def __init__(self) -> None:
        self.asked: list[tuple[sign.Request, Answered]] = []
        self.effects: list[object] = []
        self.due: list[Channel] = []
        self.again = asyncio.Event()

    def save(self, _unit: store.Unit, *, now: bool) -> asyncio.Future[None]:
        saved: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        saved.set_result(None)
        return saved

    def ask(self, request: sign.Request, answered: Answered) -> None:
        self.asked.append((request, answered))

    def stalled(self, channel: Channel) -> None: ...

    def revocation_accepted(self) -> None: ...

    def later(self, channel: Channel) -> None:
        self.due.append(channel)
        if len(self.due) > 1:
            self.again.set()

    def perform(self, _channel: Channel, effect: object) -> None:
        self.effects.append(effect)

    def peels(self) -> list[Answered]:
        return [answered for request, answered in self.asked if isinstance(request, sign.PeelOnions)]


@pytest.fixture
def with_unpeeled_htlc(tmp_path: Path) -> State:
    """The payee's state when an HTLC has arrived whose onion nobody has read yet."""
    pair = Pair(tmp_path)
    open_channel(pair, push=3_000_000_000)
    made = invoice(pair.bob, 50_000_000)
    onion = onion_for(pair.bob, made, 50_000_000, 200)
    pair.alice.do(Offer(OfferWant(Msat(50_000_000), made.payment_hash, 200, onion, os.urandom(4).hex())))
    pair.quiet()
    state = pair.bob.state
    assert state is not None
    ((key, row),) = state.htlcs.items()
    values = {name: getattr(row, name) for name in Htlc.__struct_fields__}
    values.update(onion=onion, payload=None, next_onion=None, um=None, ammag=None)
    return State(state.committed, {key: Htlc(**values)}, Volatile())


@pytest.mark.parametrize("lost", [SignerAway("it died"), sign.NotNow("busy")], ids=["away", "not now"])
async def test_onions_that_the_signer_did_not_peel_are_asked_again(
    with_unpeeled_htlc: State, monkeypatch: pytest.MonkeyPatch, lost: sign.Reply | Exception
) -> None:
    monkeypatch.setattr(shell, "MIN_RETRY_SECONDS", 0.0)
    outside = Outside()
    channel = Channel(1, with_unpeeled_htlc, outside)
    channel.put(Tick())
    channel.turn(ENV)
    (answered,) = outside.peels()
    answered(lost)
    answered(lost)  # two questions may be lost together; one retry serves both
    await asyncio.wait_for(outside.again.wait(), 5)
    channel.turn(ENV)
    assert len(outside.peels()) == 2
