"""Two nodes that know the chain from an Electrum server only: they open, pay, close, and get their coins back."""

from pathlib import Path

from node.config import load
from node.demo.stack import Node, Stack, wait_for
from tests.whole.support import folder, open_channel


class ElectrumNode(Node):
    def chain_options(self) -> tuple[str, ...]:
        return ("--electrum", f"tcp://{self.chain.doors['electrum_endpoint']}")


def electrum_stack(place: Path) -> Stack:
    stack = Stack(place)
    stack.nodes = {name: ElectrumNode(name, place, stack.chain) for name in stack.nodes}
    return stack


def confirmed(node: Node) -> int:
    outputs = node.call("listfunds")["outputs"]
    return sum(int(o["amount_msat"]) // 1000 for o in outputs if o["status"] == "confirmed")


def test_two_nodes_on_electrum_open_pay_and_close() -> None:
    with folder() as place, electrum_stack(place) as stack:
        stack.start()
        alice, bob = stack.nodes["alice"], stack.nodes["bob"]
        for node in (alice, bob):
            config = load(node.datadir / "regtest")
            assert config.bitcoind is None and config.electrum is not None
        open_channel(stack, sat=1_000_000)
        invoice = bob.call("invoice", amount_msat=21_000_000, label="a", description="electrum")
        paid = alice.call("pay", invoice["bolt11"])
        assert paid["status"] == "complete"
        # A restart: what was watched is looked for again.
        alice.daemon.stop()
        stack.chain.mine(1)
        alice.start_daemon()
        alice.wait_ready()
        stack.settled_at(stack.chain.height)
        wait_for("the line", lambda: all(c["reestablished"] for c in alice.channels()))
        channel_id = alice.channels()[0]["channel_id"]
        alice.call("close", channel_id)
        stack.chain.mine(1)
        stack.settled_at(stack.chain.height)
        # option_simple_close: each side offers a close that it pays for itself, and either may confirm.
        wait_for("bob's coins", lambda: 18_000 < confirmed(bob) <= 21_000)
        wait_for("alice's coins", lambda: confirmed(alice) > 10_000_000 - 21_000 - 20_000)
        assert confirmed(alice) < 10_000_000 * 2


def test_a_close_by_force_while_the_node_was_off_is_found_in_the_history_of_its_script() -> None:
    with folder() as place, electrum_stack(place) as stack:
        stack.start()
        alice, bob = stack.nodes["alice"], stack.nodes["bob"]
        open_channel(stack, sat=1_000_000, push_msat=400_000_000)
        bob.daemon.stop()
        alice.call("close", alice.channels()[0]["channel_id"], 1)
        stack.chain.mine(2)
        bob.start_daemon()
        bob.wait_ready()
        stack.settled_at(stack.chain.height)
        wait_for("bob to see it", lambda: [c["state"] for c in bob.channels()] == ["AWAITING_UNILATERAL"])

        def mined_until_paid() -> bool:
            stack.chain.mine(1)
            stack.settled_at(stack.chain.height)
            return confirmed(bob) > 390_000

        wait_for("bob's coins", mined_until_paid, seconds=30, every=0.3)
        assert confirmed(bob) <= 400_000
