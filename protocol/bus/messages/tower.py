"""What the watchtower file's writer says (issue "channel", 3: penalties signed beforehand)."""

from msgspec import Struct


class GetTowerStatus(Struct, frozen=True, tag="tower.status"):
    """Answered with `TowerStatus`."""


class TowerStatus(Struct, frozen=True, tag="tower.status_is"):
    """`file` is empty when no tower is wanted. `pending`: revoked commitments whose line is not in the file yet;
    `written`: lines since the node started; `sentence`: why it does not go on, or nothing."""

    file: str
    size: int
    written: int
    pending: int
    written_at: int | None
    sentence: str
