"""Builds btcd from the Go module proxy, once, into the cache folder. Nothing in it is changed."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from protocol.hashes import sha256
from tests.interop.peers.base import CACHE, NotInstalled

VERSION = "0.26.0"
WRAPPER = Path(__file__).parent / "btcd"
FOLDER = CACHE / f"btcd-{VERSION}"
PROGRAM = FOLDER / "btcd"
PACKAGE = "github.com/btcsuite/btcd"


def _recipe() -> str:
    """What a cached build was made from."""
    return sha256(((WRAPPER / "go.mod").read_text() + (WRAPPER / "go.sum").read_text()).encode()).hex()


def build() -> Path:
    """The program; raises NotInstalled. A build that is in the cache takes no time."""
    stamp = FOLDER / "recipe"
    if PROGRAM.exists() and stamp.exists() and stamp.read_text() == _recipe():
        return PROGRAM
    if shutil.which("go") is None:
        raise NotInstalled("btcd is built with Go, which is not installed (1.25 or newer)")
    FOLDER.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    _say(f"btcd {VERSION}: building, which takes a minute or two")
    nice = ["nice", "-n", "10"] if shutil.which("nice") else []
    done = subprocess.run(
        [*nice, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", str(PROGRAM), PACKAGE],
        cwd=WRAPPER,
        env={**os.environ, "CGO_ENABLED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise NotInstalled(f"btcd did not build: {done.stderr.strip()[-500:]}")
    stamp.write_text(_recipe())
    _say(f"btcd {VERSION}: built in {(time.monotonic() - began) / 60:.1f} minutes, kept in {FOLDER}")
    return PROGRAM


def _say(text: str) -> None:
    # Past pytest's capture: a build must not look like a hang.
    print(text, file=sys.__stderr__, flush=True)
