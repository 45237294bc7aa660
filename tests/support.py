"""What the tests share: published vectors, and needs that may be absent on a lone clone.

`LNP_REQUIRE=vectors,pyln,…` (set by `.ci/run`) turns a skip for a missing need into a failure.
`LNP_VECTORS` points at the vectors; the default is `../shared/vectors` beside the checkout.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
VECTORS = Path(os.environ.get("LNP_VECTORS", ROOT.parent / "shared" / "vectors"))


def need(name: str, present: bool, why: str) -> None:
    """Skip the test with `why`, or fail it where `LNP_REQUIRE` names the need."""
    if present:
        return
    if name in os.environ.get("LNP_REQUIRE", "").split(","):
        pytest.fail(f"{name} is required here: {why}")
    pytest.skip(why)


def vector_path(name: str) -> Path:
    path = VECTORS / name
    need("vectors", path.exists(), f"the published vectors are not beside this clone ({name})")
    return path


def vectors(name: str) -> Any:
    """The JSON of a published vector file, such as `bolt08/handshake.json`."""
    return json.loads(vector_path(name).read_text())
