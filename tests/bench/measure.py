"""What a process cost: CPU seconds and memory from /proc, commits and signer requests from the node itself."""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from msgspec import Struct

from node.demo.stack import Node

TICKS = os.sysconf("SC_CLK_TCK")


class Cost(Struct, frozen=True):
    """Totals of one node since it started."""

    daemon_cpu: float
    signer_cpu: float
    commits: int
    requests: int

    def since(self, before: "Cost") -> "Cost":
        return Cost(
            self.daemon_cpu - before.daemon_cpu,
            self.signer_cpu - before.signer_cpu,
            self.commits - before.commits,
            self.requests - before.requests,
        )


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"process {pid} has no VmRSS")


def cost(node: Node) -> Cost:
    counters: dict[str, Any] = node.call("counters")
    return Cost(
        cpu_seconds(node.daemon.pid),
        cpu_seconds(node.signer.pid),
        counters["durable_commits"],
        counters["signer_requests"],
    )


def fdatasync_ms(folder: Path, tries: int = 50) -> float:
    """Median time to make 4 KB durable: what the disk of this run can do."""
    times = []
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        for _ in range(tries):
            file.seek(0)
            file.write(bytes(4096))
            file.flush()
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began)
    return sorted(times)[tries // 2] * 1000


def help_cpu_seconds() -> float:
    """CPU of `lnp --help`, best of three."""
    best = float("inf")
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-m", "node.cli.main", "--help"], stdout=subprocess.DEVNULL, check=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return best
