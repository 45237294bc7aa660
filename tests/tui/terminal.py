"""A real terminal: tmux on a socket of its own. Keys are typed, and the screen is polled; nothing sleeps for luck."""

import os
import secrets
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parents[2]


class Terminal:
    def __init__(
        self, *command: str, width: int = 120, height: int = 40, term: str = "xterm-256color"
    ) -> None:
        self._socket = f"lnp-test-{os.getpid()}-{secrets.token_hex(4)}"
        self._folder = tempfile.TemporaryDirectory(prefix="lnp-term-")
        self._ended = Path(self._folder.name) / "ended"
        # Textual draws on standard error, so nothing is redirected.
        line = shlex.join(
            [
                "env",
                "-u",
                "COLUMNS",
                "-u",
                "LINES",
                f"TERM={term}",
                f"PYTHONPATH={ROOT}",
                sys.executable,
                *command,
            ]
        )
        self._tmux(
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            str(width),
            "-y",
            str(height),
            f"{line}; echo $? > {self._ended}; cat",
        )

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tmux("kill-server", check=False)
        self._folder.cleanup()

    def exit_code(self, seconds: float = 30.0) -> int:
        """Waits until the program has ended. (What tmux shows after it, once resized, is not to be relied on.)"""
        end = time.monotonic() + seconds
        while not self._ended.exists() or not self._ended.read_text().strip():
            if time.monotonic() > end:
                raise AssertionError(f"the program goes on:\n{self.text()}")
            time.sleep(0.05)
        return int(self._ended.read_text())

    def text(self) -> str:
        return self._tmux("capture-pane", "-p")

    def colours(self) -> str:
        return self._tmux("capture-pane", "-p", "-e")

    def press(self, *keys: str) -> None:
        """tmux's names: Enter, Escape, Tab, Down; letters are themselves."""
        for key in keys:
            self._tmux("send-keys", key)

    def type(self, text: str) -> None:
        self._tmux("send-keys", "-l", text)

    def leave(self, title: str) -> None:
        """Escape, until the dialog is gone: a key that comes at once after it would be taken for alt and that key."""
        self.press("Escape")
        self.wait(gone=title)

    def next_field(self, seconds: float = 20.0) -> None:
        """Tab, until the focus has moved: what is typed before would stand in the old field."""
        before, end = self.colours(), time.monotonic() + seconds
        self.press("Tab")
        while self.colours() == before:
            if time.monotonic() > end:
                raise AssertionError(f"the focus did not move:\n{self.text()}")
            time.sleep(0.05)

    def paste(self, text: str) -> None:
        """As a terminal pastes: bracketed, all at once."""
        self._tmux("set-buffer", text)
        self._tmux("paste-buffer", "-p")

    def resize(self, width: int, height: int) -> None:
        self._tmux("resize-window", "-x", str(width), "-y", str(height))

    def wait(self, *wanted: str, gone: str = "", seconds: float = 60.0) -> str:
        """The screen, once all of these stand on it."""
        end = time.monotonic() + seconds
        while True:
            text = self.text()
            if all(word in text for word in wanted) and not (gone and gone in text):
                return text
            if time.monotonic() > end:
                raise AssertionError(f"{wanted} did not come (or {gone!r} stayed); the screen is:\n{text}")
            time.sleep(0.05)

    def _tmux(self, *arguments: str, check: bool = True) -> str:
        done = subprocess.run(
            ["tmux", "-L", self._socket, *arguments], capture_output=True, text=True, check=False
        )
        if check and done.returncode != 0:
            raise AssertionError(f"tmux {arguments[0]}: {done.stderr}")
        return done.stdout
