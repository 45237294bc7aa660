"""`python -m tests.interop build | shell PEER`: set up the peers, or talk to one by hand."""

import argparse
import code
import sys
import tempfile
from pathlib import Path

from tests.interop.harness import PEERS, NotInstalled, World, install
from tests.interop.peers import btcd_build
from tests.interop.peers.lnd_peer import Lnd


def build() -> int:
    """Sets up every peer, and btcd, that can be had here; a missing one is told and is no failure of this step."""
    for name, peer in PEERS.items():
        try:
            install(name)
            print(f"{name}: {peer.version} is ready", flush=True)
        except NotInstalled as error:
            print(f"{name}: not here: {error}", flush=True)
    try:
        print(f"btcd: {btcd_build.VERSION} is ready in {btcd_build.build().parent}", flush=True)
    except NotInstalled as error:
        print(f"btcd: not here: {error}", flush=True)
    return 0


def shell(name: str) -> int:
    try:
        peer = install(name)
    except NotInstalled as error:
        print(error, file=sys.stderr)
        return 1
    folder = Path(tempfile.mkdtemp(prefix=f"lnp-interop-{name}-")) / "world"
    print(f"starting a chain, our node and {peer.version} in {folder}", flush=True)
    with World(peer, folder) as world:
        world.fund()
        world.connect("ours")
        print(_help(world))
        code.interact(banner="", local={"world": world, "ours": world.ours, "peer": world.peer}, exitmsg="")
    return 0


def _help(world: World) -> str:
    lines = [
        "",
        f"our node  {world.our_id}  at {world.ours.address}",
        f"{world.peer.name}  {world.their_id}  at {world.peer.address}",
        "",
        f"in another terminal:  lnp --datadir {world.ours.datadir} --network regtest getinfo",
    ]
    if isinstance(world.peer, Lnd):
        lines.append(f"                      {' '.join(world.peer.lncli())} getinfo")
    lines += [
        "",
        "here, for example:    funding = world.open('ours', push_sat=400_000)",
        "                      ours.call('xpay', world.their_invoice(5_000_000))",
        "                      peer.pay(world.our_invoice(5_000_000)['bolt11'])",
        "                      world.close(funding, by='theirs')",
        "Ctrl-D ends everything.",
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.interop", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="set up every peer")
    by_hand = commands.add_parser("shell", help="start a peer and our node, and a Python prompt between them")
    by_hand.add_argument("peer", choices=sorted(PEERS))
    options = parser.parse_args()
    return build() if options.command == "build" else shell(options.peer)


if __name__ == "__main__":
    sys.exit(main())
