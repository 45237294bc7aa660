"""`python -m tests.tui.pictures FOLDER`: pictures of the screens, from the running program against two real nodes."""

import asyncio
import re
import shutil
import sys
import tempfile
from pathlib import Path

from node.demo.stack import Node, Stack, wait_for
from protocol.pairing import Pairing
from tui.app import LnpTui
from tui.line import NodeLine
from tui.widgets.top import SCREENS

SIZE = (120, 36)


def is_open(node: Node) -> bool:
    channels = node.channels()
    return bool(channels) and all(
        channel["state"] == "CHANNELD_NORMAL" and channel["peer_connected"] for channel in channels
    )


def prepare(stack: Stack) -> None:
    """Two channels, payments both ways, one invoice open and one that nobody can pay."""
    alice, bob = stack.nodes["alice"], stack.nodes["bob"]
    stack.chain.fund(alice.call("newaddr")["bech32"], 30_000_000)
    stack.chain.mine(1)
    wait_for("the coins", lambda: alice.call("listfunds")["outputs"])
    alice.call("connect", f"{bob.node_id}@{bob.address}")
    for amount in (5_000_000, 2_000_000):
        alice.call("fundchannel", bob.node_id, amount)
        stack.chain.mine(3)
        wait_for("the channel", lambda: is_open(alice) and is_open(bob))
    for number, sat in enumerate((1_900_000, 640_000, 21_000)):
        alice.call("xpay", bob.call("invoice", sat * 1000, f"order {number}", "an order")["bolt11"])
    for number, sat in enumerate((12_500, 4_200)):
        bob.call("xpay", alice.call("invoice", sat * 1000, f"coffee {number}", "coffee beans")["bolt11"])
    alice.call("invoice", 25_000_000, "a bicycle bell", "a bicycle bell")


async def take(stack: Stack, folder: Path) -> list[str]:
    alice, bob = stack.nodes["alice"], stack.nodes["bob"]
    pairing = Pairing.read((alice.datadir / "regtest" / "lnp-tui.pairing").read_text())
    app = LnpTui(lambda: NodeLine(pairing))
    made = []

    def keep(name: str) -> None:
        path = folder / f"tui-{name}.svg"
        picture = app.export_screenshot(title="lnp-tui")
        path.write_text(re.sub(r"@font-face \{.*?\}", "", picture, flags=re.DOTALL))  # nothing from the web
        made.append(path.name)

    async with app.run_test(size=SIZE) as pilot:
        async with asyncio.timeout(30):
            while not app.store.ready:
                await pilot.pause(0.1)
        for digit, name, _ in SCREENS:
            await pilot.press(digit)
            await pilot.pause(1.0)
            if name == "receive":
                await pilot.press("f")
                await pilot.pause(0.5)
                keep("receive-qr")
                await pilot.press("f")
                await pilot.pause(0.5)
            keep(name)
        bolt11 = await asyncio.to_thread(bob.call, "invoice", 99_000_000, "bell", "ninety-nine thousand")
        await pilot.press("2", "P")
        await pilot.pause(0.5)
        app.screen.query_one("#invoice").value = bolt11["bolt11"]  # type: ignore[attr-defined]
        await pilot.press("enter")
        await pilot.pause(1.0)
        keep("pay")
    return made


def main() -> None:
    folder = Path(sys.argv[1])
    place = Path(tempfile.mkdtemp(prefix="lnp-pic-"))
    try:
        with Stack(place) as stack:
            stack.start()
            prepare(stack)
            print("\n".join(asyncio.run(take(stack, folder))))
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
