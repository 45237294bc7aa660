"""How a rule says no: `Denied` (we will not) and `PeerBroke` (the peer is at fault) (DESIGN, "The signer contract").

Their texts go to the node and into its logs, so no secret may stand in them.
"""

from protocol.bus.messages.signer import PeerFault, Refused


class Denied(Exception):
    """We will not do this; nothing of the request that raised it is kept."""

    def __init__(self, tag: str, rule: str, *, seen: str, limit: str, next_step: str) -> None:
        super().__init__(tag)
        self.reply = Refused(tag, rule, seen, limit, next_step)


class PeerBroke(Exception):
    """The peer sent what cannot be accepted."""

    def __init__(self, tag: str, sentence: str, clause: str) -> None:
        super().__init__(tag)
        self.reply = PeerFault(tag, sentence, clause)


def internal_error() -> Refused:
    """What a bug of ours answers: which one it is stands in the signer's own log, never in the answer."""
    return Refused(
        "internal",
        "a request that the signer cannot judge is refused whole",
        seen="an error inside the signer",
        limit="none",
        next_step="Look into the signer's log and report it; other channels go on.",
    )
