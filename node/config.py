"""The daemon's settings: `lnp.toml` in the directory of the network, and overrides from the command line."""

import difflib
import ipaddress
import os
import re
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct, field

from protocol.amounts import Sat
from protocol.bitcoin.network import NETWORKS, Network
from protocol.errors import CommandRefused
from protocol.secret import Secret
from protocol.transport import parse_host_port

FILE = "lnp.toml"
DEFAULT_DATADIR = Path("~/.local/share/lnp")
USED = ("regtest", "signet", "testnet", "testnet4")


class SignerConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Where the signer answers, and its CURVE public key in Z85."""

    endpoint: str
    server_key: str


class BitcoindConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """`cookie` is a path; where `user` is set, user and password are used instead.

    `cert` is for a btcd at `https://`: the file rpc.cert, which it made for itself.
    """

    url: str
    cookie: str = ""
    user: str = ""
    password: Secret = Secret(b"")
    zmq: str = ""
    cert: str = ""

    def login(self) -> str | Path:
        if self.user:
            return f"{self.user}:{self.password.reveal().decode()}"
        return Path(self.cookie).expanduser()


class ElectrumConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """An Electrum server, instead of a bitcoind: `tcp://` on this machine or to an onion, else `ssl://`."""

    url: str
    trust: str = "pin"
    """Of the certificate: pin keeps the first one that is seen; ca asks an authority."""
    ca_file: str = ""
    """The authorities to ask, if not those of the system."""
    socks: str = ""
    """host:port of a SOCKS5 proxy that leads to it, such as Tor's."""

    def address(self) -> tuple[str, str, int]:
        """(scheme, host, port); raises CommandRefused."""
        try:
            parts = urlsplit(self.url)
            host, port = parts.hostname, parts.port
        except ValueError:
            host = port = None
        if parts.scheme not in ("tcp", "ssl") or not host or not port or parts.path not in ("", "/"):
            raise CommandRefused(
                f"{self.url!r} is no address of an Electrum server",
                what_to_do="Write it as tcp://HOST:PORT or ssl://HOST:PORT.",
            )
        if parts.scheme == "tcp" and not (_is_here(host) or (self.socks and host.endswith(".onion"))):
            raise CommandRefused(
                f"{self.url} is a line that everybody on the way can read and change",
                what_to_do="Use ssl://HOST:PORT; tcp:// is for this machine, and for an onion over electrum.socks.",
            )
        return parts.scheme, host, port

    def proxy(self) -> tuple[str, int] | None:
        """(host, port); raises CommandRefused."""
        if not self.socks:
            return None
        try:
            return parse_host_port(self.socks)
        except ValueError as error:
            raise CommandRefused(
                f"electrum.socks: {error}", what_to_do="Write it as 127.0.0.1:9050."
            ) from error


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class GatewayConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Where programs of the user, such as `lnp-tui`, may connect; empty: a socket in the node's directory.

    `ipc://PATH` or `tcp://HOST:PORT`. The line is encrypted, and only paired programs are let in.
    """

    listen: tuple[str, ...] = ()


class BackupConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Where the static channel backup goes, beside `channels.backup` in the node's directory: another disk, a share.

    It is sealed by the signer: any place may hold it. `peers`: give it to channel peers too, if they keep one for us.
    """

    files: tuple[str, ...] = ()
    peers: bool = True


class TowerConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """A file with penalties for a watchtower, which anybody may hold; empty: none. With one the signer works more
    for each payment, and the file grows by some kilobytes with each."""

    file: str = ""


class LogConfig(Struct, frozen=True, forbid_unknown_fields=True):
    level: str = "info"
    file: str = ""


class TorConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """How the node uses Tor. Empty means: what is right for the network (`resolved`)."""

    mode: str = ""
    """managed: `lnpd` starts a tor of its own; system: it uses the one at `socks` and `control`; or off."""
    clear: str = ""
    """How clear addresses are dialled: tor (through an exit), direct (from this machine), or off."""
    socks: str = "127.0.0.1:9050"
    control: str = "127.0.0.1:9051"
    """host:port, or unix:/path."""
    password: Secret = Secret(b"")
    """Of the control port; without one its cookie is used."""
    onion_port: int = 9735
    options: tuple[str, ...] = ()
    """More lines for the torrc of a managed tor, such as bridges."""

    def resolved(self, network: str) -> "TorConfig":
        """On every network but regtest nothing goes out but through Tor, unless somebody wrote otherwise."""
        local = network == "regtest"
        return msgspec.structs.replace(
            self,
            mode=self.mode or ("off" if local else "managed"),
            clear=self.clear or ("direct" if local else "tor"),
        )


MAX_DUST = 50_000
LARGEST_DUST = 1_000_000


class ChannelConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """What we let peers do in channels."""

    zeroconf_peers: tuple[str, ...] = ()
    """Node ids whose channels are used before their funding is confirmed. Such a peer can take back whatever it paid us
    there until then, so name only those whom you would lend it."""
    max_dust: int = MAX_DUST
    """Satoshis, in each channel: what may stand in payments that are too small for an output of their own. If the
    channel ends while they run, the miners get it; a lower bound refuses more small payments at once."""

    def dust(self) -> Sat:
        """Raises CommandRefused."""
        if not 0 <= self.max_dust <= LARGEST_DUST:
            raise CommandRefused(
                f"channel.max_dust: {self.max_dust} sat is no bound for what small payments may lose",
                what_to_do=f"Write 0 (no payment without an output) to {LARGEST_DUST}; {MAX_DUST} is usual.",
            )
        return Sat(self.max_dust)

    def trusted(self) -> frozenset[bytes]:
        """Raises CommandRefused."""
        for node_id in self.zeroconf_peers:
            if not re.fullmatch(r"0[23][0-9a-fA-F]{64}", node_id):
                raise CommandRefused(
                    f"channel.zeroconf_peers: {node_id!r} is no node id",
                    what_to_do="Write 66 hex digits that start with 02 or 03.",
                )
        return frozenset(bytes.fromhex(node_id) for node_id in self.zeroconf_peers)


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    network: str
    signer: SignerConfig
    bitcoind: BitcoindConfig | None = None
    """Either this or `electrum`."""
    alias: str = ""
    color: str = "3399ff"
    listen: tuple[str, ...] = ("127.0.0.1:9735",)
    announce: tuple[str, ...] = ()
    leaf: bool = False
    """Passes on no gossip of others: for a node that pays and is paid, on a line that is slow or dear."""
    birth_height: int | None = None
    """Where to look for coins of a seed that was used before."""
    fallback_feerate_per_kw: int | None = None
    """Used when the backend has no estimate."""
    transports: dict[str, str] = field(default_factory=dict)
    """Others beside tcp and tor, `name = "module:class"`."""
    tor: TorConfig = TorConfig()
    gateway: GatewayConfig = GatewayConfig()
    backup: BackupConfig = BackupConfig()
    tower: TowerConfig = TowerConfig()
    log: LogConfig = LogConfig()
    electrum: ElectrumConfig | None = None
    channel: ChannelConfig = ChannelConfig()
    fee_sources: tuple[ElectrumConfig, ...] = ()
    """Electrum servers that are asked for feerates too (`[[fee_sources]]`), so that no single source sets our fees."""

    @property
    def network_parameters(self) -> Network:
        return NETWORKS[self.network]


def check_network(name: str) -> Network:
    """Raises CommandRefused for mainnet, and for what is no network."""
    if name == "mainnet":
        raise CommandRefused(
            "mainnet is refused: the checks that guard real money on it are not done yet",
            what_to_do=f"Use one of {', '.join(USED)}.",
        )
    if name not in USED:
        raise CommandRefused(f"{name!r} is no network of ours", what_to_do=f"Use one of {', '.join(USED)}.")
    return NETWORKS[name]


def network_directory(datadir: Path, network: str | None) -> Path:
    """The directory of a network. Without a name it must be the only one that was set up."""
    datadir = datadir.expanduser()
    if network is not None:
        check_network(network)
        return datadir / network
    found = sorted(path.parent for path in datadir.glob(f"*/{FILE}"))
    if len(found) == 1:
        return found[0]
    if not found:
        raise CommandRefused(f"no node was set up in {datadir}", what_to_do="Run `lnpd init` first.")
    names = ", ".join(path.name for path in found)
    raise CommandRefused(f"there are several networks in {datadir}: {names}", what_to_do="Give --network.")


def load(directory: Path, overrides: tuple[str, ...] = ()) -> Config:
    """Raises CommandRefused with the place and the nearest right name. An override is `a.b=value`."""
    path = directory / FILE
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CommandRefused(f"there is no {path}", what_to_do="Run `lnpd init` first.") from error
    except (OSError, ValueError) as error:
        raise CommandRefused(f"{path} cannot be read: {error}", what_to_do="Correct that line.") from error
    for override in overrides:
        _override(document, override)
    config = parse(document, str(path))
    if config.network != directory.name:
        raise CommandRefused(
            f"{path} is for {config.network}, in the directory of {directory.name}",
            what_to_do="Each network has its own directory: correct `network`, or move the file.",
        )
    return config


def parse(document: dict[str, Any], where: str) -> Config:
    _check_names(document, Config, "", where)
    try:
        config = msgspec.convert(document, Config, dec_hook=_secret)
    except msgspec.ValidationError as error:
        raise CommandRefused(f"{where}: {error}", what_to_do="Correct that setting.") from error
    check_network(config.network)
    if config.log.level not in ("debug", "info", "warning", "error"):
        raise CommandRefused(
            f"{where}: {config.log.level!r} is no log level", what_to_do="Use debug, info, warning or error."
        )
    _check_tor(config, where)
    _check_chain(config, where)
    config.channel.trusted()
    config.channel.dust()
    return config


