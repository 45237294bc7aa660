"""What Tor can reach, and what an onion address is (rend-spec-v3)."""

import pytest

from tests.transports.tor.fakes import NOBODY, ONION
from transports.tor.addresses import is_onion, onion_host, through_tor


@pytest.mark.parametrize("address", [NOBODY, ONION])
def test_an_onion_address_is_taken_in_any_case(address: str) -> None:
    assert onion_host(address.upper()) == address
    assert is_onion(address.upper() + ".")


@pytest.mark.parametrize(
    ("address", "why"),
    [
        (NOBODY.replace("2gz", "2gy"), "misspelled"),
        ("expyuzz4wqqyqhjn.onion", "version 2"),
        ("short.onion", "56 characters"),
        ("1" * 56 + ".onion", "characters other than"),
        ("a" * 56 + ".onion", "misspelled"),
    ],
)
def test_a_wrong_onion_address_says_what_is_wrong(address: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        through_tor(f"{address}:9735")


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:9735",
        "192.168.1.5:9735",
        "10.0.0.1:1",
        "169.254.0.1:1",
        "[::1]:1",
        "[fd00::1]:1",
        "localhost:1",
        "printer.local:1",
        "0.0.0.0:1",
    ],
)
def test_what_is_in_the_local_network_is_not_asked_of_tor(address: str) -> None:
    with pytest.raises(ValueError, match="local network"):
        through_tor(address)


@pytest.mark.parametrize("host", ["a..example", f"{'x' * 64}.example", "näme.example"])
def test_what_is_no_host_name_is_refused(host: str) -> None:
    with pytest.raises(ValueError, match="not a host name"):
        through_tor(f"{host}:1")


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("203.1.113.7:9735", ("203.1.113.7", 9735)),
        ("node.example.org:1", ("node.example.org", 1)),
        ("[2a00::7]:2", ("2a00::7", 2)),
        (f"{ONION}:3", (ONION, 3)),
    ],
)
def test_what_tor_reaches_is_split(address: str, parts: tuple[str, int]) -> None:
    assert through_tor(address) == parts
