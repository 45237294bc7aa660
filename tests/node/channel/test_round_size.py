"""What a round writes is proportional to the HTLCs that changed, not to those that stand (DESIGN, "The channel")."""

from pathlib import Path

import pytest

from tests.bench.commitments import Counted


@pytest.mark.parametrize("standing", [0, 60, 180])
def test_a_round_writes_the_rows_that_changed_and_a_header_each_save(tmp_path: Path, standing: int) -> None:
    world = Counted(tmp_path, standing)
    world.add(1)
    one = world.bytes, world.rows
    world.bytes = world.rows = 0
    world.add(4)
    assert len(world.pair.alice.state.htlcs) == standing + 5
    # Signatures of the peer ride in the saved question: 64 bytes for each HTLC that stands, and no more of them.
    assert one[0] <= 12_000 + 5 * 64 * standing
    assert world.bytes - one[0] <= 3 * 2_200 + 5 * 64 * 4
    assert one[1] <= 16
    assert world.rows - one[1] <= 3 * 4
