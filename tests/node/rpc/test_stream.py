"""Finding the borders of JSON objects in a stream."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.rpc.stream import MAX_REQUEST, JsonStream, NotJson, TooLarge

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.text(), values, max_size=4)


@given(
    st.lists(objects, max_size=4),
    st.sampled_from(["", " ", "\n", "\r\n\t"]),
    st.integers(1, 9),
    st.booleans(),
)
def test_objects_are_found_however_the_stream_is_cut(sent, between: str, size: int, ascii_only: bool):
    data = between.join(json.dumps(one, ensure_ascii=ascii_only) for one in sent).encode()
    stream, found = JsonStream(), []
    for at in range(0, len(data), size):
        found += stream.feed(data[at : at + size])
    assert [json.loads(text) for text in found] == sent


def test_brackets_quotes_and_escapes_in_strings_end_nothing():
    text = rb'{"a":"}]{[\"\\","b":[{}]}'
    assert JsonStream().feed(text + text) == [text, text]


@pytest.mark.parametrize("data", [b"[1]", b"1", b"x", b'"text"', b"}", b'{"a":1},{"b":2}', b"GET / HTTP/1.1"])
def test_anything_but_an_object_is_refused(data: bytes):
    with pytest.raises(NotJson):
        JsonStream().feed(data)


def test_a_request_beyond_the_limit_is_refused_whole_or_in_pieces():
    def request(size: int) -> bytes:
        return b'{"a":"' + b"x" * (size - 8) + b'"}'

    assert len(JsonStream().feed(request(MAX_REQUEST))) == 1
    with pytest.raises(TooLarge):
        JsonStream().feed(request(MAX_REQUEST + 1))
    stream = JsonStream()
    stream.feed(request(MAX_REQUEST * 2)[:MAX_REQUEST])
    with pytest.raises(TooLarge):
        stream.feed(b"xx")


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(data: bytes):
    try:
        JsonStream().feed(data)
    except NotJson:
        pass
