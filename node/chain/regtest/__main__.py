"""`lnp-regtest`: a regtest chain as a process, with bitcoind's RPC and ZMQ, and as an Electrum server."""

import asyncio
import signal
from pathlib import Path

import click

from node.chain.regtest.chain import RegtestChain
from node.chain.regtest.service import RegtestService


@click.command()
@click.option("--datadir", type=click.Path(path_type=Path, file_okay=False), required=True)
@click.option("--rpcport", type=click.IntRange(0, 65535), default=0, help="0 picks a free port.")
@click.option("--zmqport", type=click.IntRange(0, 65535), default=0, help="0 picks a free port.")
@click.option("--electrumport", type=click.IntRange(0, 65535), default=0, help="0 picks a free port.")
@click.option("--rpcuser", help="A login beside the cookie file.")
@click.option("--rpcpassword")
def main(
    datadir: Path,
    rpcport: int,
    zmqport: int,
    electrumport: int,
    rpcuser: str | None,
    rpcpassword: str | None,
) -> None:
    """Run a regtest chain until SIGTERM, SIGINT or the RPC call `stop`.

    DATADIR/regtest.json tells where the chain answers, as soon as it does.
    """
    if (rpcuser is None) != (rpcpassword is None):
        raise click.UsageError("Give both --rpcuser and --rpcpassword, or neither.")
    ports = {"rpcport": rpcport, "zmqport": zmqport, "electrumport": electrumport}
    try:
        asyncio.run(_run(datadir, ports, rpcuser, rpcpassword))
    except (OSError, RuntimeError) as error:
        raise click.ClickException(str(error)) from error


async def _run(datadir: Path, ports: dict[str, int], rpcuser: str | None, rpcpassword: str | None) -> None:
    with RegtestChain(datadir) as chain:
        service = RegtestService(chain, datadir)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, service.stop)
        try:
            doors = await service.start(**ports, user=rpcuser, password=rpcpassword)
            click.echo(f"regtest height {chain.height}, rpc {doors.rpc_url}, zmq {doors.zmq_endpoint}")
            await service.wait()
        finally:
            await service.close()


if __name__ == "__main__":
    main()
