from pathlib import Path

from node.demo.stack import Stack
from tests.faults import Faults


def test_a_fault_in_a_log_is_found_once(tmp_path: Path) -> None:
    nodes = Stack(tmp_path, ("alice", "bob")).nodes
    faults = Faults()
    assert faults.new(nodes.values()) == []  # no log yet
    daemon, signer = nodes["bob"].daemon.log, nodes["alice"].signer.log
    daemon.write_text("event=ready\nevent=bug service=chain\n")
    assert faults.new(nodes.values()) == ["bob-lnpd.log: event=bug service=chain"]
    assert faults.new(nodes.values()) == []
    with daemon.open("a") as log:
        log.write("Traceback (most recent call last):\n")
    signer.write_text("ERROR request_failed error=ValueError\n")
    assert len(faults.new(nodes.values())) == 2
