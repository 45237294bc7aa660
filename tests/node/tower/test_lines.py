"""The watchtower's file: what its holder can read and what not (BOLT 5, "Revoked Transaction Close Handling")."""

import base64
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.tower import lines
from node.tower.lines import Book, hint_of, line, parse, unseal

TXID = bytes(range(32))
PENALTIES = (b"one transaction", b"another, of more bytes than the first")


def book(path: Path, *raw: bytes) -> Book:
    path.write_bytes(b"".join(raw))
    made = Book(path)
    made.refresh()
    return made


@given(st.binary(min_size=32, max_size=32), st.lists(st.binary(max_size=700), max_size=5))
def test_who_sees_the_commitment_reads_its_line(txid: bytes, penalties: list[bytes]) -> None:
    parsed = parse(line(txid, penalties))
    assert parsed is not None and parsed[0] == txid[:16]
    assert unseal(txid, parsed[1]) == tuple(penalties)


@given(st.integers(0, 255))
def test_another_transaction_with_the_same_hint_opens_nothing(other: int) -> None:
    parsed = parse(line(TXID, PENALTIES))
    wrong = TXID[:-1] + bytes([other])
    assert parsed is not None and hint_of(wrong) == parsed[0]
    assert (unseal(wrong, parsed[1]) is None) is (wrong != TXID)


def test_the_size_of_a_line_does_not_tell_how_many_outputs_there_were() -> None:
    assert len(line(TXID, (bytes(200),))) == len(line(TXID, (bytes(200), bytes(200))))
    assert len(line(TXID, (bytes(200),))) < len(line(TXID, (bytes(2_000),)))


def test_two_lines_of_one_commitment_never_share_a_key_stream() -> None:
    first, second = (parse(line(TXID, PENALTIES)) for _ in range(2))
    assert first is not None and second is not None
    assert first[1][:12] != second[1][:12] and first[1] != second[1]


@pytest.mark.parametrize(
    "wrong",
    [
        b"\n",
        b"nonsense\n",
        b"00112233 " + base64.b64encode(bytes(60)) + b"\n",
        TXID[:16].hex().encode() + b" not base64!\n",
        ("\u00e9" * 16).encode() + b" " + base64.b64encode(bytes(60)) + b"\n",
        b"\xff\xfe\x00\n",
    ],
)
def test_a_wrong_line_is_skipped(tmp_path: Path, wrong: bytes) -> None:
    read = book(tmp_path / "file", lines.HEADER, wrong, line(TXID, PENALTIES))
    assert read.penalties(TXID) == PENALTIES
    assert read.lines == 1 and read.wrong == bool(wrong.strip())


def test_a_damaged_blob_spoils_no_other_line_of_the_same_commitment(tmp_path: Path) -> None:
    hint, blob = line(TXID, PENALTIES).split()
    damaged = bytearray(base64.b64decode(blob))
    damaged[20] ^= 1
    read = book(tmp_path / "f", hint + b" " + base64.b64encode(damaged) + b"\n", line(TXID, PENALTIES))
    assert read.lines == 2 and read.penalties(TXID) == PENALTIES


@given(st.data())
def test_a_file_cut_in_the_middle_is_read_up_to_there(data: st.DataObject) -> None:
    ids = [bytes([n]) * 32 for n in range(3)]
    whole = [line(txid, (txid,)) for txid in ids]
    cut = data.draw(st.integers(0, sum(map(len, whole))))
    with TemporaryDirectory() as place:
        read = book(Path(place) / "file", b"".join(whole)[:cut])
        ends = [sum(map(len, whole[: n + 1])) for n in range(3)]
        for txid, end in zip(ids, ends, strict=True):
            assert (txid in read) is (end <= cut)
            assert read.penalties(txid) == ((txid,) if end <= cut else ())


def test_what_is_appended_after_a_cut_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    lines.append(path, [line(TXID, PENALTIES)])
    with path.open("ab") as file:
        file.write(line(b"\x07" * 32, PENALTIES)[:70])  # the power fails
    read = Book(path)
    assert read.refresh() and read.lines == 1
    lines.append(path, [line(b"\x08" * 32, PENALTIES)])
    assert read.refresh() and b"\x08" * 32 in read
    assert read.penalties(b"\x07" * 32) == ()
    assert not read.refresh()


def test_a_file_that_was_replaced_is_read_from_its_start(tmp_path: Path) -> None:
    path, newer = tmp_path / "file", tmp_path / "newer"
    read = book(path, line(TXID, PENALTIES), line(b"\x07" * 32, PENALTIES))
    newer.write_bytes(line(b"\x09" * 32, PENALTIES) * 3)
    newer.replace(path)
    assert read.refresh() and read.lines == 3
    assert TXID not in read and read.penalties(b"\x09" * 32) == PENALTIES


def test_the_file_is_ours_alone_and_begins_with_words_for_people(tmp_path: Path) -> None:
    path = tmp_path / "file"
    size = lines.append(path, [line(TXID, PENALTIES)])
    assert path.stat().st_mode & 0o077 == 0 and size == os.path.getsize(path)
    assert path.read_bytes().startswith(b"# Penalties for a watchtower")
    lines.append(path, [line(TXID, PENALTIES)])
    assert path.read_bytes().count(b"#") == 1
