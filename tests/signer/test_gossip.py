"""What the signer says of us in public: rules that hold, and each of them broken."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from protocol.amounts import Msat, ShortChannelId, scid
from protocol.bitcoin.network import REGTEST
from protocol.bolt7 import addresses
from protocol.bolt7 import announcement as bolt7
from protocol.bus.messages import signer as contract
from protocol.curve import verify_ecdsa
from signer.service import SignerService
from tests.signer.support import CAPACITY, PASSPHRASE, Node, World, make_service

NOW = 1_800_000_000
PLACE = scid(120, 1, 1)
"""The funding output of `World` is output 1."""


@pytest.fixture
def world(service: SignerService) -> World:
    world = World(service)
    service._gossip.clock = lambda: float(NOW)
    return world


def tag(reply: contract.Reply) -> str:
    assert isinstance(reply, contract.Refused | contract.PeerFault), reply
    return reply.tag


def announcement(world: World, place: ShortChannelId = PLACE) -> contract.SignChannelAnnouncement:
    return contract.SignChannelAnnouncement(world.drawn.channel, place, world.peer_id)


def update(world: World, **changes: object) -> contract.SignChannelUpdate:
    usual = contract.SignChannelUpdate(
        channel=world.drawn.channel,
        short_channel_id=PLACE,
        timestamp=NOW,
        dont_forward=True,
        disabled=False,
        cltv_expiry_delta=40,
        htlc_minimum_msat=Msat(1),
        htlc_maximum_msat=Msat(900_000_000),
        fee_base_msat=Msat(1000),
        fee_proportional_millionths=10,
    )
    return replace(usual, **changes)


def node(**changes: object) -> contract.SignNodeAnnouncement:
    usual = contract.SignNodeAnnouncement(
        features=b"\x02",
        timestamp=NOW,
        rgb_color=b"\1\2\3",
        alias=bolt7.padded_alias("dove"),
        addresses=addresses.encode((addresses.of_host("203.0.113.7", 9735),)),
    )
    return replace(usual, **changes)


# Channel announcements.


def test_our_two_signatures_hold_in_the_announcement(world: World) -> None:
    """checklist 61: over the message that both ends build."""
    reply = world.node.ask(announcement(world))
    assert isinstance(reply, contract.ChannelAnnouncementSigned)
    us = world.node.welcome.node_id
    ends = bolt7.ChannelEnds(
        REGTEST.chain_hash,
        PLACE,
        us,
        world.peer_id,
        world.drawn.keys.funding_pubkey,
        world.peer.public.funding_pubkey,
    )
    digest = bolt7.digest_of_announcement(bolt7.channel_announcement(ends))
    assert verify_ecdsa(us, digest, reply.node_signature)
    assert verify_ecdsa(world.drawn.keys.funding_pubkey, digest, reply.bitcoin_signature)
    assert world.node.ask(announcement(world)) == reply


def test_an_announcement_needs_a_channel_that_was_set_up(service: SignerService) -> None:
    unset = World(service, opened=False)
    assert tag(unset.node.ask(announcement(unset))) == "channel-not-set-up"
    unknown = replace(announcement(unset), channel=b"\x09" * 16)
    assert tag(unset.node.ask(unknown)) == "channel-unknown"


def test_announcement_names_the_peer_of_the_channel(world: World) -> None:
    wrong = replace(announcement(world), counterparty_node_id=world.node.welcome.node_id)
    assert tag(world.node.ask(wrong)) == "announce-peer"


@pytest.mark.parametrize("place", [scid(120, 1, 0), scid(120, 1, 2), ShortChannelId(1 << 63 | 1)])
def test_announcement_names_the_funding_output(world: World, place: ShortChannelId) -> None:
    assert tag(world.node.ask(announcement(world, place))) == "announce-output"


def test_one_funding_output_has_one_place_also_after_a_restart(tmp_path: Path) -> None:
    service = make_service(tmp_path / "signer", in_memory=False)
    world = World(service)
    assert isinstance(world.node.ask(announcement(world)), contract.ChannelAnnouncementSigned)
    elsewhere = announcement(world, scid(121, 1, 1))
    assert tag(world.node.ask(elsewhere)) == "announce-place"
    service.close()
    again = SignerService(tmp_path / "signer", PASSPHRASE)
    assert tag(Node(again).ask(elsewhere)) == "announce-place"
    assert isinstance(Node(again).ask(announcement(world)), contract.ChannelAnnouncementSigned)
    again.close()


@pytest.mark.parametrize("features", [b"\0\1", b"\1" * 33])
def test_features_of_an_announcement_are_short_and_minimal(world: World, features: bytes) -> None:
    assert tag(world.node.ask(replace(announcement(world), features=features))) == "announce-features"


# Channel updates.


def test_update_is_signed_for_our_direction(world: World) -> None:
    reply = world.node.ask(update(world))
    assert isinstance(reply, contract.ChannelUpdateSigned)
    us = world.node.welcome.node_id
    fields = bolt7.UpdateFields(PLACE, NOW, True, False, 40, Msat(1), Msat(900_000_000), Msat(1000), 10)
    direction = bolt7.direction_of(us, world.peer_id)
    frame = bolt7.channel_update(fields, REGTEST.chain_hash, direction)
    assert verify_ecdsa(us, bolt7.digest_of_signed(frame), reply.signature)


def test_a_public_update_waits_for_the_announcement(world: World) -> None:
    """checklist 57: without dont_forward only at the place that was announced."""
    assert tag(world.node.ask(update(world, dont_forward=False))) == "update-place"
    world.node.ask(announcement(world))
    assert isinstance(world.node.ask(update(world, dont_forward=False)), contract.ChannelUpdateSigned)
    elsewhere = update(world, dont_forward=False, short_channel_id=scid(5, 5, 1), timestamp=NOW + 1)
    assert tag(world.node.ask(elsewhere)) == "update-place"
    alias = update(world, short_channel_id=scid(5, 5, 1), timestamp=NOW + 1)
    assert isinstance(world.node.ask(alias), contract.ChannelUpdateSigned)


def test_timestamps_of_an_update_rise(world: World) -> None:
    """checklist 57: newer content has a newer time; the same message again has the same answer."""
    first = world.node.ask(update(world))
    assert world.node.ask(update(world)) == first
    assert tag(world.node.ask(update(world, fee_base_msat=Msat(7)))) == "gossip-time"
    assert tag(world.node.ask(update(world, timestamp=NOW - 1))) == "gossip-time"
    newer = update(world, fee_base_msat=Msat(7), timestamp=NOW + 1)
    assert isinstance(world.node.ask(newer), contract.ChannelUpdateSigned)
    assert tag(world.node.ask(update(world))) == "gossip-time"


@pytest.mark.parametrize("timestamp", [NOW + 3_601, 0, 5, -1, 1 << 33])
def test_a_timestamp_is_of_our_time(world: World, timestamp: int) -> None:
    assert tag(world.node.ask(update(world, timestamp=timestamp))) == "gossip-time"
    assert tag(world.node.ask(node(timestamp=timestamp))) == "gossip-time"


@pytest.mark.parametrize(
    "changes",
    [
        {"htlc_maximum_msat": Msat(1000 * CAPACITY + 1)},
        {"htlc_minimum_msat": Msat(900_000_001)},
        {"htlc_minimum_msat": Msat(-1)},
        {"cltv_expiry_delta": 65_536},
        {"fee_base_msat": Msat(1 << 32)},
        {"fee_proportional_millionths": -1},
    ],
)
def test_update_promises_nothing_impossible(world: World, changes: dict[str, object]) -> None:
    """checklist 57: the largest HTLC is at most the capacity, and every number fits into its field."""
    assert tag(world.node.ask(update(world, **changes))) == "update-fields"


# Node announcements.


def test_node_announcement_is_signed(world: World) -> None:
    """checklist 58: kept."""
    request = node()
    reply = world.node.ask(request)
    assert isinstance(reply, contract.NodeAnnouncementSigned)
    us = world.node.welcome.node_id
    fields = bolt7.NodeFields(
        request.features, request.timestamp, request.rgb_color, request.alias, request.addresses
    )
    frame = bolt7.node_announcement(fields, us)
    assert verify_ecdsa(us, bolt7.digest_of_signed(frame), reply.signature)
    assert tag(world.node.ask(node(alias=bolt7.padded_alias("other")))) == "gossip-time"
    assert isinstance(
        world.node.ask(node(alias=bolt7.padded_alias("other"), timestamp=NOW + 1)),
        contract.NodeAnnouncementSigned,
    )


_TWO_NAMES = b"\x05\x01a\x00\x01" + b"\x05\x01b\x00\x01"
_DESCENDING = b"\x02" + bytes(15) + b"\1\0\1" + b"\x01\1\2\3\4\0\1"


@pytest.mark.parametrize(
    "changes",
    [
        {"rgb_color": b"\1\2"},
        {"alias": b"\xff" * 32},
        {"alias": b"a\0b".ljust(32, b"\0")},
        {"addresses": _TWO_NAMES},
        {"addresses": _DESCENDING},
        {"addresses": b"\x01\1\2\3\4\0\0"},
        {"addresses": b"\x01\1\2"},
        {"addresses": b"\xc8unknown"},
    ],
)
def test_node_announcement_is_what_bolt_7_allows(world: World, changes: dict[str, object]) -> None:
    """checklist 58, broken: color, alias, and addresses out of order, cut off, unknown, or with two DNS names."""
    assert tag(world.node.ask(node(**changes))) == "node-fields"
