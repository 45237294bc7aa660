"""Each screen at three sizes, as pictures, and what its keys do."""

import asyncio

import pytest

from protocol.amounts import BlockHeight, Msat
from protocol.bus.bus import OutcomeUnknown
from protocol.bus.messages.events import BlockNow, ChainLink, LogLine
from tests.tui.conftest import SIZES, Running, screen_text
from tests.tui.world import HEIGHT, NOW, FakeLine, channel, digest, invoice, payment, snapshot
from tui.app import LnpTui
from tui.screens.receive import ReceiveScreen
from tui.widgets.table import Table
from tui.widgets.top import SCREENS

KEYS = {name: digit for digit, name, _ in SCREENS}


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("name", KEYS)
async def test_screen(running: Running, name: str, size: tuple[int, int]) -> None:
    async with running(size) as run:
        await run.press(KEYS[name])
        run.matches(name)


async def test_digits_switch_the_screens(running: Running) -> None:
    async with running() as run:
        for digit, name, _ in SCREENS:
            await run.press(digit)
            assert run.app.current_mode == name


async def test_a_row_that_comes_in_the_stream_replaces_the_row(running: Running) -> None:
    async with running() as run:
        await run.press("2")
        assert "2,100,000" in run.text()
        run.line.say(channel("acinq", local=1_234_567, capacity=3_000_000))
        await run.until(lambda: "1,234,567" in run.text())
        assert "2,100,000" not in run.text()


async def test_the_interface_adds_nothing_up_by_itself(running: Running) -> None:
    """A paid invoice moves no balance here: the channel's own row does, when the node says it."""
    async with running() as run:
        before = [line for line in run.text().splitlines() if "Lightning" in line]
        run.line.say(invoice("tea 2", sat=50_000, status="paid"))
        await run.until(lambda: "tea 2" in run.text())
        assert [line for line in run.text().splitlines() if "Lightning" in line] == before


async def test_the_cursor_stays_on_its_row_when_others_come(running: Running) -> None:
    async with running() as run:
        await run.press("2", "down")
        table = run.app.screen.query_one(Table)
        assert table.row is not None and table.row.peer == channel("hub-eu", local=1, capacity=1).peer
        run.line.say(channel("huge", local=1, capacity=90_000_000))
        await run.until(lambda: len(table.rows) == 6)
        assert table.row.peer == channel("hub-eu", local=1, capacity=1).peer


async def test_five_hundred_channels_render_what_is_in_view(running: Running) -> None:
    rows = tuple(channel(f"peer {n}", local=n, capacity=1_000_000 + n) for n in range(500))
    async with running(line=FakeLine(snapshot(channels=rows))) as run:
        await run.press("2")
        table = run.app.screen.query_one(Table)
        assert len(table.rows) == 500
        assert len(table._lines) < 60
        await run.press("end")
        assert table.row is table.rows[-1]
        assert f"{table.rows[-1].to_us_msat // 1000:,}" in run.text()


async def test_a_lost_connection_is_shown_with_the_age_of_the_data(running: Running) -> None:
    async with running() as run:
        await run.press("2")
        run.line.drop(OutcomeUnknown("the connection was lost"))
        run.clock.now += 75
        await run.until(lambda: "connection lost, data 1 min old" in run.text())
        assert run.app.screen.has_class("stale")
        assert "2,100,000" in run.text(), "the last data is still there"
        run.matches("channels-lost")
        run.line.come_back(
            snapshot(run=b"another", channels=(channel("acinq", local=77, capacity=3_000_000),))
        )
        await run.until(lambda: "connection lost" not in run.text())
        assert not run.app.screen.has_class("stale")
        assert "2,100,000" not in run.text() and " 77 " in run.text()


async def test_no_connection_yet_is_said_in_words(running: Running) -> None:
    line = FakeLine()
    line._up.clear()
    async with running(line=line, wait=False) as run:
        await run.until(lambda: "no connection yet" in run.text())
        assert "it is tried again all the time" in run.text()


async def test_a_chain_that_is_away_needs_attention(running: Running) -> None:
    async with running((200, 60)) as run:
        run.line.say(ChainLink(False, "bitcoind does not answer"))
        await run.until(lambda: "the chain is away: bitcoind does not answer" in run.text())
        run.line.say(ChainLink(True), BlockNow(BlockHeight(HEIGHT + 1), digest("next"), int(NOW)))
        await run.until(lambda: "921,335" in run.text())
        assert "the chain is away: bitcoind does not answer" not in run.text().split("Last events")[0]


