"""What the signer accepts as a channel, and as a session."""

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from protocol.amounts import MAX_MONEY, Msat, Sat
from protocol.bus.messages import signer as contract
from signer.service import SignerService
from tests.signer.support import CAPACITY, Node, World

NO_POINT = b"\x05" * 33


@pytest.fixture
def unset(service: SignerService) -> World:
    return World(service, opened=False)


def tag(reply: contract.Reply) -> str:
    assert isinstance(reply, contract.Refused | contract.PeerFault), reply
    return reply.tag


def test_the_parameters_of_a_channel_are_fixed_for_ever(world: World) -> None:
    assert world.node.ask(world.setup) == contract.ChannelSetUp()
    for change in (
        {"anchors": False},
        {"push_msat": Msat(0)},
        {"holder_is_opener": False},
        {"fundings": (contract.Funding(b"\xac" * 32, 1, CAPACITY),)},
        {"counterparty": contract.Terms(Sat(546), 1)},
    ):
        assert tag(world.node.ask(replace(world.setup, **change))) == "setup-changed"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name",
    [
        "funding_pubkey",
        "revocation_basepoint",
        "payment_basepoint",
        "delayed_payment_basepoint",
        "htlc_basepoint",
    ],
)
def test_every_key_of_the_peer_is_a_point(unset: World, name: str) -> None:
    keys = replace(unset.setup.counterparty_keys, **{name: NO_POINT})
    reply = unset.node.ask(replace(unset.setup, counterparty_keys=keys))
    assert isinstance(reply, contract.PeerFault) and reply.tag == "counterparty-keys"
    assert unset.node.ask(unset.setup) == contract.ChannelSetUp()


def test_the_first_point_of_the_peer_is_a_point(unset: World) -> None:
    reply = unset.node.ask(replace(unset.setup, counterparty_first_point=NO_POINT))
    assert isinstance(reply, contract.PeerFault) and reply.tag == "counterparty-keys"


def test_the_peer_has_a_funding_key_of_its_own(unset: World) -> None:
    keys = replace(unset.setup.counterparty_keys, funding_pubkey=unset.drawn.keys.funding_pubkey)
    assert tag(unset.node.ask(replace(unset.setup, counterparty_keys=keys))) == "counterparty-keys"


@pytest.mark.parametrize("side", ["holder", "counterparty"])
@pytest.mark.parametrize(("dust", "delay"), [(353, 144), (10_001, 144), (546, 0), (546, 2017), (546, -1)])
def test_dust_limits_and_delays_are_sane(unset: World, side: str, dust: int, delay: int) -> None:
    change: dict[str, Any] = {side: contract.Terms(Sat(dust), delay)}
    assert tag(unset.node.ask(replace(unset.setup, **change))) == f"{side}-terms"
    good: dict[str, Any] = {side: contract.Terms(Sat(354), 2016)}
    assert unset.node.ask(replace(unset.setup, **good)) == contract.ChannelSetUp()


@pytest.mark.parametrize(
    "change",
    [
        {"fundings": ()},
        {
            "fundings": (
                contract.Funding(b"\xab" * 32, 0, CAPACITY),
                contract.Funding(b"\xac" * 32, 0, CAPACITY),
            )
        },
        {"fundings": (contract.Funding(b"\xab" * 32, 0, Sat(MAX_MONEY + 1)),)},
        {"fundings": (contract.Funding(b"\xab" * 32, 0, Sat(0)),), "push_msat": Msat(0)},
        {"fundings": (contract.Funding(b"\xab" * 32, 65536, CAPACITY),)},
        {"push_msat": Msat(1000 * CAPACITY + 1)},
        {"push_msat": Msat(-1)},
    ],
)
def test_the_funding_is_a_possible_one(unset: World, change: dict[str, Any]) -> None:
    assert tag(unset.node.ask(replace(unset.setup, **change))) == "funding"


def test_a_channel_is_used_after_it_was_drawn_and_set_up(unset: World) -> None:
    node, handle = unset.node, unset.drawn.channel
    assert tag(node.ask(contract.ChannelRequest(handle, ()))) == "channel-not-set-up"
    assert tag(node.ask(contract.ChannelRequest(b"\x00" * 16, ()))) == "channel-unknown"
    assert tag(node.ask(replace(unset.setup, channel=b"\x00" * 16))) == "channel-unknown"


def test_one_request_draws_one_channel(unset: World) -> None:
    node = unset.node
    assert node.ask(contract.NewChannel(b"\x01" * 32, unset.peer_id)) == unset.drawn
    other = node.ask(contract.NewChannel(b"\x02" * 32, unset.peer_id))
    assert isinstance(other, contract.ChannelDrawn)
    assert other.channel != unset.drawn.channel and other.keys != unset.drawn.keys
    assert other.points[0] != unset.drawn.points[0] and other.shutdown_script != unset.drawn.shutdown_script
    assert tag(node.ask(contract.NewChannel(b"\x01" * 32, unset.drawn.points[0]))) == "channel-changed"
    assert tag(node.ask(contract.NewChannel(b"\x03" * 32, NO_POINT))) == "peer-id"


def test_the_indexes_of_a_channel_are_never_drawn_twice(
    unset: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    (old,) = unset.service.storage.all("SELECT high, low FROM channel ORDER BY id")
    drawn = iter([*old, *old, old[0], 5])
    monkeypatch.setattr("signer.channels.secrets.randbits", lambda bits: next(drawn))
    other = unset.node.ask(contract.NewChannel(b"\x02" * 32, unset.peer_id))
    assert isinstance(other, contract.ChannelDrawn) and other.keys != unset.drawn.keys
    assert unset.service.storage.all("SELECT high, low FROM channel ORDER BY id") == [old, (old[0], 5)]


def test_a_newer_session_fences_the_older(world: World) -> None:
    old = world.node
    new = Node(world.service)
    assert new.session == old.session + 1
    assert tag(old.ask(contract.ChannelNumbers())) == "session-fenced"
    assert tag(old.ask(contract.StaticKeyStep(bytes(32), world.peer_id))) == "session-fenced"
    assert isinstance(new.ask(contract.ChannelNumbers()), contract.Numbers)


def test_nothing_is_answered_before_hello(tmp_path: Path, service: SignerService) -> None:
    call = contract.SignerCall(1, 0, 1000, contract.ChannelNumbers())
    (reply,) = service.handle_batch([call])
    assert tag(reply.reply) == "session-fenced"


def test_both_ends_run_on_one_network_and_contract(world: World) -> None:
    assert tag(world.node.ask(contract.Hello("mainnet"))) == "hello"
    assert tag(world.node.ask(contract.Hello("regtest", contract.CONTRACT_VERSION + 1))) == "hello"
    assert isinstance(world.node.ask(contract.ChannelNumbers()), contract.Numbers)
