"""Which messages are gossip, and the honest empty answer of a node without a gossip service (BOLT 7)."""

from protocol.wire import bolt7_gossip, decode, encode

GOSSIP_TYPES = range(256, 266)
"""Even ones are among them, so they have to be known although nothing is done with them (260 is a draft)."""
_QUERIES = (bolt7_gossip.QueryShortChannelIds.TYPE, bolt7_gossip.QueryChannelRange.TYPE)


def is_query(message_type: int) -> bool:
    return message_type in _QUERIES


def answer(frame: bytes) -> bytes:
    """The reply to a query. Raises MalformedMessage for a query that cannot be read.

    The same for a chain that we do not know: "nothing, and that is complete" is true of both.
    """
    query = decode(frame)
    match query:
        case bolt7_gossip.QueryShortChannelIds() | bolt7_gossip.QueryChannelRange():
            return encode(bolt7_gossip.empty_answer(query))
        case _:
            raise ValueError(f"not a gossip query: {type(query).__name__}")