def _check_chain(config: Config, where: str) -> None:
    if (config.bitcoind is None) == (config.electrum is None):
        many = "no" if config.bitcoind is None else "more than one"
        raise CommandRefused(
            f"{where}: there is {many} source of the chain",
            what_to_do="Keep one of the tables [bitcoind] and [electrum].",
        )
    for server in (*([] if config.electrum is None else [config.electrum]), *config.fee_sources):
        server.address()
        server.proxy()
        if server.trust not in ("pin", "ca"):
            raise CommandRefused(
                f"{where}: electrum.trust cannot be {server.trust!r}", what_to_do="Use pin or ca."
            )


def _check_tor(config: Config, where: str) -> None:
    tor = config.tor.resolved(config.network)
    for name, value, allowed in (
        ("mode", tor.mode, ("managed", "system", "off")),
        ("clear", tor.clear, ("tor", "direct", "off")),
    ):
        if value not in allowed:
            raise CommandRefused(
                f"{where}: tor.{name} cannot be {value!r}", what_to_do=f"Use one of {', '.join(allowed)}."
            )
    if tor.mode == "off" and tor.clear == "tor":
        raise CommandRefused(
            f"{where}: tor.mode is off, so clear addresses cannot go through Tor",
            what_to_do="Use tor.mode = managed or system; or tor.clear = direct, which shows the address of "
            "this machine to everyone it talks to.",
        )


def save(directory: Path, config: Config) -> None:
    """Writes what differs from the defaults, readable by us alone: there may be a password in it."""
    lines = ["# Settings of lnpd. Unknown names are refused.", f"network = {_toml(config.network)}"]
    usual = Config(network="", signer=config.signer, bitcoind=None)
    for name in ("alias", "color", "listen", "announce", "leaf", "birth_height", "fallback_feerate_per_kw"):
        value = getattr(config, name)  # the names of the fields above
        if value != getattr(usual, name):
            lines.append(f"{name} = {_toml(value)}")
    tables: tuple[tuple[str, Struct | None], ...] = (
        ("[signer]", config.signer),
        ("[bitcoind]", config.bitcoind),
        ("[electrum]", config.electrum),
        ("[tor]", config.tor),
        ("[channel]", config.channel),
        ("[gateway]", config.gateway),
        ("[backup]", config.backup),
        ("[tower]", config.tower),
        ("[log]", config.log),
        *(("[[fee_sources]]", server) for server in config.fee_sources),
    )
    for heading, part in tables:
        usual_part = (
            type(part)() if isinstance(part, TorConfig | BackupConfig | ChannelConfig | TowerConfig) else None
        )
        if part is None or part == usual_part:
            continue
        lines += ["", heading]
        for name, value in msgspec.structs.asdict(part).items():
            text = value.reveal().decode() if isinstance(value, Secret) else value
            if text not in ("", ()) and (usual_part is None or value != getattr(usual_part, name)):
                lines.append(f"{name} = {_toml(text)}")
    part_file = directory / f"{FILE}.part"
    with open(os.open(part_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write("\n".join(lines) + "\n")
    part_file.replace(directory / FILE)


def _toml(value: Any) -> str:
    """JSON's strings, numbers and lists are TOML's too."""
    return msgspec.json.encode(value).decode()


def _override(document: dict[str, Any], override: str) -> None:
    name, sign, text = override.partition("=")
    if not sign or not name:
        raise CommandRefused(f"{override!r} is no setting", what_to_do="Write it as name=value.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except ValueError:
        value = text  # a bare word needs no quotes on a command line
    *tables, last = name.split(".")
    for table in tables:
        document = document.setdefault(table, {})
        if not isinstance(document, dict):
            raise CommandRefused(f"{table} in {override!r} is no table", what_to_do="Look at lnp.toml.")
    document[last] = value


def _check_names(document: dict[str, Any], kind: type[Struct], prefix: str, where: str) -> None:
    tables: dict[str, type[Struct]] = {}
    if kind is Config:
        tables = {
            "signer": SignerConfig,
            "bitcoind": BitcoindConfig,
            "electrum": ElectrumConfig,
            "tor": TorConfig,
            "channel": ChannelConfig,
            "gateway": GatewayConfig,
            "backup": BackupConfig,
            "tower": TowerConfig,
            "log": LogConfig,
        }
    known = kind.__struct_fields__
    for name, value in document.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {prefix}{near[0]}?" if near else f"Known are: {', '.join(known)}."
            raise CommandRefused(f"{where}: there is no setting {prefix}{name}", what_to_do=hint)
        if name in tables and isinstance(value, dict):
            _check_names(value, tables[name], f"{name}.", where)


def _secret(kind: type, value: Any) -> Any:
    if kind is Secret and isinstance(value, str):
        return Secret(value.encode())
    raise TypeError(f"a {kind.__name__} is written as text")
