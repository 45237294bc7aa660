"""Node and signer after a crash or a restored backup: who is behind (DESIGN, "Version sets")."""

from node.channel.state import Committed
from protocol.bus.messages.signer import NumbersOfChannel


def signer_is_behind(committed: Committed, signer: NumbersOfChannel) -> bool:
    """The node's own state is newer than the signer's: a copy of the signer's database was put back."""
    return signer.holder_revoked < committed.local_number or signer.holder_validated < committed.local_number


def lost_reason(committed: Committed, signer: NumbersOfChannel | None) -> str | None:
    """None when the two fit: equal, or the signer ahead by the open question, and by one more that it answered while
    our save of it was lost in the crash (save and ask run together). Else why nothing may be published."""
    if signer is None:
        return "the signer does not know this channel: it is another signer, or an old copy of its database"
    validating = committed.question is not None and committed.question.validate is not None
    ahead = 2 if validating else 1
    if signer.holder_revoked > committed.local_number + ahead:
        return (
            f"the signer has revoked {signer.holder_revoked} of our commitments and this database knows of"
            f" {committed.local_number}: it is an old copy"
        )
    if signer.counterparty_signed > committed.remote_number + 1:
        return (
            f"the signer has signed commitment {signer.counterparty_signed} of the peer and this database"
            f" knows of {committed.remote_number}: it is an old copy"
        )
    if signer_is_behind(committed, signer):
        return (
            f"the signer has revoked {signer.holder_revoked} of our commitments and this database"
            f" {committed.local_number}: the signer works on an old copy"
        )
    return None
