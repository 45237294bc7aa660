"""Which channel carries an amount, by the payment service's own account."""

import pytest
from msgspec.structs import replace

from node.payments.channels import ChannelBook, ChannelList
from protocol.amounts import Msat
from protocol.bus.bus import OutcomeUnknown
from protocol.bus.messages.channel import ChannelInfo, HtlcInfo, ListChannels
from tests.node.payments.support import CHANNEL, OTHER_CHANNEL, PAYEE_ID, STRANGER_ID, channel_info


def book(*channels) -> ChannelBook:
    book = ChannelBook()
    book.asking()
    book.learn(channels)
    return book


def chosen(book: ChannelBook, amount: int, **but) -> bytes | None:
    found = book.choose(PAYEE_ID, Msat(amount), **but)
    return None if found is None else found.channel_id


def test_the_channel_with_the_most_left_is_chosen():
    two = book(channel_info(spendable=1000), channel_info(OTHER_CHANNEL, spendable=2000))
    assert chosen(two, 500) == OTHER_CHANNEL
    two.offered(OTHER_CHANNEL, Msat(1500))
    assert chosen(two, 500) == CHANNEL


def test_what_was_offered_is_not_spent_twice():
    one = book(channel_info(spendable=1000))
    one.offered(CHANNEL, Msat(600))
    assert chosen(one, 401) is None
    assert chosen(one, 400) == CHANNEL


def test_what_came_back_can_be_spent_again_but_no_more_than_that():
    one = book(channel_info(spendable=1000))
    one.offered(CHANNEL, Msat(600))
    one.came_back(CHANNEL, Msat(600))
    one.came_back(CHANNEL, Msat(600))
    assert chosen(one, 1000) == CHANNEL
    assert chosen(one, 1001) is None


def test_channels_that_are_away_closing_tried_or_of_others_are_not_chosen():
    assert chosen(book(channel_info(connected=False)), 1) is None
    assert chosen(book(channel_info(state="CHANNELD_SHUTTING_DOWN")), 1) is None
    assert chosen(book(channel_info(peer=STRANGER_ID)), 1) is None
    assert chosen(book(channel_info()), 1, but={CHANNEL}) is None
    assert chosen(book(channel_info()), 1) == CHANNEL


def test_routes_begin_only_at_channels_that_carry_something_now():
    away = (
        channel_info(connected=False),
        channel_info(state="CHANNELD_SHUTTING_DOWN"),
        channel_info(spendable=0),
        replace(channel_info(), reestablished=False),
    )
    assert [book(channel).first_hops() for channel in away] == [()] * 4
    assert book(channel_info()).first_hops(but={CHANNEL}) == ()
    ours = tuple(HtlcInfo(True, n, Msat(1), bytes(32), 600, "SENT_ADD_HTLC") for n in range(4))
    theirs = (HtlcInfo(False, 0, Msat(1), bytes(32), 600, "RCVD_ADD_HTLC"),)
    narrow = replace(
        channel_info(), peer_max_accepted_htlcs=5, peer_htlc_minimum=Msat(7), htlcs=ours + theirs
    )
    (hop,) = book(narrow).first_hops()
    assert (hop.slots, hop.htlc_minimum_msat, hop.spendable_msat) == (1, 7, 1_000_000)


def test_why_not_names_the_limit():
    assert "no channel with the recipient" in book().why_not(PAYEE_ID, Msat(1))
    assert "not connected" in book(channel_info(connected=False)).why_not(PAYEE_ID, Msat(1))
    assert "CHANNELD_AWAITING_LOCKIN" in book(channel_info(state="CHANNELD_AWAITING_LOCKIN")).why_not(
        PAYEE_ID, Msat(1)
    )
    assert "can send 1000 msat now, 1001" in book(channel_info(spendable=1000)).why_not(PAYEE_ID, Msat(1001))


def test_what_is_offered_while_the_list_is_on_its_way_is_not_in_it():
    one = book(channel_info(spendable=1000))
    one.offered(CHANNEL, Msat(100))
    one.asking()
    one.offered(CHANNEL, Msat(300))
    one.learn((channel_info(spendable=900),))
    assert chosen(one, 601) is None
    assert chosen(one, 600) == CHANNEL


def test_news_while_the_list_is_on_its_way_asks_for_another():
    one = book(channel_info())
    one.asking()
    one.outdated = True
    one.learn((channel_info(),))
    assert one.outdated


async def test_a_list_that_could_not_be_had_is_asked_for_again():
    """Otherwise the old one would count as new, with channels in it that are closed by now."""

    async def nobody_answers(_request: ListChannels) -> tuple[ChannelInfo, ...]:
        raise OutcomeUnknown("the channel service did not answer")

    channels = ChannelList(nobody_answers)
    with pytest.raises(OutcomeUnknown):
        await channels.refresh()
    assert channels.book.outdated
