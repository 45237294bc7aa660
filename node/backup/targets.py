"""Files that hold the newest backup: written whole beside the old one, then put in its place."""

import os
from pathlib import Path

MODE = 0o600


def write(path: Path, blob: bytes) -> None:
    """Durable when it returns. Raises OSError; the old backup is then still there."""
    part = path.with_name(f"{path.name}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, MODE)
    try:
        with open(descriptor, "wb") as file:
            file.write(blob)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
