"""backup: where the static channel backup is, a new one, and whether a copy is good."""

from typing import Any

from node.rpc.errors import invalid_params
from node.rpc.params import REQUIRED, Arguments, Param, one_of, text
from node.rpc.table import Context, Method, Result
from protocol.bus.messages.backup import (
    BackupStatus,
    ExportBackup,
    ExportedBackup,
    GetBackupStatus,
    VerifiedBackup,
    VerifiedBackups,
    VerifyBackup,
)

SECONDS = 60.0


async def backup(context: Context, arguments: Arguments) -> Result:
    action, blob = arguments["action"], _blob(arguments["backup"])
    if action == "status":
        return _status(await context.bus.request("backup", GetBackupStatus(), deadline=SECONDS))
    if action == "export":
        made: ExportedBackup = await context.bus.request("backup", ExportBackup(), deadline=SECONDS)
        return {"backup": made.blob.hex(), "counter": made.counter, "channels": made.channels}
    found: VerifiedBackups = await context.bus.request("backup", VerifyBackup(blob), deadline=SECONDS)
    return {"backups": [_verified(entry) for entry in found.backups]}


def _blob(given: str | None) -> bytes | None:
    if given is None:
        return None
    try:
        return bytes.fromhex(given)
    except ValueError:
        raise invalid_params("backup: must be the hex of a backup, as `backup export` gives it") from None


def _status(status: BackupStatus) -> Result:
    targets: list[dict[str, Any]] = []
    for target in status.targets:
        entry: dict[str, Any] = {"target": target.name, "ok": not target.sentence, "counter": target.counter}
        if target.written_at is not None:
            entry["written_at"] = target.written_at
        if target.sentence:
            entry["error"] = target.sentence
        targets.append(entry)
    result: Result = {
        "targets": targets,
        "counter": status.counter,
        "channels": status.channels,
        "bytes": status.size,
        "pending": status.pending,
    }
    if status.made_at is not None:
        result["made_at"] = status.made_at
    if status.warning:
        result["warning"] = status.warning
    return result


def _verified(entry: VerifiedBackup) -> dict[str, Any]:
    result: dict[str, Any] = {
        "target": entry.name,
        "ok": not entry.sentence,
        "counter": entry.counter,
        "newest": entry.newest,
        "channels": entry.channels,
    }
    if entry.missing:
        result["missing"] = [channel_id.hex() for channel_id in entry.missing]
    if entry.sentence:
        result["error"] = entry.sentence
    return result


METHODS = (
    Method(
        name="backup",
        params=(
            Param("action", one_of("status", "export", "verify"), REQUIRED),
            Param("backup", text, None),
        ),
        handler=backup,
        help="Where the static channel backup is kept and how old it is (status), a new one in hex (export), or "
        "whether the copies, or the one given in hex, can be opened and hold every channel (verify). To bring channels "
        "back, see `lnpd restore --help`.",
        category="backup",
    ),
)
