"""The dialogs: two steps before money moves, and words that never say more than is known."""

import asyncio

import pytest

from tests.tui.conftest import SIZES, Run, Running
from tests.tui.world import BOLT11, HEIGHT, NOW, channel, digest, htlc, node, payment
from tui.app import LnpTui
from tui.dialogs.base import Dialog
from tui.dialogs.close import CloseDialog
from tui.dialogs.connect import ConnectDialog
from tui.dialogs.invoice import InvoiceDialog
from tui.dialogs.open import OpenDialog
from tui.dialogs.pay import PayDialog
from tui.dialogs.prompt import PromptDialog, parameters
from tui.dialogs.quit import QuitDialog
from tui.line import RpcRefused
from tui.widgets.table import Table

DIALOGS = (
    Dialog,
    PayDialog,
    OpenDialog,
    CloseDialog,
    InvoiceDialog,
    ConnectDialog,
    PromptDialog,
    QuitDialog,
)
MONEY = {"xpay", "fundchannel", "close", "withdraw"}


def moved(run: Run) -> list[str]:
    return [method for method, _, _ in run.line.asked if method in MONEY]


async def pay_preview(run: Run) -> None:
    await run.press("P")
    await run.type(BOLT11[:40])
    await run.press("enter")


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
async def test_the_pay_preview(running: Running, size: tuple[int, int]) -> None:
    async with running(size) as run:
        await pay_preview(run)
        for words in ("42,000 sat", "two coffees", f"until block {HEIGHT + 21:,}", "Y pays"):
            assert words in run.text()
        assert moved(run) == []
        run.matches("pay-preview")


async def test_a_payment_from_paste_to_proof(running: Running) -> None:
    async with running() as run:
        done: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        run.line.answers["xpay"] = done
        await pay_preview(run)
        await run.press("Y")
        assert run.line.asked[-1] == ("xpay", {"invstring": BOLT11[:40]}, True)
        assert "outcome unknown yet" in run.text()

        row = payment("coffee 2", sat=42_000, status="pending", unknown_until=HEIGHT + 21)
        flying = htlc(42, 42_000, hash_of="coffee 2", expiry=HEIGHT + 21)
        run.line.say(row, channel("acinq", local=2_058_000, capacity=3_000_000, htlcs=(flying,)))
        await run.until(lambda: f"outcome unknown until block {HEIGHT + 21:,}" in run.text())
        assert "sent add ack revocation" in run.text(), "the live state of the HTLC"
        run.matches("pay-on-its-way")

        run.line.say(payment("coffee 2", sat=42_000, created=int(NOW), completed=int(NOW) + 1))
        done.set_result({"payment_preimage": "00"})
        await run.until(lambda: "Paid 42,000 sat, fee 0 sat in 1 s." in run.text())
        run.matches("pay-paid")


async def test_silence_is_unknown_and_not_failure(running: Running) -> None:
    async with running() as run:
        run.line.answers["xpay"] = RpcRefused(200, "the payment is still on its way", unknown=True)
        await pay_preview(run)
        await run.press("Y")
        await run.until(lambda: "still on its way" in run.text())
        assert "Not paid" not in run.text()
        row = payment("coffee 2", sat=42_000, status="pending", unknown_until=HEIGHT + 21)
        run.line.say(row)
        await run.until(lambda: f"outcome unknown until block {HEIGHT + 21:,}" in run.text())


async def test_a_refusal_is_told_in_the_nodes_words(running: Running) -> None:
    async with running() as run:
        run.line.answers["xpay"] = RpcRefused(205, "no channel can carry it. Open one.")
        await pay_preview(run)
        await run.press("Y")
        await run.until(lambda: "Not paid: no channel can carry it. Open one." in run.text())


async def test_an_invoice_that_cannot_be_paid_stops_at_the_first_step(running: Running) -> None:
    async with running() as run:
        run.line.answers["previewpay"] = RpcRefused(
            207, "the invoice expired 3 seconds ago. Ask for a new one."
        )
        await pay_preview(run)
        assert "the invoice expired 3 seconds ago" in run.text()
        await run.press("Y")
        assert moved(run) == []


