"""Whole nodes: the funding fills the fee reserve, and payments leave penalties in the tower's file (DESIGN, "The fee
reserve")."""

from pathlib import Path

from node.demo.stack import Stack, wait_for
from tests.whole.support import folder, normal


def test_the_reserve_is_filled_and_returned_and_a_tower_file_grows() -> None:
    with folder() as place, Stack(place) as stack:
        file = Path(place) / "tower.txt"
        stack.nodes["alice"].settings.append(f'tower.file="{file}"')
        stack.start()
        alice, bob = stack.nodes["alice"], stack.nodes["bob"]
        stack.chain.fund(alice.call("newaddr")["bech32"], 5_000_000)
        stack.chain.mine(1)
        wait_for("the coins", lambda: alice.call("listfunds")["outputs"])
        alice.call("connect", f"{bob.node_id}@{bob.address}")
        alice.call("fundchannel", id=bob.node_id, amount=1_000_000, topup=True)
        (coming,) = [o for o in alice.call("listfunds")["outputs"] if o["reserved"]]
        stack.chain.mine(6)
        wait_for("the channel", lambda: normal(alice, bob))
        status = wait_for(
            "the reserve", lambda: (r := alice.call("reserve"))["confirmed_msat"] > 0 and r["channels"] and r
        )
        assert status["present_msat"] == coming["amount_msat"] == status["confirmed_msat"]
        assert (status["mode"], status["channels"], status["short_msat"]) == ("shadow", 1, 0)
        assert bob.call("tower") == {"enabled": False, "what_to_do": bob.call("tower")["what_to_do"]}

        made = bob.call("invoice", amount_msat=50_000_000, label="one", description="test")
        assert alice.call("pay", made["bolt11"])["status"] == "complete"
        # In the first commitment Bob had nothing that could be taken: that one needs no line.
        tower = wait_for("the file", lambda: (t := alice.call("tower"))["written"] and not t["pending"] and t)
        assert tower["bytes"] == file.stat().st_size > 1_000

        more = alice.call("reserve", "topup", 100_000)
        stack.chain.mine(1)
        wait_for("more", lambda: alice.call("reserve")["coins"] == 2)
        back = alice.call("reserve", "return")
        stack.chain.mine(1)
        assert more["amount_msat"] == 100_000_000 and back["amount_msat"] > 100_000_000
        left = wait_for("the change", lambda: (r := alice.call("reserve"))["coins"] == 1 and r)
        assert left["needed_msat"] <= left["present_msat"] < left["needed_msat"] + 1_000_000
