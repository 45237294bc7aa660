"""tower: how the file for a watchtower comes along."""

from node.rpc.params import Arguments, Param, one_of
from node.rpc.table import Context, Method, Result
from protocol.bus.messages.tower import GetTowerStatus, TowerStatus


async def tower(context: Context, _arguments: Arguments) -> Result:
    status: TowerStatus = await context.bus.request("tower", GetTowerStatus())
    result: Result = {"enabled": bool(status.file)}
    if not status.file:
        result["what_to_do"] = 'Name a file in lnp.toml: [tower] file = "/path", and restart the node.'
        return result
    result.update(file=status.file, bytes=status.size, written=status.written, pending=status.pending)
    if status.written_at is not None:
        result["written_at"] = status.written_at
    if status.sentence:
        result["error"] = status.sentence
    return result


METHODS = (
    Method(
        name="tower",
        params=(Param("action", one_of("status"), "status"),),
        handler=tower,
        help="The file with penalties for a watchtower: where it is, and how many revoked commitments wait to be "
        "written to it.",
        category="backup",
    ),
)
