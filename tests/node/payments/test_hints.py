"""Which private channels an invoice names (BOLT 11, "`r` field"), and what can come in."""

from msgspec.structs import replace

from node.payments.hints import MAX_HINTS, receivable, route_hints
from protocol.amounts import Msat
from protocol.bus.messages.channel import ChannelInfo
from protocol.bus.messages.routing import ChannelPolicy
from tests.node.payments.support import OTHER_CHANNEL, channel_info

POLICY = ChannelPolicy(Msat(1000), 10, 40, Msat(1), Msat(10**9))


async def known(_channel_id: bytes) -> ChannelPolicy | None:
    return POLICY


async def unknown(_channel_id: bytes) -> ChannelPolicy | None:
    return None


def private(n: int) -> ChannelInfo:
    return replace(channel_info(bytes([n]) * 32), announce=False, alias_remote=n, receivable_msat=Msat(n))


async def test_an_invoice_names_only_the_few_channels_through_which_most_can_come_in():
    """A node with hundreds of private channels would else make invoices that no code can be made of."""

    hints = await route_hints([private(n) for n in range(1, 7)], known, expose=None)
    assert MAX_HINTS == 4
    assert [hop[1] for (hop,) in hints] == [6, 5, 4, 3]


async def test_a_channel_that_its_peer_has_switched_off_is_not_named():
    async def one_is_off(channel_id: bytes) -> ChannelPolicy:
        return replace(POLICY, enabled=channel_id != bytes([2]) * 32)

    hints = await route_hints([private(1), private(2)], one_is_off, expose=True)
    assert [hop[1] for (hop,) in hints] == [1]


async def test_a_hint_names_the_alias_of_the_peer_and_never_a_secret_place():
    """checklist 12: the real short channel id must not stand in an invoice with type bit 46."""
    private = replace(channel_info(), alias_remote=99, scid_alias_only=True)
    nameless = replace(private, channel_id=OTHER_CHANNEL, alias_remote=None)
    hints = await route_hints((private, nameless), known, expose=None)
    assert hints == (((private.peer, 99, 1000, 10, 40),),)


async def test_hints_are_left_out_when_they_are_not_needed_not_wanted_or_not_known():
    private, public = channel_info(), replace(channel_info(OTHER_CHANNEL), announce=True)
    assert await route_hints((private, public), known, expose=None) == ()
    assert len(await route_hints((private, public), known, expose=True)) == 1
    assert await route_hints((private,), known, expose=False) == ()
    assert await route_hints((private,), unknown, expose=True) == ()
    assert await route_hints((channel_info(connected=False),), known, expose=True) == ()
    assert await route_hints((channel_info(state="CHANNELD_SHUTTING_DOWN"),), known, expose=True) == ()


def test_receivable_says_what_limits_it():
    assert "no channel" in receivable(()).reason
    assert (
        receivable((channel_info(connected=False),)).reason
        == "no channel is usable now (the peer is not connected)"
    )
    two = receivable((channel_info(), channel_info(OTHER_CHANNEL)))
    assert (two.total_msat, two.largest_msat) == (78_000_000, 39_000_000)
    assert "largest" in two.reason
    empty = receivable((replace(channel_info(), receivable_msat=Msat(0)),))
    assert "reserve" in empty.reason
