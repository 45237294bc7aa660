"""`make demo` without a terminal: it ends by itself, and its text tells each step that it promises."""

import re
import subprocess
import sys
import time

from tests.support import ROOT

STEPS = (
    r"regtest chain under Bitcoin Core's consensus code is at height \d+",
    r"alice: node 0[23][0-9a-f]{18}… listens on 127\.0\.0\.1:\d+; its keys are with lnp-signer",
    r"process \d+; the daemon, process \d+, holds none",
    r"bob: node 0[23][0-9a-f]{18}…",
    r"alice has 100,000,000 sat on chain at bcrt1q",
    r"alice and bob are connected",
    r"alice opened an anchors channel of 1,000,000 sat: funding txid [0-9a-f]{64}",
    r"the funding is 3 blocks deep at height \d+: the channel is open",
    r"alice paid 21,000 sat to bob in \d+ ms; the proof is the preimage [0-9a-f]{16}",
    r"bob paid 4,000 sat to alice in \d+ ms",
    r"killed with -9 in the middle of a payment of 10,000 sat",
    r"alice's daemon is back as process \d+",
    r"the interrupted payment is (complete|failed|never sent); the balances add up to the millisatoshi",
    r"alice and bob closed the channel together \(mutual\): txid [0-9a-f]{64}",
    r"alice has [\d,]+ sat on chain at height \d+",
    r"bob has [\d,]+ sat on chain at height \d+",
    r"done: every process is stopped",
)


def test_demo_tells_every_step_in_order_and_exits_0() -> None:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "node.demo"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    at = 0
    for step in STEPS:
        found = re.compile(step).search(done.stdout, at)
        assert found is not None, f"{step!r} is missing after {done.stdout[at - 80 : at]!r} in\n{done.stdout}"
        at = found.end()
    assert all(re.match(r"\[ *\d+\.\d s\] ", line) for line in done.stdout.splitlines()), (
        "each line has its time"
    )
    print(f"the demo took {time.monotonic() - began:.1f} s")
    assert time.monotonic() - began < 30
