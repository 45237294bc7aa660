"""`make demo`: the main job from nothing, with real processes, real consensus and real keys, in plain words."""

import argparse
import contextlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from node.demo import tor_network
from node.demo.stack import DemoFailed, Node, RpcRefused, Stack, wait_for

FUNDS = 100_000_000
BOBS_MONEY = 300_000
EVERY_SECONDS = 4.0
CHANNEL = 1_000_000
"""Small, so that a hundredth of it, the reserve, leaves bob able to pay 4,000 back out of 21,000 sat."""


class Story:
    """Prints each step with the time since the start, and a moving line while one takes long."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._live = sys.stdout.isatty()

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self._begin:5.1f} s] {text}", flush=True)

    def wait(self, what: str, seen: Any, seconds: float = 60.0) -> Any:
        began, shown = time.monotonic(), 0.0

        def look() -> Any:
            nonlocal shown
            now = time.monotonic()
            if now - began > 1 and now - shown > 1:
                shown = now
                if self._live:
                    print(f"\r          … {what} ({now - began:.0f} s)", end="", flush=True)
            return seen()

        found = wait_for(what, look, seconds=seconds)
        if self._live and shown:
            print("\r" + " " * 78 + "\r", end="", flush=True)
        return found


def balance(node: Node) -> int:
    return sum(channel["to_us_msat"] for channel in node.channels())


def quiet(node: Node) -> bool:
    return not any(channel["htlcs"] for channel in node.channels())


def normal(node: Node) -> bool:
    channels = node.channels()
    return bool(channels) and all(
        channel["state"] == "CHANNELD_NORMAL" and channel["peer_connected"] for channel in channels
    )


def has_open(node: Node) -> bool:
    """Beside others that are closed and not yet buried."""
    return any(
        channel["state"] == "CHANNELD_NORMAL" and channel["peer_connected"] for channel in node.channels()
    )


def pay(story: Story, payer: Node, payee: Node, sat: int, label: str) -> None:
    invoice = payee.call("invoice", sat * 1000, label, f"demo: {label}")
    began = time.perf_counter()
    paid = payer.call("xpay", invoice["bolt11"])
    took = (time.perf_counter() - began) * 1000
    story.say(
        f"{payer.name} paid {sat:,} sat to {payee.name} in {took:.0f} ms; "
        f"the proof is the preimage {paid['payment_preimage'][:16]}…"
    )


def tell(story: Story, stack: Stack) -> None:
    alice, bob = stack.nodes["alice"], stack.nodes["bob"]
    story.say(
        f"a Bitcoin regtest chain under Bitcoin Core's consensus code is at height {stack.chain.height}"
    )
    for node in (alice, bob):
        story.say(
            f"{node.name}: node {node.node_id[:20]}… listens on {node.address}; its keys are with lnp-signer,"
        )
        story.say(f"        process {node.signer.pid}; the daemon, process {node.daemon.pid}, holds none")

    address = alice.call("newaddr")["bech32"]
    stack.chain.fund(address, FUNDS)
    stack.chain.mine(1)
    story.wait(
        "alice to see her coins",
        lambda: [o for o in alice.call("listfunds")["outputs"] if o["status"] == "confirmed"],
    )
    story.say(f"alice has {FUNDS:,} sat on chain at {address}")

    place = find(story, bob) if bob.settings else bob.address
    began = time.monotonic()
    alice.call("connect", f"{bob.node_id}@{place}")
    story.say(
        f"alice and bob are connected in {time.monotonic() - began:.1f} s (BOLT 8, static keys in the signers)"
    )
    opened = alice.call("fundchannel", bob.node_id, CHANNEL)
    story.say(f"alice opened an anchors channel of {CHANNEL:,} sat: funding txid {opened['txid']}")
    stack.chain.mine(3)
    story.wait("the channel to be usable", lambda: normal(alice) and normal(bob))
    story.say(f"the funding is 3 blocks deep at height {stack.chain.height}: the channel is open")

    pay(story, alice, bob, 21_000, "coffee machine")
    pay(story, bob, alice, 4_000, "change")
    crash(story, stack)
    close(story, stack)


def find(story: Story, node: Node) -> str:
    """The onion address, once the node has reached itself there as a stranger would."""
    place: str = story.wait(f"{node.name} to be reachable through Tor", lambda: node.onion, seconds=120)
    story.say(f"{node.name} is reachable through Tor at {place}")
    return place


def crash(story: Story, stack: Stack) -> None:
    """kill -9 in the middle of a payment: nothing is lost, nothing is paid twice."""
    alice, bob = stack.nodes["alice"], stack.nodes["bob"]
    wait_for("the last payment to settle", lambda: quiet(alice) and quiet(bob))
    before = balance(alice), balance(bob)
    invoice = bob.call("invoice", 10_000_000, "interrupted", "demo: interrupted")
    paying = threading.Thread(target=_pay_into_the_crash, args=(alice, invoice["bolt11"]))
    paying.start()
    wait_for(
        "the payment to be on its way",
        lambda: (
            any(channel["htlcs"] for channel in alice.channels()) or _outcome(alice, invoice) == "complete"
        ),
        seconds=20,
    )
    alice.daemon.kill()
    paying.join()
    story.say("alice's daemon was killed with -9 in the middle of a payment of 10,000 sat")
    alice.start_daemon()
    alice.wait_ready()
    story.say(f"alice's daemon is back as process {alice.daemon.pid}")
    story.wait("the channel to be reestablished", lambda: normal(alice) and normal(bob))
    outcome = story.wait(
        "the payment to reach its final state",
        lambda: (
            (state := _outcome(alice, invoice)) in ("complete", "failed", None) and (state or "never sent")
        ),
    )
    moved = 10_000_000 if outcome == "complete" else 0
    wait_for(
        "the balances to settle",
        lambda: (balance(alice), balance(bob)) == (before[0] - moved, before[1] + moved),
    )
    story.say(f"the interrupted payment is {outcome}; the balances add up to the millisatoshi")
    if outcome != "complete":
        pay(story, alice, bob, 10_000, "once more")


def _pay_into_the_crash(node: Node, bolt11: str) -> None:
    try:
        node.call("xpay", bolt11)
    except (OSError, RpcRefused):
        pass  # the daemon died under the call, as it was meant to


def _outcome(node: Node, invoice: dict[str, Any]) -> str | None:
    pays = node.call("listpays", bolt11=invoice["bolt11"])["pays"]
    return pays[0]["status"] if pays else None


def close(story: Story, stack: Stack) -> None:
    alice, bob = stack.nodes["alice"], stack.nodes["bob"]
    (channel,) = alice.channels()
    funding = f"{channel['funding_txid']}:{channel['funding_outnum']}"
    closed = alice.call("close", channel["channel_id"])
    stack.chain.mine(1)
    stack.settled_at(stack.chain.height)
    # option_simple_close: each side offers a close that it pays for itself, and either may confirm.
    closing = stack.chain.spender(funding, in_blocks=True)
    story.say(f"alice and bob closed the channel together ({closed['type']}): txid {closing}")

    def swept() -> bool:
        return all(
            any(output["txid"] == closing and output["status"] == "confirmed" for output in outputs)
            for outputs in (node.call("listfunds")["outputs"] for node in (alice, bob))
        )

    story.wait("both to have their money on chain", swept)
    for node in (alice, bob):
        total = sum(output["amount_msat"] for output in node.call("listfunds")["outputs"]) // 1000
        story.say(f"{node.name} has {total:,} sat on chain at height {stack.chain.height}")


def stay(story: Story, stack: Stack) -> None:
    """On a terminal: a fresh channel, everything running, and the terminal UI of alice, whom bob pays now and then."""
    alice, bob = stack.nodes["alice"], stack.nodes["bob"]
    alice.call("fundchannel", bob.node_id, CHANNEL)
    stack.chain.mine(3)
    story.wait("a new channel to be usable", lambda: has_open(alice) and has_open(bob))
    pay(story, alice, bob, BOBS_MONEY, "bob's money")
    story.say("everything is still running, with a new channel. In another terminal try:")
    for node in (alice, bob):
        print(f"\n  # {node.name}")
        print(f"  lnp --datadir {node.datadir} --network regtest getinfo")
        print(f"  lnp --datadir {node.datadir} --network regtest watch")
    print(f"\n  lnp --datadir {bob.datadir} --network regtest invoice 1000sat tea 'a cup of tea'")
    print("  and pay what it prints in the terminal UI of alice: P\n")
    print("The terminal UI of alice starts now; leaving it (q) stops everything.", flush=True)
    stopped = threading.Event()
    paying = threading.Thread(target=_pay_now_and_then, args=(bob, alice, stopped))
    paying.start()
    try:
        # A program of its own: it knows alice only through her gateway.
        where = ("--datadir", str(alice.datadir), "--network", "regtest")
        subprocess.run([sys.executable, "-m", "tui", *where], check=False)
    finally:
        stopped.set()
        paying.join()
    story.say("stopping")


def _pay_now_and_then(payer: Node, payee: Node, stopped: threading.Event) -> None:
    """Small amounts, until it is over or the payer has nothing left."""
    number = 0
    while not stopped.wait(EVERY_SECONDS):
        number += 1
        try:
            invoice = payee.call(
                "invoice", (100 + number) * 1000, f"coffee {number}", f"coffee number {number}"
            )
            payer.call("xpay", invoice["bolt11"])
        except (OSError, RpcRefused):
            continue  # a node may be stopped by hand, and come back


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Two nodes, two signers, one chain: open, pay, crash, close."
    )
    parser.add_argument("--keep", type=Path, help="use this folder and keep it (databases and logs)")
    parser.add_argument(
        "--tor", action="store_true", help="onion to onion, over a private Tor network on this machine"
    )
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="lnp-demo-"))
    story = Story()
    good = False
    try:
        with contextlib.ExitStack() as ending:
            stack = Stack(folder)
            if options.tor:
                story.say("starting a private Tor network: 3 authorities, 3 relays, a client for each node")
                network = ending.enter_context(tor_network.running(folder / "tor"))
                story.say(f"Tor is up after {network.seconds:.0f} s")
                for number, node in enumerate(stack.nodes.values()):
                    node.use_tor(network.socks_ports[number], network.clients[number].control_port)
            ending.enter_context(stack)
            story.say("starting the chain, two nodes and two signers")
            stack.start()
            tell(story, stack)
            good = True
            if sys.stdin.isatty() and sys.stdout.isatty():
                stay(story, stack)
        story.say("done: every process is stopped")
    except (DemoFailed, RpcRefused, OSError) as error:
        print(f"\nThe demo failed: {error}\nLogs and databases are in {folder}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        story.say("stopped")
        return 130
    finally:
        if good and options.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
