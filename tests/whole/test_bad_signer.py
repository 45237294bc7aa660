"""A signer that is missing, goes away, is another one, or does not know us: said in words, and the node goes on."""

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

from node.demo.stack import PASSPHRASE, Node, Program, wait_for
from protocol.secret import Secret
from signer import keys, keystore
from signer.link import ALLOWED_FILE
from tests.whole.bad_days import alice, bob, invoice, refusal, stack
from tests.whole.support import folder

__all__ = ["alice", "bob", "stack"]


def test_node_starts_without_its_signer_says_so_and_goes_on_when_it_comes(alice: Node, bob: Node) -> None:
    alice.daemon.stop()
    alice.signer.stop()
    alice.start_daemon()
    alice.wait_ready()
    assert alice.call("getinfo")["num_active_channels"] == 1
    assert "signer" in refusal(alice, "invoice", amount_msat=1, label=os.urandom(4).hex(), description="x")
    (channel,) = alice.channels()
    assert "waiting for the signer" in " ".join(channel["status"])
    said = refusal(alice, "xpay", invstring=invoice(bob))
    assert "usable" in said or "signer" in said, said
    alice.start_signer()


def test_signer_that_goes_away_is_named_and_work_goes_on_when_it_is_back(alice: Node, bob: Node) -> None:
    from_bob = invoice(alice)
    alice.signer.kill()
    wait_for(
        "the node to notice", lambda: "waiting for the signer" in " ".join(alice.channels()[0]["status"])
    )
    for method, given in (
        ("xpay", {"invstring": invoice(bob)}),
        ("invoice", {"amount_msat": 1, "label": os.urandom(4).hex(), "description": "x"}),
        ("signmessage", {"message": "x"}),
        ("withdraw", {"destination": alice.call("newaddr")["bech32"], "satoshi": 50_000}),
    ):
        said = refusal(alice, method, **given)
        assert "signer" in said, said
        assert "tart it" in said or "is back" in said, said
    # What comes in meanwhile waits for the signer, and nobody has to ask for it again.
    paying = threading.Thread(target=bob.call, args=("xpay", from_bob))
    paying.start()
    wait_for("the HTLC", lambda: bob.channels()[0]["htlcs"])
    alice.start_signer()
    paying.join(60)
    assert not paying.is_alive()
    assert bob.call("listpays", bolt11=from_bob)["pays"][0]["status"] == "complete"
    wait_for("the signer", lambda: "waiting" not in " ".join(alice.channels()[0]["status"]))


@contextlib.contextmanager
def other_signer(node: Node, place: Path) -> Iterator[None]:
    """In the signer's place: one with the same link key and another seed."""
    network, contents = keystore.unlock(node.signer_dir, Secret(PASSPHRASE))
    words = keys.new_mnemonic(os.urandom(32))
    changed = keystore.Contents(words, Secret(b""), contents.curve_secret)
    keystore.seal(place, network, changed, Secret(PASSPHRASE), scrypt_cost=2)
    shutil.copy(node.signer_dir / ALLOWED_FILE, place / ALLOWED_FILE)
    program = Program("other-signer", place, place / "signer.json")
    endpoint = f"ipc://{node.signer_dir / 'signer.sock'}"
    program.start("signer", "run", "--datadir", str(place), "--endpoint", endpoint, passphrase=True)
    try:
        program.wait_ready()
        yield
    finally:
        program.stop()


def last_signer_state(node: Node) -> str:
    lines = [line for line in node.daemon.log.read_text().splitlines() if "event=signer_state" in line]
    return lines[-1] if lines else ""


def test_signer_with_another_seed_is_not_used(alice: Node, bob: Node) -> None:
    alice.signer.stop()
    with folder() as place, other_signer(alice, place):
        wait_for("the node to see it", lambda: "another seed" in last_signer_state(alice))
        assert "another seed" in refusal(alice, "signmessage", message="x")
        assert "another seed" in refusal(alice, "xpay", invstring=invoice(bob))
    alice.start_signer()


def test_signer_with_another_seed_at_the_start_is_not_used(alice: Node) -> None:
    alice.daemon.stop()
    alice.signer.stop()
    with folder() as place, other_signer(alice, place):
        alice.start_daemon()
        alice.wait_ready()
        wait_for("the node to see it", lambda: "another seed" in last_signer_state(alice))
        assert "another seed" in refusal(alice, "signmessage", message="x")
    alice.start_signer()


def test_node_that_is_not_paired_is_told_how_to_pair_and_goes_on_once_it_is(alice: Node) -> None:
    allowed = alice.signer_dir / ALLOWED_FILE
    kept = allowed.read_bytes()
    alice.signer.stop()
    allowed.write_bytes(b"")
    alice.start_signer()
    wait_for("the refusal", lambda: "lnp-signer pair" in last_signer_state(alice))
    assert "lnp-signer pair" in refusal(alice, "signmessage", message="x")
    allowed.write_bytes(kept)  # what `lnp-signer pair` does
    wait_for("the node to be let in", lambda: "state=up" in last_signer_state(alice), seconds=30)
