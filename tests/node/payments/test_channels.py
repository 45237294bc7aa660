"""Which channel carries an amount, by the payment service's own account."""

from node.payments.channels import ChannelBook
from protocol.amounts import Msat
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
