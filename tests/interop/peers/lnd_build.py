"""Builds LND and lncli from the Go module proxy, once, into the cache folder; progress goes to the terminal.

Four constants are changed in a copy of the source, all of them waiting times that no setting moves: LND looks at the
feerate of its channels every 10 to 60 minutes (here: 2 to 4 seconds), and pings once a minute, or once in three
minutes a peer on 127.0.0.1, which it takes for one behind Tor (here: 12 seconds). Nothing else differs.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from protocol.hashes import sha256
from tests.interop.peers.base import CACHE, NotInstalled

VERSION = "0.21.2-beta"
WRAPPER = Path(__file__).parent / "lnd"
FOLDER = CACHE / f"lnd-{VERSION}"
PACKAGES = ("github.com/lightningnetwork/lnd/cmd/lnd", "github.com/lightningnetwork/lnd/cmd/lncli")
TAGS = "signrpc walletrpc chainrpc invoicesrpc routerrpc peersrpc dev"
CHANGES = {
    "htlcswitch/link.go": {
        "DefaultMinLinkFeeUpdateTimeout = 10 * time.Minute": "DefaultMinLinkFeeUpdateTimeout = 2 * time.Second",
        "DefaultMaxLinkFeeUpdateTimeout = 60 * time.Minute": "DefaultMaxLinkFeeUpdateTimeout = 4 * time.Second",
    },
    "peer/brontide.go": {
        "pingInterval = 1 * time.Minute": "pingInterval = 4 * time.Second",
        "pingTimeout = 30 * time.Second": "pingTimeout = 3 * time.Second",
    },
}
SHOW_EVERY = 5.0


def _recipe() -> str:
    """What a cached build was made from."""
    parts = [(WRAPPER / "go.mod").read_text(), (WRAPPER / "go.sum").read_text(), TAGS, repr(CHANGES)]
    return sha256("\0".join(parts).encode()).hex()


def build() -> None:
    """Raises NotInstalled. A build that is in the cache takes no time."""
    stamp = FOLDER / "recipe"
    if stamp.exists() and stamp.read_text() == _recipe():
        return
    if shutil.which("go") is None:
        raise NotInstalled("LND is built with Go, which is not installed (1.25 or newer)")
    FOLDER.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    _say(f"LND {VERSION}: fetching modules")
    _go("mod", "download", "github.com/lightningnetwork/lnd")
    source = Path(_go("list", "-m", "-f", "{{.Dir}}", "github.com/lightningnetwork/lnd").strip())
    total = len(_go("list", "-deps", "-tags", TAGS, *PACKAGES).splitlines())
    modfile = _patched(source)
    arguments = ["-trimpath", "-ldflags", "-s -w", "-tags", TAGS, f"-modfile={modfile}"]
    _run_build([*arguments, "-o", f"{FOLDER}{os.sep}", *PACKAGES], total)
    stamp.write_text(_recipe())
    _say(f"LND {VERSION}: built in {(time.monotonic() - began) / 60:.1f} minutes, kept in {FOLDER}")


def _patched(source: Path) -> Path:
    """A go.mod that is ours, but takes LND from the changed copy."""
    copy = FOLDER / "source"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("docs", "*_test.go"))
    for name, changes in CHANGES.items():
        _change(copy / name, changes)
    modfile = FOLDER / "go.mod"
    replace = f"\nreplace github.com/lightningnetwork/lnd => {copy}\n"
    modfile.write_text((WRAPPER / "go.mod").read_text() + replace)
    shutil.copy(WRAPPER / "go.sum", FOLDER / "go.sum")
    return modfile


def _change(path: Path, changes: dict[str, str]) -> None:
    text = path.read_text()
    for old, new in changes.items():
        if text.count(old) != 1:
            raise NotInstalled(f"{path} does not read as expected: {old!r} is there {text.count(old)} times")
        text = text.replace(old, new)
    for entry in (path.parent, path):
        entry.chmod(entry.stat().st_mode | 0o200)  # copied from the module cache, which is read-only
    path.write_text(text)


def _environment() -> dict[str, str]:
    return {**os.environ, "CGO_ENABLED": "0"}


def _go(*arguments: str) -> str:
    done = subprocess.run(
        ["go", *arguments], cwd=WRAPPER, env=_environment(), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise NotInstalled(f"go {arguments[0]} failed: {done.stderr.strip()[-500:]}")
    return done.stdout


def _run_build(arguments: list[str], total: int) -> None:
    """`go build -v` names each package when it is compiled; what is in Go's own cache goes unnamed."""
    nice = ["nice", "-n", "10"] if shutil.which("nice") else []
    process = subprocess.Popen(
        [*nice, "go", "build", "-v", *arguments],
        cwd=WRAPPER,
        env=_environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    last: list[str] = []
    for line in _shown(process, total):
        last = [*last[-20:], line]
    if process.wait() != 0:
        raise NotInstalled("LND did not build:\n" + "".join(last))


def _shown(process: "subprocess.Popen[str]", total: int) -> Iterator[str]:
    assert process.stderr is not None
    began = shown = time.monotonic()
    for count, line in enumerate(process.stderr, 1):
        if time.monotonic() - shown > SHOW_EVERY:
            shown = time.monotonic()
            _say(
                f"LND {VERSION}: {count} of at most {total} packages, {shown - began:.0f} s, now {line.strip()}"
            )
        yield line


def _say(text: str) -> None:
    # Past pytest's capture: a build of ten minutes must not look like a hang.
    print(text, file=sys.__stderr__, flush=True)
