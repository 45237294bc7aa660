"""The whole demo over Tor where no network exists but loopback: no other road can be needed, as none is there."""

import os
import shutil
import subprocess
import sys

from node.demo import tor_network
from tests.support import ROOT, need

_PREFIX = ("unshare", "--net") if os.geteuid() == 0 else ("unshare", "--net", "--map-root-user")
_INSIDE = "ip link set lo up && ip -o link show up && exec "


def _may_unshare() -> bool:
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return False
    done = subprocess.run([*_PREFIX, "sh", "-c", f"{_INSIDE} true"], capture_output=True, check=False)
    return done.returncode == 0


def test_the_demo_runs_over_tor_with_nothing_but_loopback() -> None:
    need("tor", tor_network.missing() is None, tor_network.missing() or "")
    need("netns", _may_unshare(), "this user may make no network namespace")
    done = subprocess.run(
        [*_PREFIX, "sh", "-c", f"{_INSIDE} {sys.executable} -m node.demo --tor"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    interfaces = [
        line.split(":")[1].strip() for line in done.stdout.splitlines() if "<" in line.split("mtu")[0]
    ]
    assert interfaces == ["lo"]
    for words in (
        "reachable through Tor at",
        ".onion:9735",
        "closed the channel together",
        "every process is stopped",
    ):
        assert words in done.stdout
