"""Which transports a node has, by its settings: onion only on every network but regtest (DESIGN, "The shapes").

What is not wanted is not even imported. So a node that is onion only has no code in its process that could
dial a peer from this machine, and no reason to ask a resolver.
"""

import ipaddress
from urllib.parse import urlsplit

import msgspec

from node.config import Config
from node.peer.transports import Wanted
from protocol.errors import CommandRefused

TCP = "transports.tcp:TcpTransport"
TOR = "transports.tor.transport:TorTransport"
_OURS = ("tcp", "tor")


def wanted(config: Config) -> dict[str, Wanted]:
    """Tor first: what both could take goes through it. CommandRefused for settings that contradict it."""
    tor = config.tor.resolved(config.network)
    found: dict[str, Wanted] = {}
    if tor.mode != "off":
        found["tor"] = Wanted(TOR, msgspec.structs.asdict(tor))
    if tor.clear == "direct":
        found["tcp"] = Wanted(TCP)
    for name, place in config.transports.items():
        if name in _OURS or place.partition(":")[0].removesuffix(".transport") in (
            "transports.tcp",
            "transports.tor",
        ):
            raise CommandRefused(
                f"the table transports has {name!r}, which the table tor decides about",
                what_to_do="Remove it there. Set tor.clear = direct for clear connections from this machine.",
            )
        found[name] = Wanted(place)
    if tor.clear != "direct":
        _check_no_names(config)
    if not found:
        raise CommandRefused(
            "there is no road to any peer: tor.mode is off, and tor.clear is not direct",
            what_to_do="Use tor.mode = managed or system, or tor.clear = direct.",
        )
    return found


def _check_no_names(config: Config) -> None:
    """A name in an address would have to be resolved, in the clear."""
    addresses = [("signer.endpoint", config.signer.endpoint)]
    if config.bitcoind is not None:
        addresses += [("bitcoind.url", config.bitcoind.url), ("bitcoind.zmq", config.bitcoind.zmq)]
    if config.electrum is not None and not config.electrum.socks:
        addresses.append(("electrum.url", config.electrum.url))
    for setting, url in addresses:
        parts = urlsplit(url)
        if parts.scheme in ("ipc", "") or parts.hostname is None:
            continue
        try:
            address = ipaddress.ip_address(parts.hostname)
        except ValueError:
            raise CommandRefused(
                f"{setting} names the host {parts.hostname!r}, but nothing may ask a resolver in a node that is "
                "onion only",
                what_to_do="Write its IP address, such as 127.0.0.1, or set tor.clear = direct.",
            ) from None
        if setting == "electrum.url" and address.is_global:
            # A stranger's server: it would learn which scripts this machine watches.
            raise CommandRefused(
                f"electrum.url {url} would be dialled from this machine, in a node that is onion only",
                what_to_do="Set electrum.socks to Tor's SOCKS port, such as 127.0.0.1:9050, or tor.clear = direct.",
            )
