"""`lnp METHOD ARGS…`: the command line client of the daemon's RPC socket.

JSON when the output is piped, tables in a terminal. The exit code says which of five things happened.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import click

from node.cli import arguments
from node.cli.client import NoDaemon, Refused, Unknown, call

OK, REFUSED, USAGE, NO_DAEMON, UNKNOWN = range(5)
SPIN_AFTER = 1.0
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_HOW_TO_CHECK = {
    "pay": "`lnp listpays` shows what became of it. Paying the invoice again never pays twice.",
    "xpay": "`lnp listpays` shows what became of it. Paying the invoice again never pays twice.",
    "withdraw": "Look in `lnp listfunds` whether the coins are spent before you send again.",
    "fundchannel": "Look in `lnp listpeerchannels` whether the channel is there before you open another.",
    "close": "`lnp listpeerchannels` shows the channel's state. Closing again is harmless.",
    "invoice": "Look in `lnp listinvoices` whether it was made.",
}
_CONTROL = re.compile("[\x7f-\x9f\u2028\u2029]")

EPILOG = """Exit codes: 0 done, 1 refused, 2 wrong usage, 3 no daemon, 4 outcome unknown: it may have been done.

`lnp help` lists the methods, `lnp help METHOD` shows one."""


@click.command(
    epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.option("--datadir", envvar="LNP_DATADIR", help="Where the daemon keeps its data.")
@click.option("--network", envvar="LNP_NETWORK", help="mainnet, testnet, testnet4, signet or regtest.")
@click.option("-k", "--keywords", is_flag=True, help="Arguments are NAME=VALUE.")
@click.option("--json", "as_json", is_flag=True, help="JSON in a terminal too.")
@click.option("--timeout", type=click.FloatRange(min=0), help="Seconds to wait for the answer.")
@click.argument("method")
@click.argument("words", metavar="[ARGS]...", nargs=-1)
@click.pass_context
def main(
    context: click.Context,
    datadir: str | None,
    network: str | None,
    keywords: bool,
    as_json: bool,
    timeout: float | None,
    method: str,
    words: tuple[str, ...],
) -> None:
    """Ask a running Lightning daemon: METHOD and its arguments, as `lightning-cli` takes them.

    Amounts take msat, sat or btc as a unit. An argument that starts with a dash goes after `--`.
    """
    as_json = as_json or not sys.stdout.isatty()
    try:
        path = arguments.socket_path(arguments.data_directory(datadir), network)
        params = arguments.params(words, by_name=keywords)
    except arguments.BadUsage as error:
        raise click.UsageError(str(error)) from error
    if method == "watch":
        context.exit(_watch(path, params, as_json=as_json))
    context.exit(_run(path, method, params, as_json=as_json, timeout=timeout))


def _watch(path: Path, params: Any, *, as_json: bool) -> int:
    """Until Ctrl-C, or until whoever reads us closes the pipe."""
    from node.cli import watch

    try:
        watch.run(path, params, as_json=as_json)
    except NoDaemon as error:
        _say(f"{error}. Start it with `lnpd run`, or give --datadir and --network of the one that runs.")
        return NO_DAEMON
    except Refused as error:
        return _refused(error, as_json=as_json)
    except (Unknown, OSError) as error:
        _say(f"The stream ended: {error}.")
        return NO_DAEMON
    except KeyboardInterrupt:
        pass
    return OK


def _run(path: Path, method: str, params: Any, *, as_json: bool, timeout: float | None) -> int:
    spinner = _Spinner(method)
    try:
        result = call(path, method, params, timeout=timeout, progress=spinner.show)
    except NoDaemon as error:
        spinner.clear()
        _say(f"{error}. Start it with `lnpd run`, or give --datadir and --network of the one that runs.")
        return NO_DAEMON
    except Unknown as error:
        spinner.clear()
        _say(f"Outcome unknown: {error}. The request had left. {_how_to_check(method)}")
        return UNKNOWN
    except Refused as error:
        spinner.clear()
        return _refused(error, as_json=as_json)
    spinner.clear()
    if as_json:
        click.echo(to_json(result))
    else:
        _show(method, result)
    return OK


def _refused(error: Refused, *, as_json: bool) -> int:
    if as_json:
        click.echo(to_json(error.error))
    else:
        _say(f"{error} (code {error.code})")
    if error.is_unknown:
        return UNKNOWN
    return USAGE if error.is_usage else REFUSED


def to_json(value: Any) -> str:
    """Readable, and without the control characters that JSON itself lets through."""
    text = json.dumps(value, indent=3, ensure_ascii=False)
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _show(method: str, result: Any) -> None:
    from rich.console import Console  # costs start-up time that piped use and `--help` need not pay

    from node.cli.render import render

    render(method, result, Console())


def _how_to_check(method: str) -> str:
    return _HOW_TO_CHECK.get(method, "Ask for the state before you repeat it.")


def _say(sentence: str) -> None:
    click.echo("".join(c if c.isprintable() else "?" for c in sentence), err=True)


class _Spinner:
    """After a second, on a terminal's stderr: what we wait for and how long. Nothing where output is collected."""

    def __init__(self, method: str) -> None:
        self._method = method
        self._is_on = sys.stderr.isatty()
        self._shown = False

    def show(self, seconds: float) -> None:
        if not self._is_on or seconds < SPIN_AFTER:
            return
        sign = _SPINNER[int(seconds * 10) % len(_SPINNER)]
        sys.stderr.write(f"\r{sign} {self._method} {int(seconds)} s ")
        sys.stderr.flush()
        self._shown = True

    def clear(self) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


if __name__ == "__main__":
    main()
