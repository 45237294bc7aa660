"""What our programs write into their logs when they find a fault of their own."""

from collections.abc import Iterable
from pathlib import Path

from node.demo.stack import Node

WORDS = ("event=bug", "Traceback", "request_failed", "commit_failed")


class Faults:
    """Looks at each line of each log once, so that every fault is found by the test in which it came up."""

    def __init__(self) -> None:
        self._read: dict[Path, int] = {}

    def new(self, nodes: Iterable[Node]) -> list[str]:
        found = []
        for log in (log for node in nodes for log in (node.daemon.log, node.signer.log)):
            lines = log.read_text(errors="replace").splitlines() if log.exists() else []
            fresh = lines[self._read.get(log, 0) :]
            self._read[log] = len(lines)
            found += [f"{log.name}: {line}" for line in fresh if any(word in line for word in WORDS)]
        return found
