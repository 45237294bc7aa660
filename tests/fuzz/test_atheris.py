"""A short run of atheris over all targets, where it is installed (`LNP_REQUIRE=atheris` makes it mandatory)."""

import importlib.util
import subprocess
import sys

from tests.support import ROOT, need


def test_atheris_finds_nothing_in_a_few_seconds() -> None:
    present = importlib.util.find_spec("atheris") is not None
    need(
        "atheris", present, "atheris is not installed; Hypothesis feeds the same targets in test_decoders.py"
    )
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.atheris_targets", "-max_total_time=10", "-rss_limit_mb=1500"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_target_runner_says_how_to_get_atheris_when_it_is_missing() -> None:
    if importlib.util.find_spec("atheris") is not None:
        from tests.fuzz.atheris_targets import main

        assert callable(main)
        return
    from tests.fuzz.atheris_targets import main

    assert main([]) == 2
