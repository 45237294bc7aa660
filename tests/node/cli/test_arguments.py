"""Words to JSON, and the way to the socket."""

from pathlib import Path

import pytest

from node.cli import arguments
from node.cli.arguments import BadUsage


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("5", 5),
        ("-5", -5),
        ("0.5", "0.5"),
        ("10sat", "10sat"),
        ("null", None),
        ("true", True),
        ("false", False),
        ("[12,22]", [12, 22]),
        ('{"a":1}', {"a": 1}),
        ("lnbcrt1", "lnbcrt1"),
        ("1" * 64, "1" * 64),
        ("", ""),
    ],
)
def test_words_become_json_as_lightning_cli_does_it(word: str, value: object):
    assert arguments.value(word) == value


def test_by_name_each_word_is_split_at_the_first_equals():
    assert arguments.params(["label=a=b", "expiry=60"], by_name=True) == {"label": "a=b", "expiry": 60}
    assert arguments.params(["label=a"], by_name=False) == ["label=a"]


@pytest.mark.parametrize("words", [["label"], ["=x"], ["a=1", "a=2"], ["a=[1"]])
def test_words_that_are_no_names_are_wrong_usage(words: list[str]):
    with pytest.raises(BadUsage):
        arguments.params(words, by_name=True)


def test_the_data_directory_is_the_given_one_or_that_of_the_user():
    assert arguments.data_directory("/d", {}) == Path("/d")
    assert arguments.data_directory(None, {"XDG_DATA_HOME": "/x"}) == Path("/x/lnp")
    assert arguments.data_directory(None, {"HOME": "/h"}) == Path("/h/.local/share/lnp")


def test_the_only_running_network_needs_no_name(tmp_path: Path):
    assert arguments.socket_path(tmp_path, None) == tmp_path / "regtest" / "lightning-rpc"
    assert arguments.socket_path(tmp_path, "signet") == tmp_path / "signet" / "lightning-rpc"
    for network in ("signet", "regtest"):
        (tmp_path / network).mkdir()
    (tmp_path / "signet" / "lightning-rpc").touch()
    assert arguments.socket_path(tmp_path, None) == tmp_path / "signet" / "lightning-rpc"
    (tmp_path / "regtest" / "lightning-rpc").touch()
    with pytest.raises(BadUsage, match="regtest, signet"):
        arguments.socket_path(tmp_path, None)
