"""Who may connect to the gateway: the list of client keys."""

from pathlib import Path

from node.gateway import keys


def test_a_key_that_begins_like_a_comment_is_let_in(tmp_path: Path) -> None:
    """Z85 knows the slash, so one key in some seven thousand begins with two."""
    key = b"//" + b"0" * 38
    keys.add_client(tmp_path, key, "slashes")
    assert keys.clients(tmp_path) == {key: "slashes"}


def test_what_is_no_key_lets_nobody_in(tmp_path: Path) -> None:
    (tmp_path / keys.CLIENTS_FILE).write_text("// a comment\n\n0123 too short\n")
    assert keys.clients(tmp_path) == {}