async def test_a_pending_payment_is_never_called_failed(running: Running) -> None:
    async with running() as run:
        await run.press("3")
        assert f"unknown until block {HEIGHT + 21:,}" in run.text()
        run.line.say(payment("coffee", sat=21_000, status="complete", completed=int(NOW)))
        await run.until(lambda: f"unknown until block {HEIGHT + 21:,}" not in run.text())


async def test_receive_shows_a_qr_where_there_is_room(running: Running) -> None:
    async with running((200, 60)) as run:
        await run.press("4")
        assert "█▀▀▀▀▀█" in run.text()
    async with running((80, 24)) as run:
        await run.press("4")
        assert "█▀▀▀▀▀█" not in run.text()
    async with running((80, 40)) as run:
        await run.press("4", "f")
        assert "█▀▀▀▀▀█" in run.text()
        await run.press("f")
        assert isinstance(run.app.screen, ReceiveScreen) and not run.app.screen.has_class("big")


async def test_the_qr_is_painted_by_the_answer_alone() -> None:
    """As the program runs: nothing asks for a second paint."""
    line = FakeLine()
    app = LnpTui(lambda: line, paint_seconds=0.01)
    async with app.run_test(size=(200, 60)) as pilot, asyncio.timeout(20):
        await pilot.press("4")
        while "█▀▀▀▀▀█" not in screen_text(app):
            await pilot.pause()


async def test_receive_warns_when_the_channels_cannot_receive_so_much(running: Running) -> None:
    async with running() as run:
        await run.press("4")
        assert "all channels together can receive 2,550,000 sat now" in run.text()
        run.line.say(channel("big", local=0, capacity=20_000_000, receivable_msat=Msat(19_000_000_000)))
        await run.until(lambda: "too large" not in run.text())


async def test_logs_are_filtered_by_level_and_words(running: Running) -> None:
    async with running() as run:
        await run.press("7")
        assert "peer_up" in run.text()
        await run.press("l")
        assert "peer_up" not in run.text() and "chain_away" in run.text()
        await run.press("slash")
        await run.type("funding")
        await run.press("enter")
        table = run.app.screen.query_one(Table)
        assert [event.what.event for event in table.rows] == ["funding_not_sent"]
        await run.press("escape")
        assert len(table.rows) == 2


async def test_the_log_follows_its_end_until_the_cursor_leaves_it(running: Running) -> None:
    async with running() as run:
        await run.press("7")
        table = run.app.screen.query_one(Table)
        run.line.say(*(LogLine("info", f"line_{n}", "") for n in range(100)))
        await run.until(lambda: len(table.rows) == 104)
        assert table.row is table.rows[-1]
        await run.press("up")
        held = table.row
        run.line.say(LogLine("info", "one_more", ""))
        await run.until(lambda: len(table.rows) == 105)
        assert table.row is held


async def test_what_strangers_wrote_cannot_steer_the_terminal(running: Running) -> None:
    nasty = "\x1b[2J\x9b31m[bold red]x[/] \u202e"
    async with running((200, 60)) as run:
        run.line.say(invoice(nasty, sat=1), payment("x", sat=1, status="failed", error=nasty))
        run.line.say(LogLine("error", "bad", nasty))
        await run.until(lambda: "bad" in run.text())
        for key in "1347":
            await run.press(key)
            assert not [c for c in run.text() if not c.isprintable() and c != "\n"]
            assert "[bold red]" in run.text(), "it is shown as it was written"


async def test_the_palette_knows_our_screens(running: Running) -> None:
    async with running() as run:
        commands = {command.title for command in run.app.get_system_commands(run.app.screen)}
        assert {"Pay", "Open a channel", "Run a method", "Theme", "Channels"} <= commands


@pytest.mark.parametrize("theme", ["nord", "ansi-dark", "textual-light"])
async def test_themes_change_the_colours_and_nothing_else(running: Running, theme: str) -> None:
    async with running() as run:
        await run.press("2")
        text, picture = run.text(), run.app.export_screenshot()
        run.app.theme = theme
        await run.settle()
        assert run.text() == text
        assert run.app.export_screenshot() != picture
