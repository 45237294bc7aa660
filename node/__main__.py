"""`lnpd`: the node daemon. `lnpd init` sets a node up, `lnpd run` runs it (DESIGN, "Processes, trust, files")."""

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from node import config as settings
from node import linkkey, log
from node.chain.backend import BackendUnusable
from node.config import BitcoindConfig, Config, ElectrumConfig, SignerConfig
from node.linkkey import LinkKey
from node.storage.database import open_database
from node.storage.errors import StorageFailed
from protocol.errors import CommandRefused, MalformedMessage
from protocol.pairing import Pairing
from protocol.secret import Secret

if TYPE_CHECKING:
    from node.restore import Plan

REFUSED = 2

_DATADIR = click.option(
    "--datadir",
    envvar="LNP_DATADIR",
    type=click.Path(path_type=Path, file_okay=False),
    default=settings.DEFAULT_DATADIR,
    show_default=True,
    help="Holds one directory for each network.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """A Lightning node that holds no key: a separate signer does."""
    os.umask(0o077)


@main.command()
@_DATADIR
@click.option("--network", required=True, help="regtest, signet, testnet or testnet4.")
@click.option(
    "--signer", "signer_endpoint", required=True, help="Where lnp-signer listens: ipc://… or tcp://…"
)
@click.option("--signer-key", required=True, help="The signer's public key, 40 characters, as it prints it.")
@click.option("--bitcoind-url", default="", help="For example http://127.0.0.1:18443")
@click.option("--bitcoind-cookie", default="", help="The path of bitcoind's cookie file.")
@click.option("--bitcoind-user", default="", help="Instead of a cookie; the password is asked for.")
@click.option("--bitcoind-password-fd", type=int, help="Read bitcoind's password from this descriptor.")
@click.option(
    "--bitcoind-zmq", default="", help="zmqpubhashblock of bitcoind; without it we look every 10 s."
)
@click.option("--electrum", default="", help="Instead of a bitcoind: tcp://127.0.0.1:PORT or ssl://HOST:PORT")
@click.option("--electrum-socks", default="", help="host:port of a SOCKS5 proxy that leads there.")
@click.option("--listen", multiple=True, help="host:port for peers; port 0 takes a free one.")
@click.option("--alias", default="", help="The name that other nodes see.")
@click.option("--birth-height", type=int, help="Look for coins of an older seed from this block on.")
def init(
    datadir: Path,
    network: str,
    signer_endpoint: str,
    signer_key: str,
    bitcoind_url: str,
    bitcoind_cookie: str,
    bitcoind_user: str,
    bitcoind_password_fd: int | None,
    bitcoind_zmq: str,
    electrum: str,
    electrum_socks: str,
    listen: tuple[str, ...],
    alias: str,
    birth_height: int | None,
) -> None:
    """Set up a node: its directory, database, settings, and the key of its line to the signer."""
    try:
        settings.check_network(network)
        if len(signer_key) != 40:
            raise CommandRefused(
                "--signer-key must have 40 characters",
                what_to_do="Copy it from the output of `lnp-signer init`.",
            )
        if bool(bitcoind_url) == bool(electrum):
            raise CommandRefused(
                "a node needs one source of the chain", what_to_do="Give --bitcoind-url, or --electrum."
            )
        if bitcoind_url and not bitcoind_cookie and not bitcoind_user:
            raise CommandRefused(
                "there is no login for bitcoind", what_to_do="Give --bitcoind-cookie, or --bitcoind-user."
            )
        directory = datadir.expanduser() / network
        if (directory / settings.FILE).exists():
            raise CommandRefused(
                f"a node was set up in {directory} before",
                what_to_do=f"Edit {directory / settings.FILE}, or give another --datadir.",
            )
        bitcoind, server = None, None
        if electrum:
            server = ElectrumConfig(electrum, socks=electrum_socks)
            server.address()
            server.proxy()
        else:
            bitcoind = BitcoindConfig(
                bitcoind_url,
                str(Path(bitcoind_cookie).expanduser().resolve()) if bitcoind_cookie else "",
                bitcoind_user,
                _password(bitcoind_user, bitcoind_password_fd),
                bitcoind_zmq,
            )
        made = Config(
            network=network,
            signer=SignerConfig(signer_endpoint, signer_key),
            bitcoind=bitcoind,
            electrum=server,
            alias=alias,
            listen=listen or ("127.0.0.1:9735",),
            birth_height=birth_height,
        )
        key = _create(directory, made)
    except (CommandRefused, StorageFailed) as error:
        _refuse(error)
    click.echo(f"This node is set up in {directory}.")
    _show_pairing(key)
    click.echo(f"  lnpd run --datadir {datadir} --network {network}")


@main.command()
@_DATADIR
@click.option("--network", help="Needed when several were set up.")
def pair(datadir: Path, network: str | None) -> None:
    """Show how to let this node in at the signer; draws a new key where there is none."""
    try:
        directory = settings.network_directory(datadir, network)
        settings.load(directory)
        key = LinkKey.load(directory) if (directory / linkkey.FILE).exists() else LinkKey.make(directory)
    except CommandRefused as error:
        _refuse(error)
    _show_pairing(key)


@main.command("pair-tui")
@_DATADIR
@click.option("--network", help="Needed when several were set up.")
@click.option("--name", default="lnp-tui", show_default=True, help="What to call the program that is let in.")
@click.option("--client-key", help="Let this key in (`lnp-tui --show-key`); else one is drawn.")
@click.option("--endpoint", help="Where it will find us, if not where we listen: tcp://HOST:PORT")
@click.option("--remove", is_flag=True, help="Shut out what has this name instead.")
def pair_tui(
    datadir: Path,
    network: str | None,
    name: str,
    client_key: str | None,
    endpoint: str | None,
    remove: bool,
) -> None:
    """Let a terminal UI in: prints a pairing string, which is a password to this node."""
    from node.gateway import keys
    from node.gateway.service import endpoints

    try:
        directory = settings.network_directory(datadir, network)
        config = settings.load(directory)
        if remove:
            click.echo(f"{keys.remove_client(directory, name)} shut out; a running node follows in a second.")
            return
        where = endpoint or endpoints(directory, config.gateway.listen)[-1]
        if client_key:
            keys.add_client(directory, client_key.encode(), name)
            server_key = keys.own_key(directory).public.decode()
            pairing = Pairing(where, server_key, client_key, "", config.network)
        else:
            pairing = keys.pair(directory, where, config.network, name)
    except CommandRefused as error:
        _refuse(error)
    click.echo(f"Whoever has this can use the node at {where}. On the other side:\n", err=True)
    click.echo("  lnp-tui --pair -     (and paste it)\n", err=True)
    click.echo(pairing.text())


def _show_pairing(key: LinkKey) -> None:
    click.echo("Let it in at the signer:\n")
    click.echo(f"  lnp-signer pair --datadir SIGNER_DATADIR --client-key '{key.public.decode()}'")


def _create(directory: Path, made: Config) -> LinkKey:
    """The settings are written last: a set-up that was cut off can be run again."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    open_database(directory / "node.db", create=True).close()
    key = LinkKey.make(directory)
    settings.save(directory, made)
    return key


def _password(user: str, descriptor: int | None) -> Secret:
    if descriptor is not None:
        with open(descriptor, "rb") as file:
            return Secret(file.read().strip())
    if user:
        return Secret(click.prompt("Password of bitcoind", hide_input=True).encode())
    return Secret(b"")


@main.command()
@_DATADIR
@click.option("--network", help="Needed when several were set up.")
@click.option(
    "--set", "overrides", multiple=True, metavar="NAME=VALUE", help="Override a setting of lnp.toml."
)
@click.option("--log-level", type=click.Choice(sorted(log.LEVELS)))
def run(datadir: Path, network: str | None, overrides: tuple[str, ...], log_level: str | None) -> None:
    """Run the node until SIGTERM. DATADIR/NETWORK/lnpd.json tells where it answers, as soon as it does."""
    try:
        directory = settings.network_directory(datadir, network)
        config = settings.load(directory, overrides)
        log.set_up(
            log_level or config.log.level, Path(config.log.file).expanduser() if config.log.file else None
        )
        # The daemon is imported here so that `lnpd --help` and refusals are quick.
        from node import daemon

        sys.exit(asyncio.run(daemon.run(directory, config)))
    except (CommandRefused, StorageFailed, BackendUnusable) as error:
        _refuse(error)


@main.command()
@_DATADIR
@click.option("--network", help="Needed when several were set up.")
@click.option(
    "--backup",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A static channel backup; without one, database and signer are only compared.",
)
@click.option("--plan", "plan_only", is_flag=True, help="Show what would become of each channel, and stop.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def restore(datadir: Path, network: str | None, backup: Path | None, plan_only: bool, yes: bool) -> None:
    """Bring channels back from a backup, or see whether database and signer fit.

    The signer must run with the seed of this node. Nothing is published: a channel whose state is lost or old is
    closed by its peer, and what that pays to us is swept.
    """
    from node.restore import Restorer

    try:
        directory = settings.network_directory(datadir, network)
        config = settings.load(directory)
        database = open_database(directory / "node.db")
        try:
            blob = backup.read_bytes() if backup is not None else None
            click.echo("Asking the signer …", err=True)
            made = asyncio.run(Restorer(directory, config, database).run(blob, apply=False))
            _show_plan(made)
            if plan_only or not made.changes_something:
                return
            if not yes:
                click.confirm("Bring these channels back?", abort=True)
            asyncio.run(Restorer(directory, config, database).run(blob, apply=True))
        finally:
            database.close()
    except (CommandRefused, StorageFailed, MalformedMessage) as error:
        _refuse(error)
    click.echo("Done. Start the node: it connects to the peers and asks them to close.")


def _show_plan(made: "Plan") -> None:
    if made.counter is not None:
        click.echo(f"Backup number {made.counter}.")
    for fate in made.fates:
        new = " (from the backup)" if fate.new else ""
        click.echo(f"{fate.channel_id.hex()}  {fate.capacity} sat with {fate.peer.hex()}{new}")
        click.echo(f"    {fate.outcome.value}: {fate.sentence}.")
    if not made.fates:
        click.echo("There is no channel.")
    for warning in made.warnings:
        click.echo(f"Mind: {warning}.")


def _refuse(error: Exception) -> NoReturn:
    click.echo(f"lnpd: {error}", err=True)
    sys.exit(REFUSED)


if __name__ == "__main__":
    main()
