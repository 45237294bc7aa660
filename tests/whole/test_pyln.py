"""pyln-client, the client library of Core Lightning, drives two whole nodes as it is."""

import json
import subprocess
from pathlib import Path
from typing import Any

from node.demo.stack import Stack
from tests.node.rpc.test_pyln import pyln_python
from tests.whole.support import folder

SCRIPT = Path(__file__).with_name("pyln_script.py")
FUNDS = 10_000_000


def test_pyln_client_opens_pays_and_closes() -> None:
    python = pyln_python()
    with folder() as place, Stack(place) as stack:
        stack.start()
        sockets = [str(node.socket) for node in stack.nodes.values()]
        with subprocess.Popen(
            [python, SCRIPT, *sockets, str(FUNDS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                seen = _serve(process, stack)
            finally:
                process.kill()
    assert seen["connected"] == seen["bob"]
    assert len(seen["opened"]) == 64
    assert (seen["paid"], seen["waited"], seen["received"]) == ("complete", "paid", 50_000_000)
    assert seen["pays"] == [["complete", seen["preimage"]]]
    assert seen["closed"] == "mutual"
    assert 45_000_000 < seen["bob's coins"] <= 50_000_000


def _serve(process: "subprocess.Popen[str]", stack: Stack) -> dict[str, Any]:
    """Gives the script the blocks and the coins that it asks for, until it says what it has seen."""
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    for line in process.stdout:
        match line.split(maxsplit=1):
            case ["mine", blocks]:
                stack.chain.mine(int(blocks))
            case ["fund", words]:
                address, sat = words.split()
                stack.chain.fund(address, int(sat))
            case ["seen", text]:
                seen: dict[str, Any] = json.loads(text)
                return seen
        process.stdin.write("done\n")
        process.stdin.flush()
    raise AssertionError(process.stderr.read())
