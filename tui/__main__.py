"""`lnp-tui`: finds the node, by a pairing string or in its directory, and runs the terminal UI."""

import os
import sys
from pathlib import Path

import click
import zmq

from protocol.errors import CommandRefused
from protocol.pairing import Pairing

LOCAL_FILE = "lnp-tui.pairing"
KEY_FILE = "client.key"
PAIRING_FILE = "pairing"


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--datadir", envvar="LNP_DATADIR", help="Of a node on this machine.")
@click.option("--network", envvar="LNP_NETWORK", help="Needed when several run here.")
@click.option("--pair", "pairing_text", help="The string that `lnpd pair-tui` printed; - asks for it.")
@click.option("--show-key", is_flag=True, help="Print our public key, for `lnpd pair-tui --client-key`.")
@click.option("--theme", default="textual-dark", show_default=True, help="Also changed by ctrl+p.")
@click.option("--color/--no-color", default=True, help="For terminals without colours.")
def main(
    datadir: str | None,
    network: str | None,
    pairing_text: str | None,
    show_key: bool,
    theme: str,
    color: bool,
) -> None:
    """The terminal UI of a node, on this machine or, once paired, elsewhere.

    A pairing is kept, so that `lnp-tui` alone finds the node again.
    """
    os.umask(0o077)
    if not color:
        os.environ["NO_COLOR"] = "1"
    try:
        if show_key:
            click.echo(own_key()[0].decode())
            return
        pairing = _pairing(datadir, network, pairing_text)
        secret = None if pairing.client_secret else _secret_for(pairing)
    except CommandRefused as error:
        click.echo(f"lnp-tui: {error}", err=True)
        sys.exit(2)
    # Textual takes a second to import; refusals and --help need not wait for it.
    from tui.app import LnpTui
    from tui.line import NodeLine

    app = LnpTui(lambda: NodeLine(pairing, secret=secret), theme=theme)
    app.run()
    sys.exit(app.return_code or 0)


def config_directory() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME", "~/.config")).expanduser() / "lnp-tui"


def _pairing(datadir: str | None, network: str | None, text: str | None) -> Pairing:
    kept = config_directory() / PAIRING_FILE
    if text is not None:
        if text == "-":
            text = click.prompt("Pairing string", hide_input=True)
        pairing = Pairing.read(text)
        kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write(kept, text)
        return pairing
    local = _local(datadir, network)
    if local is not None:
        return Pairing.read(local.read_text())
    if datadir is None and kept.exists():
        return Pairing.read(kept.read_text())
    raise CommandRefused(
        "no node was found on this machine, and none is paired",
        what_to_do="Start lnpd, give --datadir and --network, or paste what `lnpd pair-tui` prints with --pair -",
    )


def _local(datadir: str | None, network: str | None) -> Path | None:
    """What a node on this machine leaves for its own user."""
    base = Path(datadir).expanduser() if datadir is not None else _default_datadir()
    found = sorted(base.glob(f"{network or '*'}/{LOCAL_FILE}"))
    if len(found) > 1:
        names = ", ".join(path.parent.name for path in found)
        raise CommandRefused(f"there are nodes for several networks ({names})", what_to_do="Give --network.")
    return found[0] if found else None


def _default_datadir() -> Path:
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path("~/.local/share").expanduser()) / "lnp"


def own_key() -> tuple[bytes, bytes]:
    """Drawn once, for those who pair by key: then no secret travels."""
    path = config_directory() / KEY_FILE
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write(path, "\n".join(key.decode() for key in zmq.curve_keypair()))
    words = path.read_bytes().split()
    if len(words) != 2:
        raise CommandRefused(f"{path} is damaged", what_to_do="Remove it, and pair again.")
    return words[0], words[1]


def _secret_for(pairing: Pairing) -> bytes:
    public, secret = own_key()
    if public.decode() != pairing.client_public:
        raise CommandRefused(
            "this pairing is for another program's key",
            what_to_do="Give `lnpd pair-tui --client-key` the key of `lnp-tui --show-key`.",
        )
    return secret


def _write(path: Path, text: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text + "\n")


if __name__ == "__main__":
    main()
