"""`python -m node.tower`: what the holder of a watchtower's file runs, beside a bitcoind of its own."""

import time
from pathlib import Path

import click

from node.tower.bitcoind import Bitcoind
from node.tower.lines import Book
from node.tower.watcher import ChainAway, Watcher


@click.group()
def main() -> None:
    """A watchtower: punishes revoked commitments for a node that cannot. It has no key, and knows nothing before."""


@main.command()
@click.option("--file", "path", required=True, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--bitcoind-url", required=True, help="http://127.0.0.1:8332")
@click.option("--bitcoind-cookie", required=True, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--back", default=144, help="How many blocks to read at the start.", show_default=True)
@click.option("--seconds", default=10.0, help="Between two looks at the mempool.", show_default=True)
@click.option("--once", is_flag=True, help="Look once, and end.")
def watch(
    path: Path, bitcoind_url: str, bitcoind_cookie: Path, back: int, seconds: float, once: bool
) -> None:
    """Follow blocks and mempool, and send the penalties for what the file knows."""
    try:
        chain = Bitcoind(bitcoind_url, bitcoind_cookie)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--bitcoind-url") from error
    book = Book(path)
    watcher = Watcher(book, chain, click.echo, back=back)
    said = ""
    while True:
        state = ""
        try:
            watcher.look()
        except ChainAway as error:
            state = f"the bitcoind does not answer ({error}). Start it, or correct its address and cookie."
        except OSError as error:
            state = f"{path} cannot be read: {error.strerror}. Bring it back, or correct the path."
        state = state or f"watching {book.lines} revoked commitments; {book.wrong} lines could not be read"
        if state != said:
            click.echo(state)
            said = state
        if once:
            return
        time.sleep(seconds)


if __name__ == "__main__":
    main()
