"""`lnp-signer`: the program that holds the keys (DESIGN, "Processes, trust, files")."""

import fcntl
import json
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import IO

import click
import zmq
from zmq.utils import z85

from protocol.errors import CommandRefused
from protocol.secret import Secret
from signer import initialise, keystore, passphrase
from signer.link import Link, pair
from signer.policy.reserve import ENFORCE, SHADOW
from signer.service import SignerService

READY_FILE = "signer.json"
_DATADIR = click.option(
    "--datadir",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="The signer's own directory.",
)
_PASSPHRASE_FD = click.option("--passphrase-fd", type=int, help="Read the passphrase from this descriptor.")


class _Refusal(click.ClickException):
    exit_code = 2

    def __init__(self, error: CommandRefused) -> None:
        super().__init__(f"{error.sentence}. {error.what_to_do}")


@click.group()
def main() -> None:
    """The signer of an LNP node: holds the keys, checks every request, signs."""
    os.umask(0o077)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")


@main.command()
@_DATADIR
@click.option("--network", required=True, help="regtest, signet, testnet or testnet4.")
@click.option("--restore", is_flag=True, help="Type the words of an existing seed.")
@click.option("--mnemonic-fd", type=int, help="Read the words of an existing seed from this descriptor.")
@click.option("--xprv-fd", type=int, help="Read an extended private key from this descriptor.")
@click.option("--words-fd", type=int, help="Write the new words to this descriptor, not to the terminal.")
@_PASSPHRASE_FD
def init(
    datadir: Path,
    network: str,
    restore: bool,
    mnemonic_fd: int | None,
    xprv_fd: int | None,
    words_fd: int | None,
    passphrase_fd: int | None,
) -> None:
    """Make or restore the seed and seal it."""
    try:
        initialise.known_network(network)
        mnemonic = passphrase.read_fd(mnemonic_fd) if mnemonic_fd is not None else None
        if restore and mnemonic is None and xprv_fd is None:
            mnemonic = Secret(click.prompt("The words of the seed", hide_input=True).encode())
        xprv = passphrase.read_fd(xprv_fd) if xprv_fd is not None else None
        if mnemonic is None and xprv is None and words_fd is None and not sys.stdout.isatty():
            raise CommandRefused(
                "new words would go to a file or a log",
                what_to_do="Run init on a terminal, or name a descriptor for the words with --words-fd.",
            )
        phrase = passphrase.choose(passphrase_fd)
        created = initialise.create(datadir, network, phrase, mnemonic=mnemonic, xprv=xprv)
    except CommandRefused as error:
        raise _Refusal(error) from None
    if len(created.words):
        _show_words(created.words, words_fd)
    click.echo(f"node id:           {created.node_id.hex()}")
    click.echo(f"signer public key: {created.curve_public}")


def _show_words(words: Secret, descriptor: int | None) -> None:
    text = words.reveal().decode()
    if descriptor is not None:
        os.write(descriptor, text.encode() + b"\n")
        return
    click.echo("Write these words on paper. They are shown once, and whoever has them has the money.\n")
    for number, word in enumerate(text.split(), 1):
        click.echo(f"{number:4}. {word:10}", nl=number % 4 == 0)
    click.echo()


@main.command()
@_DATADIR
@click.option(
    "--endpoint", help="ipc://PATH or tcp://127.0.0.1:PORT; the default is a socket in the directory."
)
@click.option(
    "--passphrase-file", type=click.Path(path_type=Path), help="Read the passphrase from this file."
)
@click.option(
    "--fee-reserve",
    type=click.Choice([ENFORCE, SHADOW]),
    help="What the rule fee-reserve does: enforce refuses channels with anchors, and HTLCs in them, that the fee "
    "reserve cannot cover; shadow only writes them to the log. The default is shadow on regtest, else enforce.",
)
@_PASSPHRASE_FD
def run(
    datadir: Path,
    endpoint: str | None,
    passphrase_file: Path | None,
    fee_reserve: str | None,
    passphrase_fd: int | None,
) -> None:
    """Unlock the keystore and serve the node until SIGTERM."""
    try:
        if not keystore.exists(datadir):
            raise CommandRefused(
                f"there is no keystore in {datadir}",
                what_to_do="Run `lnp-signer init` first, or check --datadir.",
            )
        lock = _lock(datadir)
        phrase = passphrase.find(passphrase_fd, passphrase_file)
        service = SignerService(datadir, phrase, fee_reserve=fee_reserve)
    except CommandRefused as error:
        raise _Refusal(error) from None
    wake, waker = socket.socketpair()
    for end in (wake, waker):
        end.setblocking(False)
    signal.set_wakeup_fd(waker.fileno())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # the wake-up descriptor ends the loop between two turns
    try:
        link = Link(service, datadir, endpoint or f"ipc://{datadir.resolve() / 'signer.sock'}")
    except zmq.ZMQError as error:
        service.close()
        text = CommandRefused(f"cannot listen: {error}", what_to_do="Choose another --endpoint.")
        raise _Refusal(text) from None
    try:
        _write_ready(datadir, link.endpoint, service.curve_public)
        logging.getLogger("signer").info("ready endpoint=%s network=%s", link.endpoint, service.network)
        link.run(wake.fileno())
    finally:
        (datadir / READY_FILE).unlink(missing_ok=True)
        link.close()
        service.close()
        lock.close()


def _lock(datadir: Path) -> IO[str]:
    """Two signers on one database would make two histories; the kernel frees the lock when we end."""
    file = (datadir / "lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise CommandRefused(
            f"another lnp-signer runs on {datadir}", what_to_do="Stop it first, or choose another --datadir."
        ) from None
    return file


def _write_ready(datadir: Path, endpoint: str, public_key: str) -> None:
    """`signer.json` appears whole: whoever waits for it finds an endpoint that listens."""
    text = json.dumps({"endpoint": endpoint, "server_public_key": public_key, "pid": os.getpid()})
    temporary = datadir / f"{READY_FILE}.new"
    temporary.write_text(text + "\n")
    temporary.replace(datadir / READY_FILE)


@main.command("pair")
@_DATADIR
@click.option(
    "--client-key", required=True, help="The node's CURVE public key: 64 hex digits or 40 characters Z85."
)
def pair_command(datadir: Path, client_key: str) -> None:
    """Let a node in by its CURVE public key."""
    try:
        key = bytes.fromhex(client_key) if len(client_key) == 64 else z85.decode(client_key)
    except (ValueError, KeyError):
        key = b""
    if len(key) != 32 or not keystore.exists(datadir):
        error = CommandRefused(
            "this is no CURVE public key, or no directory of a signer",
            what_to_do="Copy the key that `lnpd init` printed, and check --datadir.",
        )
        raise _Refusal(error)
    pair(datadir, key)
    click.echo("paired")


if __name__ == "__main__":
    main()
