"""The backend that the settings ask for (DESIGN, "The chain"), and who else is asked for fees."""

from pathlib import Path

from node.chain.backend import ChainBackend
from node.chain.bitcoind import Bitcoind
from node.chain.electrum import Electrum
from node.chain.electrum_line import Authority, Pinned, Place, Plain
from node.chain.fees import FeeSource
from node.config import BitcoindConfig, Config, ElectrumConfig
from protocol.bitcoin.network import Network
from protocol.errors import CommandRefused

PINS = "electrum-pins.json"


def backend_of(config: Config, directory: Path) -> ChainBackend:
    """`directory` is where the node keeps its files. Raises CommandRefused."""
    network = config.network_parameters
    if config.bitcoind is not None:
        return _bitcoind(config.bitcoind, network)
    if config.electrum is not None:
        return Electrum(_place(config.electrum, directory / PINS), network=network)
    raise CommandRefused(
        "the settings name no source of the chain", what_to_do="Write [bitcoind] or [electrum] into lnp.toml."
    )


def fee_sources_of(config: Config, directory: Path) -> list[FeeSource]:
    found: list[FeeSource] = []
    for one in config.fee_sources:
        source = Electrum(_place(one, directory / PINS), network=config.network_parameters)
        source.name = one.url  # there may be several, and one that is left out is named in the log
        found.append(source)
    return found


def _bitcoind(config: BitcoindConfig, network: Network) -> Bitcoind:
    certificate = str(Path(config.cert).expanduser()) if config.cert else ""
    return Bitcoind(
        config.url, network=network, login=config.login(), zmq_endpoint=config.zmq, certificate=certificate
    )


def _place(config: ElectrumConfig, pins: Path) -> Place:
    scheme, host, port = config.address()
    if scheme == "tcp":
        return Place(host, port, Plain(), config.proxy())
    trust = Authority(config.ca_file) if config.trust == "ca" else Pinned(pins)
    return Place(host, port, trust, config.proxy())
