"""What a person sees in a terminal."""

import io
from typing import Any

import pytest
from rich.console import Console

from node.cli.render import bar, plain, render, sats
from node.rpc.methods.channels import channel_object
from node.rpc.methods.invoices import invoice_object
from node.rpc.methods.payments import payment_object
from tests.node.rpc.support import OUR_ID, channel, invoice, payment


def shown(method: str, result: Any, width: int = 140) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    render(method, result, console)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]  # the StringIO above
    return text


def test_channels_show_both_balances_and_a_bar():
    text = shown("listpeerchannels", {"channels": [channel_object(channel(), OUR_ID)]})
    for part in ("103x1x1", "CHANNELD_NORMAL", "60,000", "40,000", "█" * 12 + "░" * 8, "58,000"):
        assert part in text


@pytest.mark.parametrize(("local", "cells"), [(0, 0), (1, 1), (50, 10), (99, 19), (100, 20)])
def test_the_bar_shows_a_side_that_has_anything(local: int, cells: int):
    assert bar(local, 100).plain == "█" * cells + "░" * (20 - cells)
    assert bar(0, 0).plain == "·" * 20


def test_amounts_in_satoshi_keep_their_thousandths():
    assert (sats(1_234_567_000), sats(1_001), sats(0)) == ("1,234,567", "1.001", "0")


def test_invoices_payments_and_funds():
    assert "breakfast" in shown("listinvoices", {"invoices": [invoice_object(invoice("paid"))]})
    assert "lunch" in shown("listpays", {"pays": [payment_object(payment())]})
    coin = {
        "txid": "ab" * 32,
        "output": 1,
        "amount_msat": 5_000_000,
        "status": "confirmed",
        "reserved": False,
    }
    funds = shown("listfunds", {"outputs": [coin, {**coin, "reserved": True}], "channels": []})
    assert "5,000 sat on chain and free, 0 sat in 0 channels" in funds


def test_an_empty_list_says_what_to_do():
    assert "lnp fundchannel" in shown("listpeerchannels", {"channels": []})
    assert "lnp connect" in shown("listpeers", {"peers": []})
    assert "lnp invoice" in shown("listinvoices", {"invoices": []})


def test_a_result_without_a_table_is_shown_as_json():
    assert '"bech32"' in shown("newaddr", {"bech32": "bcrt1q"})


def test_what_strangers_wrote_cannot_move_the_cursor_or_paint():
    hostile = "\x1b[2J[red]free money[/red]\x07\x9b31m\u202e"
    row = {**invoice_object(invoice()), "description": hostile, "label": hostile}
    text = shown("listinvoices", {"invoices": [row]}, width=200)
    assert not any(character in text for character in "\x1b\x07\x9b\u202e")
    assert "[red]free money[/red]" in text
    assert plain(hostile).plain.count("\N{REPLACEMENT CHARACTER}") == 4


@pytest.mark.parametrize("width", [40, 80, 200])
def test_tables_fit_the_terminal(width: int):
    text = shown("listpeerchannels", {"channels": [channel_object(channel(), OUR_ID)]}, width)
    assert max(len(line) for line in text.splitlines()) <= width


def test_the_card_of_the_node_shows_how_its_roads_are():
    info = {
        "id": "02aa",
        "alias": "ALICE",
        "network": "signet",
        "blockheight": 7,
        "num_active_channels": 0,
        "num_pending_channels": 0,
        "num_inactive_channels": 0,
        "num_peers": 0,
        "address": [{"type": "torv3", "address": "a.onion", "port": 9735}],
        "version": "1",
        "roads": [
            {"name": "tor", "state": "up", "inbound": "reachable"},
            {"name": "radio", "state": "down", "what": "Plug it in\x1b[2J"},
        ],
    }
    text = shown("getinfo", info)
    for words in (
        "a.onion:9735",
        "tor up; our onion is reachable",
        "radio down; Plug it in\N{REPLACEMENT CHARACTER}",
    ):
        assert words in text


def test_peers_show_the_road_that_carries_them():
    peer = {"id": "02bb", "connected": True, "num_channels": 1, "netaddr": ["a.onion:9735"], "road": "tor"}
    assert "tor" in shown("listpeers", {"peers": [peer]}).splitlines()[1].split()
