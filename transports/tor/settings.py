"""The settings of the tor transport, checked once (the table `tor` of the config)."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from protocol.secret import Secret
from transports.tor.addresses import loopback_endpoint


class Mode(Enum):
    MANAGED = "managed"
    """We start a tor, and it ends with us."""
    SYSTEM = "system"
    """Somebody else runs it."""


@dataclass(frozen=True, slots=True)
class TcpControl:
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class UnixControl:
    path: str


ControlPlace = TcpControl | UnixControl


@dataclass(frozen=True, slots=True)
class Settings:
    mode: Mode
    socks: tuple[str, int]
    control: ControlPlace
    password: Secret
    onion_port: int
    clear_through_tor: bool
    options: tuple[str, ...]

    @classmethod
    def read(cls, table: Mapping[str, Any]) -> "Settings":
        """ValueError names the setting."""
        try:
            mode = Mode(table.get("mode", "managed"))
        except ValueError:
            raise ValueError(f"tor.mode is {table['mode']!r}, not managed or system") from None
        onion_port = table.get("onion_port", 9735)
        if not isinstance(onion_port, int) or not 0 < onion_port < 65536:
            raise ValueError(f"tor.onion_port is {onion_port!r}, not a port number")
        password = table.get("password", Secret(b""))
        if len(password) and mode is Mode.MANAGED:
            raise ValueError("tor.password is for tor.mode = system: a managed tor lets us in by its cookie")
        options = tuple(table.get("options", ()))
        if options and mode is Mode.SYSTEM:
            raise ValueError("tor.options are for tor.mode = managed: put them into the torrc of your tor")
        if any("\n" in option or "\r" in option for option in options):
            raise ValueError("tor.options has an entry of several lines: one option an entry")
        return cls(
            mode=mode,
            socks=loopback_endpoint(table.get("socks", "127.0.0.1:9050"), "tor.socks"),
            control=_control_place(table.get("control", "127.0.0.1:9051")),
            password=password,
            onion_port=onion_port,
            clear_through_tor=table.get("clear", "tor") == "tor",
            options=options,
        )


def _control_place(text: str) -> ControlPlace:
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path.startswith("/"):
            raise ValueError(f"tor.control is {text!r}: after unix: comes a path from the root")
        return UnixControl(path)
    return TcpControl(*loopback_endpoint(text, "tor.control"))
