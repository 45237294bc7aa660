"""What a watchtower needs of a commitment that the peer has just revoked (BOLT 5, "Revoked Transaction Close
Handling").

The content is rebuilt from the state before the revocation: its rows hold everything that stood in that commitment.
"""

from node.channel.content import content
from node.channel.state import State
from node.channel.store import Unit
from node.storage import tower
from protocol.bolt3.commitment import Side


def note(before: State, after: State) -> Unit:
    """Rows to be saved together with the step that took the revocation; none for any other step."""
    old, new = before.committed, after.committed
    if new.remote_revoked == old.remote_revoked or old.forgotten:
        return []
    rows = []
    for number in range(old.remote_revoked, new.remote_revoked):
        told = new.unaccepted
        revocation = told if told is not None and told.number == number else None
        revoked = tower.Revoked(content(old, before.htlcs, Side.COUNTERPARTY, number), revocation)
        rows.append(tower.row(old.params.handle, revoked))
    return [(tower.PUT, rows)]