async def test_a_hidden_dialog_lets_the_payment_go_on_and_tells_its_end(running: Running) -> None:
    async with running() as run:
        done: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        run.line.answers["xpay"] = done
        await pay_preview(run)
        await run.press("Y", "escape")
        assert not isinstance(run.app.screen, Dialog)
        run.line.say(payment("coffee 2", sat=42_000))
        done.set_result({})
        await run.until(lambda: run.app._notifications)
        assert any("Paid 42,000 sat" in note.message for note in run.app._notifications)


async def test_an_amount_is_sent_only_where_it_was_typed(running: Running) -> None:
    async with running() as run:
        await run.press("P")
        await run.type("lnbc1x")
        await run.press("tab")
        await run.type("1,500")
        await run.press("enter")
        assert run.line.asked[-1] == ("previewpay", {"invstring": "lnbc1x", "amount_msat": "1500sat"}, False)


async def test_escape_goes_back_a_step_and_moves_nothing(running: Running) -> None:
    async with running() as run:
        await pay_preview(run)
        await run.press("escape")
        assert "enter shows what it would take" in run.text()
        await run.press("escape")
        assert not isinstance(run.app.screen, Dialog)
        assert moved(run) == []


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
async def test_a_channel_is_opened_after_a_preview(running: Running, size: tuple[int, int]) -> None:
    async with running(size) as run:
        run.line.answers["fundchannel"] = {"txid": "ab" * 32}
        await run.press("O")
        await run.type(f"{node('acinq').hex()}@127.0.0.1:9735")
        await run.press("tab")
        await run.type("500000")
        await run.press("enter")
        assert "about 1,540 sat" in run.text() and "about 598,460 sat" in run.text()
        assert moved(run) == []
        run.matches("open-preview")
        await run.press("Y")
        await run.until(lambda: "abababab" in run.text())
        assert run.line.asked[-1] == ("fundchannel", [node("acinq").hex(), "500000"], True)


async def test_more_than_there_is_is_said_before_it_is_tried(running: Running) -> None:
    async with running() as run:
        await run.press("O")
        await run.type(node("acinq").hex())
        await run.press("tab")
        await run.type("5000000")
        await run.press("enter")
        assert "3,901,540 sat are missing" in run.text()


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
async def test_a_channel_is_closed_together_after_a_preview(running: Running, size: tuple[int, int]) -> None:
    async with running(size) as run:
        run.line.answers["close"] = {"type": "mutual", "txid": "cd" * 32}
        await run.press("2", "X")
        assert "2,100,000 sat, less the fee" in run.text() and moved(run) == []
        run.matches("close-preview")
        await run.press("Y")
        await run.until(lambda: "Closed (mutual)" in run.text())
        assert run.line.asked[-1] == ("close", {"id": digest("channel acinq").hex()}, True)


async def test_closing_alone_needs_the_typed_word(running: Running) -> None:
    async with running() as run:
        run.line.answers["close"] = RpcRefused(-1, "the signer is away", unknown=True)
        await run.press("2", "X", "F")
        await run.type("yes")
        await run.press("enter")
        assert "Only the word force closes alone." in run.text() and moved(run) == []
        await run.press("escape", "F")
        await run.press(*["backspace"] * 3)
        await run.type("force")
        await run.press("enter")
        await run.until(lambda: "Outcome unknown: the signer is away" in run.text())
        method, params, confirmed = run.line.asked[-1]
        assert (method, params["unilateraltimeout"], confirmed) == ("close", 1, True)


async def test_an_invoice_is_made_and_shown(running: Running) -> None:
    async with running((200, 60)) as run:
        bolt11 = "lnbcrt777" + "q" * 120
        run.line.answers["invoice"] = {"bolt11": bolt11, "payment_hash": digest("new").hex()}
        await run.press("4", "n")
        await run.type("2500")
        await run.press("tab")
        await run.type("two teas")
        await run.press("tab")
        await run.type("tea-2")
        await run.press("enter")
        sent = {"amount_msat": "2500sat", "label": "tea-2", "description": "two teas"}
        assert ("invoice", sent, False) in run.line.asked
        await run.until(lambda: bolt11 in run.text())


async def test_an_invoice_without_an_amount_is_over_any(running: Running) -> None:
    async with running() as run:
        run.line.answers["invoice"] = RpcRefused(
            900, "there is an invoice with this label already. Choose another."
        )
        await run.press("4", "n", "enter")
        assert run.line.asked[-1][1]["amount_msat"] == "any"
        assert "Choose another." in run.text()


