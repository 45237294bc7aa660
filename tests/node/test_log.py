"""The log: one line an event, and no secret in it."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from node import log
from protocol.secret import Secret


@pytest.fixture
def lines(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "lnpd.log"
    log.set_up("info", path)
    yield path
    structlog.reset_defaults()
    logging.basicConfig(force=True)


def test_an_event_is_one_line_of_keys_and_values(lines: Path) -> None:
    structlog.get_logger().info("htlc_offered", id=7, amount_msat=1_000, peer=b"\x02\x03", why="two words")
    (line,) = lines.read_text().splitlines()
    assert line.startswith("at=20")
    assert line.endswith('level=info event=htlc_offered id=7 amount_msat=1000 peer=0203 why="two words"')


def test_secrets_are_hidden_by_type_and_by_name(lines: Path) -> None:
    structlog.get_logger().error("x", key=Secret(b"hush"), preimage=b"hush", password="hush")
    text = lines.read_text()
    assert "hush" not in text and b"hush".hex() not in text
    assert "key=hidden preimage=hidden password=hidden" in text


def test_lines_below_the_level_are_left_out_and_a_traceback_stays_in_its_line(lines: Path) -> None:
    structlog.get_logger().debug("quiet")
    try:
        raise ValueError("broken")
    except ValueError:
        structlog.get_logger().error("bug", exc_info=True)
    (line,) = lines.read_text().splitlines()
    assert "ValueError: broken" in line


def test_what_libraries_say_is_logged_too(lines: Path) -> None:
    logging.getLogger("asyncio").error("a task was lost")
    assert "a task was lost" in lines.read_text()
