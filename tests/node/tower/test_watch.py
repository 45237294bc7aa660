"""The tower's own program, on a bitcoind's real RPC (BOLT 5, "Revoked Transaction Close Handling")."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from node.tower.__main__ import main
from node.tower.bitcoind import Bitcoind
from node.tower.lines import Book, append, line
from node.tower.watcher import ChainAway, Watcher
from protocol.amounts import Sat
from protocol.bitcoin.script import p2wsh
from protocol.bitcoin.transaction import OutPoint, Transaction, TxIn, TxOut
from tests.node.chain.conftest import regtest

__all__ = ["regtest"]
ANYONE = b"\x51"
SCRIPT = p2wsh(ANYONE)


def spend(outpoints: list[OutPoint], value: int) -> Transaction:
    inputs = tuple(TxIn(o, sequence=0xFFFFFFFD, witness=(ANYONE,)) for o in outpoints)
    return Transaction(2, inputs, (TxOut(Sat(value), SCRIPT),))


def watch(path: Path, doors: Any, *more: str) -> Any:
    given = [
        "--file",
        str(path),
        "--bitcoind-url",
        doors.rpc_url,
        "--bitcoind-cookie",
        str(doors.cookie_path),
    ]
    return CliRunner().invoke(main, ["watch", *given, "--once", *more])


async def test_the_program_finds_a_commitment_and_sends_the_dearest_penalty_that_is_taken(
    regtest: Any, tmp_path: Path
) -> None:
    """`commitment` stands for a revoked one: the tower knows nothing of what it is."""
    chain, doors = regtest
    commitment = spend([chain.fund(SCRIPT, Sat(100_000))], 90_000)
    both = [OutPoint(commitment.txid, 0)]
    penalties = [spend(both, value) for value in (80_000, 70_000)]
    impossible = spend([OutPoint(b"\x01" * 32, 0)], 1_000)
    path = tmp_path / "file"
    append(path, [line(commitment.txid, [tx.serialize() for tx in (impossible, *penalties)]), b"broken\n"])
    quiet = await asyncio.to_thread(watch, path, doors)
    assert (
        quiet.exit_code == 0 and quiet.output == "watching 1 revoked commitments; 1 lines could not be read\n"
    )
    chain.submit(commitment.serialize())
    told = await asyncio.to_thread(watch, path, doors)
    assert f"published: {commitment.txid[::-1].hex()}" in told.output
    assert penalties[1].txid in chain.mempool.entries
    chain.generate(1)
    again = await asyncio.to_thread(watch, path, doors)
    assert again.exit_code == 0


async def test_a_bitcoind_that_is_away_or_a_missing_file_is_said_and_tried_again(
    regtest: Any, tmp_path: Path
) -> None:
    _, doors = regtest
    missing = await asyncio.to_thread(watch, tmp_path / "none", doors)
    assert missing.exit_code == 0 and "cannot be read: No such file" in missing.output
    path = tmp_path / "file"
    append(path, [line(bytes(32), ())])
    doors.cookie_path.write_text("wrong:login")
    refused = await asyncio.to_thread(watch, path, doors)
    assert refused.exit_code == 0 and "does not answer" in refused.output
    bad = CliRunner().invoke(
        main, ["watch", "--file", "f", "--bitcoind-url", "nowhere", "--bitcoind-cookie", "c"]
    )
    assert bad.exit_code == 2 and "no http://HOST:PORT" in bad.output


class Blocks:
    """A chain by hand."""

    def __init__(self) -> None:
        self.blocks: list[list[bytes]] = [[]]
        self.pool: list[bytes] = []
        self.sent: list[bytes] = []
        self.away = False
        self.answer = ""

    def height(self) -> int:
        if self.away:
            raise ChainAway("gone")
        return len(self.blocks) - 1

    def block(self, height: int) -> list[bytes]:
        return self.blocks[height]

    def mempool(self) -> list[bytes]:
        return self.pool

    def send(self, raw: bytes) -> str:
        self.sent.append(raw)
        return self.answer


TXID = b"\x0a" * 32
PENALTY = spend([OutPoint(TXID, 0)], 1_000).serialize()


def made(path: Path, **more: int) -> tuple[Watcher, Blocks, list[str]]:
    chain, told = Blocks(), []  # type: ignore[var-annotated]
    return Watcher(Book(path), chain, told.append, **more), chain, told


def test_a_line_that_comes_after_its_commitment_is_used(tmp_path: Path) -> None:
    path = tmp_path / "file"
    append(path, [line(b"\x0b" * 32, (PENALTY,))])
    watcher, chain, _ = made(path, back=20)
    chain.blocks += [[TXID], [], [], [], [], [], [], [], []]
    watcher.look()
    assert not chain.sent
    append(path, [line(TXID, (PENALTY,))])
    watcher.look()
    assert chain.sent == [PENALTY]


def test_a_chain_that_was_away_is_read_from_where_it_was_left(tmp_path: Path) -> None:
    path = tmp_path / "file"
    append(path, [line(TXID, (PENALTY,))])
    watcher, chain, _ = made(path, back=2)
    watcher.look()
    chain.away = True
    with pytest.raises(ChainAway):
        watcher.look()
    chain.blocks += [[TXID]] + [[] for _ in range(30)]
    chain.away = False
    watcher.look()
    assert chain.sent == [PENALTY]


def test_a_penalty_that_was_refused_is_sent_again_with_the_next_block(tmp_path: Path) -> None:
    path = tmp_path / "file"
    append(path, [line(TXID, (PENALTY,))])
    watcher, chain, told = made(path)
    chain.pool, chain.answer = [TXID], "insufficient fee"
    watcher.look()
    watcher.look()
    assert len(chain.sent) == 1 and not [words for words in told if "sent" in words]
    chain.answer = ""
    chain.blocks.append([TXID])
    watcher.look()
    assert len(chain.sent) == 2 and [words for words in told if "sent" in words]


def test_a_login_is_no_part_of_what_is_said(tmp_path: Path) -> None:
    cookie = tmp_path / "cookie"
    cookie.write_text("user:secret")
    with pytest.raises(ChainAway) as away:
        Bitcoind("http://127.0.0.1:1", cookie).height()
    assert "secret" not in str(away.value)
