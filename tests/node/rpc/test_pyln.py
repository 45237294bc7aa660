"""pyln-client, the client library of Core Lightning, drives our socket as it is."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.node.rpc.support import ADDRESS, CHANNEL_ID, HASH, OUR_ID, PEER_ID, TXID_HEX, Gateway, payment
from tests.support import need

SCRIPT = Path(__file__).with_name("pyln_script.py")
INSTALL_SECONDS = 300


def pyln_python() -> Path:
    """pyln-client replaces our coincurve where it is installed, so it lives in an environment of its own."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    directory = cache / "lnp-node" / "pyln-venv"
    python = directory / "bin" / "python"
    if not _has_pyln(python):
        steps = [
            [sys.executable, "-m", "venv", str(directory)],
            [str(python), "-m", "pip", "install", "--quiet", "pyln-client"],
        ]
        for step in steps:
            done = subprocess.run(step, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
            need("pyln", done.returncode == 0, f"pyln-client cannot be installed: {done.stderr[-300:]}")
    return python


def _has_pyln(python: Path) -> bool:
    if not python.exists():
        return False
    return (
        subprocess.run([python, "-c", "import pyln.client"], capture_output=True, check=False).returncode == 0
    )


@pytest.fixture(scope="session")
def pyln() -> Path:
    return pyln_python()


async def test_pyln_client_works_as_it_is(gateway: Gateway, pyln: Path):
    gateway.payments.paid.set()
    process = await asyncio.create_subprocess_exec(
        *(str(pyln), str(SCRIPT), str(gateway.rpc.path), PEER_ID.hex(), HASH.hex()),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
    seen = json.loads(out)
    assert seen["id"] == OUR_ID.hex()
    assert seen["newaddr"] == {"bech32": ADDRESS}
    assert seen["invoices"][0]["amount_msat"] == 10_000
    assert seen["channels"][0]["channel_id"] == CHANNEL_ID.hex()
    assert seen["filtered"] == {"channels": [{"state": "CHANNELD_NORMAL"}]}
    assert (seen["connect"], seen["fundchannel"], seen["close"]) == (PEER_ID.hex(), TXID_HEX, "mutual")
    preimage = payment().preimage
    assert preimage is not None
    assert seen["pay"] == seen["xpay"] == seen["pays"][0]["preimage"] == preimage.hex()
    assert seen["feerates"] == 2500
    assert seen["unknown_method"]["code"] == -32601
    assert (seen["bad_params"]["code"], "'label'" in seen["bad_params"]["message"]) == (-32602, True)
    assert seen["stop"] == {"result": "Shutdown complete"}
    await asyncio.wait_for(gateway.stopped.wait(), 5)
