"""Address descriptors of node_announcement: what we write, and what we make of what others wrote."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.bolt7 import addresses
from protocol.bolt7.addresses import DNS, IPV4, IPV6, TOR_V3, Address
from protocol.errors import MalformedMessage

KEY = bytes(range(32))
ONION = base64.b32encode(KEY + addresses.onion_checksum(KEY) + b"\3").decode().lower() + ".onion"
V4 = b"\x01\xcb\x00\x71\x07\x26\x07"
V6 = b"\x02" + bytes.fromhex("20010db8000000000000000000000007") + b"\x26\x07"
V2 = b"\x03" + bytes(10) + b"\x26\x07"
V3 = b"\x04" + KEY + addresses.onion_checksum(KEY) + b"\3" + b"\x26\x07"
NAME = b"\x05\x0bexample.com\x26\x07"


def test_every_type_that_we_know_is_read():
    found = addresses.parse(V4 + V6 + V3 + NAME)
    assert found.relayable
    assert found.addresses == (
        Address(IPV4, "203.0.113.7", 9735),
        Address(IPV6, "2001:db8::7", 9735),
        Address(TOR_V3, ONION, 9735),
        Address(DNS, "example.com", 9735),
    )


def test_addresses_are_written_in_ascending_order_and_once():
    """checklist 58: kept."""
    wanted = [
        addresses.of_host(host, 9735) for host in ("example.com", ONION, "2001:db8::7", "203.0.113.7", ONION)
    ]
    assert addresses.encode(tuple(wanted)) == V4 + V6 + V3 + NAME


def test_at_most_one_dns_name_is_written():
    """checklist 58, broken by ourselves."""
    two = (addresses.of_host("a.example", 1), addresses.of_host("b.example", 1))
    with pytest.raises(ValueError, match="at most one DNS name"):
        addresses.encode(two)


def test_a_second_dns_name_ends_reading_and_relaying():
    """checklist 58, broken by the peer: the rest is ignored and the message is not for others."""
    found = addresses.parse(V4 + NAME + NAME + V6)
    assert not found.relayable
    assert [address.kind for address in found.addresses] == [IPV4, DNS]


@pytest.mark.parametrize("kind", [0, 6, 200])
def test_an_unknown_type_stops_reading_but_not_the_message(kind: int):
    """checklist 58: what follows cannot be understood; it is no fault."""
    found = addresses.parse(V4 + bytes([kind]) + b"\xff\xff\xff" + V6)
    assert found == ((Address(IPV4, "203.0.113.7", 9735),), True)


@pytest.mark.parametrize("data", [V4[:-1], V6[:-1], V2[:-1], V3[:-1], NAME[:-1], b"\x05", V4 + b"\x01"])
def test_a_known_type_that_is_cut_off_is_malformed(data: bytes):
    """checklist 58, broken: addrlen does not hold what it announces."""
    with pytest.raises(MalformedMessage):
        addresses.parse(data)


@pytest.mark.parametrize(
    "data",
    [
        V2,
        V4[:-2] + b"\0\0",
        NAME[:-2] + b"\0\0",
        b"\x04" + KEY + b"\0\0\3" + b"\x26\x07",
        b"\x05\x09a\x1b[31mred\x26\x07",
        b"\x05\x00\x26\x07",
        b"\x05\x03\xc3\xa9.\x26\x07",
    ],
)
def test_what_cannot_be_dialled_is_left_out(data: bytes):
    """Tor v2, port 0, an onion with a wrong checksum, and names that are none."""
    assert addresses.parse(data) == ((), True)


@pytest.mark.parametrize(
    ("host", "port"), [("not a host", 1), ("x.onion", 1), ("é.example", 1), ("example.com", 0), ("", 9)]
)
def test_what_cannot_be_announced_is_refused_with_a_reason(host: str, port: int):
    with pytest.raises(ValueError):
        addresses.of_host(host, port)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_malformed(data: bytes):
    try:
        found = addresses.parse(data)
    except MalformedMessage:
        return
    assert all(1 <= address.port <= 0xFFFF for address in found.addresses)
    if len({a.kind for a in found.addresses if a.kind == DNS}) <= 1:
        again = addresses.parse(addresses.encode(found.addresses))
        assert set(again.addresses) == set(found.addresses)
