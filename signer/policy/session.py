"""Who may ask: one node session at a time, of this network and contract (DESIGN, "Processes, trust, files")."""

from protocol.bus.messages.signer import CONTRACT_VERSION, Hello
from signer.refusal import Denied


def session_fenced(current: int, asked: int) -> None:
    """`session-fenced`: a second node on the same signer would make a second history."""
    if asked != current or current == 0:
        raise Denied(
            "session-fenced",
            "the signer serves the newest session only",
            seen=f"session {asked}",
            limit=f"session {current}" if current else "a session: say hello first",
            next_step="Make sure that one node runs on this signer, and let it connect again.",
        )


def hello_matches(hello: Hello, network: str) -> None:
    """`hello`: both ends speak of the same network in the same words."""
    if hello.network != network or hello.contract_version != CONTRACT_VERSION:
        raise Denied(
            "hello",
            "node and signer run on one network and speak one contract version",
            seen=f"{hello.network[:40]!a}, version {hello.contract_version}",
            limit=f"{network!r}, version {CONTRACT_VERSION}",
            next_step="Start both with the same network and the same release.",
        )
