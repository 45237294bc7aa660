"""An onion that came before, for as long as its HTLC may be alive (BOLT 4, "Onion Decryption"; checklist 32)."""

from node.payments.replays import Replays

KEY, FIRST, COPY = b"\x02" * 33, (b"c" * 32, 0), (b"c" * 32, 1)


def test_a_copy_is_one_until_the_htlc_that_it_copies_has_expired():
    """After that the copy fails by its own expiry, and the key need not be kept."""
    replays = Replays()
    replays.add(KEY, FIRST, 600)
    for height in (0, 599):
        replays.forget(height)
        assert replays.is_replay(KEY, COPY)
        assert not replays.is_replay(KEY, FIRST)
    replays.forget(600)
    assert not replays.is_replay(KEY, COPY)


def test_the_copy_does_not_take_the_place_of_the_first():
    replays = Replays()
    replays.add(KEY, FIRST, 600)
    replays.add(KEY, COPY, 700)
    assert replays.is_replay(KEY, COPY)
    assert not replays.is_replay(KEY, FIRST)


def test_htlcs_of_an_earlier_version_without_a_key_are_no_copies_of_each_other():
    replays = Replays()
    replays.add(b"", FIRST, 600)
    assert not replays.is_replay(b"", COPY)