async def test_connecting_to_a_peer(running: Running) -> None:
    async with running() as run:
        await run.press("5", "c")
        await run.type("02ab@127.0.0.1:1")
        run.line.answers["connect"] = RpcRefused(401, "it cannot be reached. Check the address.")
        await run.press("enter")
        assert "it cannot be reached. Check the address." in run.text()
        run.line.answers["connect"] = {"id": "02ab"}
        await run.press("enter")
        await run.until(lambda: not isinstance(run.app.screen, Dialog))


async def test_disconnecting_a_peer(running: Running) -> None:
    async with running() as run:
        run.line.answers["disconnect"] = {}
        await run.press("5", "d")
        assert run.line.asked[-1] == ("disconnect", {"id": node("acinq").hex()}, False)


@pytest.fixture(autouse=True)
def no_history(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PromptDialog, "past", [])


async def test_the_prompt_runs_a_method_and_shows_its_answer(running: Running) -> None:
    async with running() as run:
        run.line.answers["getinfo"] = {"alias": "lnode", "nasty": "\x1b[2J"}
        await run.press("colon")
        await run.type("getinfo")
        assert "Who we are" in run.text(), "help while typing"
        await run.press("enter")
        assert '"alias": "lnode"' in run.text() and "\x1b" not in run.text()
        run.matches("prompt")
        await run.press("up")
        assert run.app.screen.query_one("#command").value == "getinfo"  # type: ignore[attr-defined]


async def test_the_prompt_completes_a_name(running: Running) -> None:
    async with running() as run:
        await run.press("colon")
        await run.type("list")
        await run.press("right")
        assert run.app.screen.query_one("#command").value == "listfunds "  # type: ignore[attr-defined]


async def test_the_prompt_asks_before_money_moves(running: Running) -> None:
    async with running() as run:
        run.line.answers["withdraw"] = {"txid": "ef" * 32}
        await run.press("colon")
        await run.type("withdraw bcrt1q 1000")
        await run.press("enter")
        assert "withdraw moves money" in run.text() and moved(run) == []
        await run.press("escape")
        assert moved(run) == [] and isinstance(run.app.screen, PromptDialog)
        await run.press("enter", "Y")
        assert run.line.asked[-1] == ("withdraw", ["bcrt1q", 1000], True)


async def test_the_prompt_tells_a_refusal_from_an_unknown_end(running: Running) -> None:
    async with running() as run:
        await run.press("colon")
        await run.type("nonsense")
        await run.press("enter")
        assert "(code -32601)" in run.text()


def test_words_of_the_prompt_become_parameters() -> None:
    assert parameters(["a", "5", "true", "null", "[1]", "1sat"]) == ["a", 5, True, None, [1], "1sat"]
    assert parameters(["label=x", "amount_msat=5"]) == {"label": "x", "amount_msat": 5}
    with pytest.raises(ValueError, match="Expecting"):
        parameters(["[1"])


async def test_leaving_is_asked_about(running: Running) -> None:
    async with running() as run:
        await run.press("q")
        assert "The node goes on" in run.text()
        await run.press("escape")
        assert run.app.is_running and not isinstance(run.app.screen, Dialog)
        await run.press("q")
        await run.pilot.press("y")
        await run.pilot.pause()
    assert run.line.closed


MONEY_ACTIONS = frozenset({"pay", "open", "close", "confirm", "together", "alone"})


def bindings() -> list[tuple[str, str]]:
    owners: list[type] = [LnpTui, *LnpTui.MODES.values(), *DIALOGS]
    found = [binding for owner in owners for binding in vars(owner).get("BINDINGS", ())]
    return [(key, binding.action.partition("(")[0]) for binding in found for key in binding.key.split(",")]


def test_what_moves_money_is_upper_case_and_nothing_else_is() -> None:
    letters = [(key, action) for key, action in bindings() if len(key) == 1 and key.isalpha()]
    assert {action for _, action in letters} >= MONEY_ACTIONS
    assert [one for one in letters if one[0].isupper() != (one[1] in MONEY_ACTIONS)] == []


def test_every_binding_has_an_id_so_that_a_keymap_can_change_it() -> None:
    owners: list[type] = [LnpTui, *LnpTui.MODES.values(), *DIALOGS, Table]
    ids = [binding.id for owner in owners for binding in vars(owner).get("BINDINGS", ())]
    assert None not in ids and len(ids) == len(set(ids))
