"""The table `tor`: what is refused, and the forms of a control port."""

from typing import Any

import pytest

from protocol.secret import Secret
from transports.tor.settings import Mode, Settings, TcpControl, UnixControl


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ({"mode": "off"}, "tor.mode"),
        ({"socks": "localhost:9050"}, "write an IP address, such as 127.0.0.1:9050"),
        ({"socks": "9050"}, "host:port"),
        ({"control": "tor.example:9051"}, "tor.control"),
        ({"control": "unix:run/tor"}, "path from the root"),
        ({"onion_port": 0}, "tor.onion_port"),
        ({"mode": "managed", "password": Secret(b"x")}, "tor.password is for"),
        ({"mode": "system", "options": ["UseBridges 1"]}, "tor.options are for"),
        ({"mode": "managed", "options": ["UseBridges 1\nSocksPort 0.0.0.0:1"]}, "one option an entry"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(table: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Settings.read(table)


def test_settings_are_read_with_their_defaults() -> None:
    settings = Settings.read({})
    assert (settings.mode, settings.clear_through_tor, settings.onion_port) == (Mode.MANAGED, True, 9735)
    assert settings.control == TcpControl("127.0.0.1", 9051)
    assert Settings.read({"control": "unix:/run/tor/control"}).control == UnixControl("/run/tor/control")
    assert not Settings.read({"clear": "off"}).clear_through_tor
    assert not Settings.read({"clear": "direct"}).clear_through_tor
