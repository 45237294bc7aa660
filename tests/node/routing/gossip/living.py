"""A house with a channel of its own, and what a test does with its peer."""

from pathlib import Path

from msgspec.structs import replace

from protocol.amounts import ShortChannelId, scid
from protocol.bus.messages import channel as said
from protocol.wire import encode
from protocol.wire.bolt7_gossip import AnnouncementSignatures
from tests.node.routing.gossip import synth
from tests.node.routing.gossip.conftest import Make
from tests.node.routing.gossip.house import POLICY, House, own_info, turns

US, PEER, OTHER = 20, 21, 22
PUBLIC = synth.channel(US, PEER, 800)
ALIAS = scid(16_000_000, 5, 5)


async def built(
    house: Make, number: int = US, peer: int = PEER, *, path: Path | None = None, **changes: object
) -> House:
    """A house with one channel, which its peer sees as well; it is not started yet."""
    one = await house(number, start=False, path=path)
    info = own_info(number, peer, PUBLIC, **changes)
    one.channels.infos[info.channel_id] = info
    one.payments.policies[info.channel_id] = POLICY
    one.signer.peer_of[info.handle] = peer
    return one


async def living(
    house: Make, number: int = US, peer: int = PEER, *, path: Path | None = None, **changes: object
) -> House:
    """The same, started; the peer is not connected yet."""
    return await (await built(house, number, peer, path=path, **changes)).start()


def the_id(number: int = US, peer: int = PEER) -> bytes:
    return bytes([number, peer]) * 16


async def change(one: House, **changes: object) -> None:
    channel_id = next(iter(one.channels.infos))
    one.channels.infos[channel_id] = replace(one.channels.infos[channel_id], **changes)
    one.bus.publish(said.ChannelsTouched((channel_id,)))
    await turns()
    await one.tick()
    await turns(40)


def theirs(scid_named: ShortChannelId = PUBLIC.place, number: int = PEER) -> bytes:
    both = synth.end_signatures(PUBLIC.place, number, US)
    return encode(AnnouncementSignatures(the_id(), scid_named, both.node_signature, both.bitcoin_signature))


def heard(one: House, kind: type, number: int = PEER) -> list[object]:
    return [message for message in one.peers.said_to(number) if isinstance(message, kind)]


async def connect(one: House, number: int = PEER, connection: int = 1) -> None:
    one.up(number, connection)
    await turns()
    await change(one, reestablished=True)
