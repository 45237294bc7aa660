"""Every kind of spend, with HTLCs in every state, to the last output (BOLT 5, whole).

All scenes run in `make soak`; here a sample of them, the same at each run.
"""

import os
import random
from importlib.util import find_spec
from pathlib import Path

import pytest

from node.onchain.state import Kind
from tests.node.onchain.scenes import Scene, all_scenes, play
from tests.node.onchain.world import World
from tests.support import need

SAMPLE = 24
SEED = 5


def chosen() -> list[Scene]:
    scenes = all_scenes()
    if os.environ.get("LNP_HYPOTHESIS") == "soak":
        return scenes
    return random.Random(SEED).sample(scenes, SAMPLE)


@pytest.mark.parametrize("scene", chosen(), ids=str)
def test_everybody_gets_what_is_theirs_and_hears_it_once(scene: Scene, tmp_path: Path) -> None:
    """checklist 43-52"""
    need("kernel", find_spec("pbk") is not None, "py-bitcoinkernel is not installed")
    world = World(tmp_path, anchors=scene.anchors)
    try:
        play(world, scene)
    finally:
        world.close()


def test_the_scenes_have_all_five_kinds_of_spend(tmp_path: Path) -> None:
    """checklist 45: what the cuts of the dance lead to, seen from both ends."""
    need("kernel", find_spec("pbk") is not None, "py-bitcoinkernel is not installed")
    seen: set[Kind] = set()
    for n, (how, publisher, cut) in enumerate(
        (
            ("newest", "alice", 0),
            ("newest", "bob", 2),
            ("newest", "bob", 5),
            ("revoked", "bob", 0),
            ("mutual", "alice", 0),
        )
    ):
        world = World(tmp_path / str(n), anchors=False)
        try:
            seen |= play(world, Scene(False, how, publisher, cut, False, False))
        finally:
            world.close()
    assert seen == {Kind.MUTUAL, Kind.OURS, Kind.THEIRS, Kind.THEIRS_NEXT, Kind.REVOKED}
