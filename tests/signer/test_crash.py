"""After a crash at any commit the same request gets the same answer, byte for byte."""

import shutil
import sqlite3
from pathlib import Path

import pytest

from protocol.amounts import FeeratePerKw, Sat
from protocol.bitcoin.transaction import OutPoint, Transaction, TxIn, TxOut
from protocol.bolt3.commitment import Side
from protocol.bus.messages import signer as contract
from signer.channel_state import header_bytes
from signer.keys import RESERVE
from signer.service import SignerService
from signer.storage import INSERT_COLD, Storage
from tests.signer.support import (
    DEADLINE,
    HASH,
    PASSPHRASE,
    PREIMAGE,
    World,
    htlc,
    make_invoice_request,
    make_service,
)

OURS = 600_000_000
AMOUNT = 30_000_000


class Crashing(SignerService):
    """After every turn: copy the files, open the copy, ask the same again, compare."""

    def __init__(self, datadir: Path) -> None:
        super().__init__(datadir, PASSPHRASE)
        self.datadir = datadir
        self.checked = 0

    def handle_batch(self, calls, elapsed_ms=None):  # type: ignore[no-untyped-def]
        replies = super().handle_batch(calls, elapsed_ms)
        if any(isinstance(call.request, contract.Hello) for call in calls):
            return replies
        copy = self.datadir.parent / f"copy{self.checked}"
        shutil.copytree(self.datadir, copy)
        revived = SignerService(copy, PASSPHRASE)
        try:
            for handle, channel in self._channels.items():
                twin = revived._channels[handle]
                assert channel.state == twin.state and channel.setup == twin.setup
                if channel.state is not None and twin.state is not None:
                    assert header_bytes(channel.state) == header_bytes(twin.state)
            for mine, its in (
                (self._forwards._by_out, revived._forwards._by_out),
                (self._forwards._by_in, revived._forwards._by_in),
                (self._reserve._coins, revived._reserve._coins),
            ):
                assert mine == its
            again = revived.handle_batch(calls)
        finally:
            revived.close()
        assert [contract.encode(reply) for reply in again] == [contract.encode(reply) for reply in replies]
        shutil.rmtree(copy)
        self.checked += 1
        return replies


def test_every_grant_is_repeated_after_a_crash(tmp_path: Path) -> None:
    make_service(tmp_path / "signer").close()
    service = Crashing(tmp_path / "signer")
    world = World(service)
    made = world.invoice(AMOUNT)
    mixed = (htlc(True, 0, AMOUNT), htlc(False, 0, AMOUNT, made.payment_hash))
    world.both_move(1, OURS - AMOUNT, mixed)
    world.grants(world.sign(2, OURS - AMOUNT, mixed, FeeratePerKw(1200)), world.sign(2, OURS - AMOUNT, mixed))
    world.grants(contract.LearnPreimage(PREIMAGE), contract.ReleasePreimage(made.payment_hash, (0,)))
    world.grants(world.validate(2, OURS), contract.RevokeHolder(1), world.revocation(1))
    world.grants(world.sign(3, OURS), world.revocation(2))
    world.node.ask(make_invoice_request(b"\x07" * 32, None))
    world.grants(world.close(600_000, fee=700))
    world.grants(contract.SignHolderCommitment())
    swept = contract.SweepInput("to_remote", b"\x01" * 32, 3, Sat(500_000))
    reply = world.node.ask(contract.SignSweep(world.drawn.channel, (swept,), FeeratePerKw(1000)))
    assert isinstance(reply, contract.SweepSigned)
    assert isinstance(world.node.ask(contract.ChannelNumbers()), contract.Numbers)
    # A refusal writes nothing, and is a refusal again.
    assert world.refuses(world.sign(4, OURS)) == "frozen"
    assert service.checked > 12
    service.close()


def test_forwards_and_fees_are_repeated_after_a_crash(tmp_path: Path) -> None:
    make_service(tmp_path / "signer").close()
    service = Crashing(tmp_path / "signer")
    a = World(service)
    c = World(service, beside=a, place=1)
    keys = service.keys
    previous = Transaction(
        2, (TxIn(OutPoint(b"\x01" * 32, 0)),), (TxOut(Sat(40_000), keys.wallet_script(RESERVE, 0)),)
    )
    noted = contract.NoteReserve((contract.ReserveCoin(previous.serialize(), 0, 0),))
    assert isinstance(a.node.ask(noted), contract.ReserveStatus)
    received, onward = htlc(False, 3, AMOUNT, expiry=540), htlc(True, 5, AMOUNT)
    a.both_move(1, OURS, (received, htlc(False, 4, AMOUNT, expiry=540)))
    c.grants(c.sign(1, OURS - AMOUNT, (onward,), forwards=(contract.Forward(5, a.channel_id, 3),)))
    c.grants(c.revocation(0))
    again = htlc(True, 6, AMOUNT)
    both = (contract.Forward(6, a.channel_id, 4),)
    c.grants(c.sign(2, OURS - 2 * AMOUNT, (onward, again), forwards=both), c.revocation(1))
    c.holder_moves(1, OURS - 2 * AMOUNT, (onward, again))
    content = c.content(Side.COUNTERPARTY, 1, OURS - AMOUNT, (onward,))
    rates = (FeeratePerKw(1000), FeeratePerKw(4000))
    reply = c.node.ask(contract.SignPenalties(c.drawn.channel, content, rates))
    assert isinstance(reply, contract.PenaltiesSigned) and len(reply.transactions) == 6
    coin = contract.WalletCoin(previous.txid, 0, Sat(40_000), RESERVE, 0)
    change = (RESERVE, 1)
    for number in (1, 2):
        anchor = contract.SignAnchor(
            c.drawn.channel, number, (coin,), change, FeeratePerKw(2000 + number), theirs=number == 2
        )
        if number == 1:
            c.grants(contract.SignHolderCommitment())
        assert isinstance(c.node.ask(anchor), contract.AnchorSigned)
    spend = Transaction(2, (TxIn(c.params.funding_outpoint),), (TxOut(Sat(1), b"\x51"),)).serialize()
    c.grants(contract.HtlcBuried(5, spend))
    c.grants(contract.LearnPreimage(PREIMAGE))
    a.grants(contract.ReleasePreimage(HASH, (3,), PREIMAGE))
    a.both_move(2, OURS + 2 * AMOUNT)
    assert service.checked > 20
    service.close()


def test_a_failed_commit_leaves_no_forward_and_no_coin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make_service(tmp_path / "signer", in_memory=False)
    a = World(service)
    c = World(service, beside=a, place=1)
    a.both_move(1, OURS, (htlc(False, 3, AMOUNT, expiry=540),))
    offer = c.sign(
        1, OURS - AMOUNT, (htlc(True, 5, AMOUNT),), forwards=(contract.Forward(5, a.channel_id, 3),)
    )
    previous = Transaction(
        2, (TxIn(OutPoint(b"\x01" * 32, 0)),), (TxOut(Sat(40_000), service.keys.wallet_script(RESERVE, 0)),)
    )

    def full(self: Storage) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "commit", full)
        for asked in (
            contract.ChannelRequest(c.drawn.channel, (offer,)),
            contract.NoteReserve((contract.ReserveCoin(previous.serialize(), 0, 0),)),
        ):
            assert isinstance(a.node.ask(asked), contract.NotNow)
    assert not service._forwards._by_out and service._reserve.present == 0
    a.both_move(2, OURS)
    service.close()


def test_a_failed_commit_grants_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk: the answer says so, and the state in memory is again the one on the disk."""
    service = make_service(tmp_path / "signer", in_memory=False)
    world = World(service)
    operation = world.validate(1, OURS)
    request = contract.ChannelRequest(world.drawn.channel, (operation, contract.RevokeHolder(0)))

    def full(self: Storage) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "commit", full)
        for asked in (request, contract.NewChannel(b"\x05" * 32, world.peer_id), contract.Hello("regtest")):
            assert isinstance(world.node.ask(asked), contract.NotNow)
    assert (world.state.holder_validated, world.state.holder_revoked) == (0, 0)
    assert len(service._channels) == 1
    assert world.refuses(contract.RevokeHolder(0)) == "revoke-order"
    world.grants(operation, contract.RevokeHolder(0))
    service.close()


def test_a_bug_in_one_request_leaves_the_others_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    node, handle = world.node, world.drawn.channel

    def broken(*_: object) -> object:
        raise ZeroDivisionError("a secret stands here")

    monkeypatch.setattr("signer.operations._learn", broken)
    before = world.state
    calls = [
        node.call(
            contract.ChannelRequest(handle, (world.validate(1, OURS), contract.LearnPreimage(PREIMAGE)))
        ),
        node.call(make_invoice_request(b"\x0a" * 32, 5)),
        node.call(contract.ChannelRequest(handle, (world.sign(1, OURS),))),
    ]
    bug, invoice, signed = [reply.reply for reply in world.service.handle_batch(calls)]
    assert isinstance(bug, contract.Refused) and bug.tag == "internal"
    assert "secret" not in str(bug)
    assert isinstance(invoice, contract.InvoiceMade)
    assert isinstance(signed, contract.ChannelAnswer) and signed.stopped is None
    assert world.state.holder == before.holder and world.state.counterparty_signed == 1


def test_one_turn_is_one_commit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    commits = []
    real = Storage.commit
    monkeypatch.setattr(Storage, "commit", lambda self: (commits.append(1), real(self))[1])
    handle, node = world.drawn.channel, world.node
    calls = [
        node.call(contract.ChannelRequest(handle, (world.validate(1, OURS), contract.RevokeHolder(0)))),
        node.call(contract.ChannelRequest(handle, (world.sign(1, OURS),))),
        node.call(make_invoice_request(b"\x0a" * 32, 5)),
        node.call(make_invoice_request(b"\x0a" * 32, 5)),
    ]
    replies = world.service.handle_batch(calls)
    assert len(commits) == 1
    assert replies[2].reply == replies[3].reply


def test_a_request_past_its_deadline_is_not_done(world: World) -> None:
    before = world.state
    request = contract.ChannelRequest(world.drawn.channel, (world.sign(1, OURS),))
    for deadline, elapsed in ((0, 0.0), (100, 100.0), (100, 5000.0)):
        call = contract.SignerCall(1, world.node.session, deadline, request)
        (reply,) = world.service.handle_batch([call], lambda elapsed=elapsed: elapsed)  # type: ignore[misc]
        assert isinstance(reply.reply, contract.NotNow)
    assert world.state is before
    (reply,) = world.service.handle_batch([contract.SignerCall(1, world.node.session, DEADLINE, request)])
    assert isinstance(reply.reply, contract.ChannelAnswer)


def test_the_files_of_a_revoked_state_hold_only_what_lives(tmp_path: Path) -> None:
    service = make_service(tmp_path / "signer", in_memory=False)
    world = World(service)
    for number in range(1, 6):
        world.both_move(number, OURS)
    assert service.storage.all("SELECT side, number, sequence FROM version ORDER BY side") == [
        (0, 5, 0),
        (1, 5, 0),
    ]
    service.close()


def test_a_commit_is_on_the_disk_before_it_returns(tmp_path: Path) -> None:
    service = make_service(tmp_path / "signer", in_memory=False)
    assert service.storage.one("PRAGMA journal_mode") == ("wal",)
    assert service.storage.one("PRAGMA synchronous") == (2,)  # FULL
    service.close()


def test_rows_of_a_request_that_fails_halfway_are_taken_back(tmp_path: Path) -> None:
    storage = Storage(None)
    with pytest.raises(sqlite3.IntegrityError):
        storage.execute_together([(INSERT_COLD, (1, b"a")), (INSERT_COLD, (1, b"b"))])
    storage.execute_together([(INSERT_COLD, (2, b"c"))])
    storage.commit()
    assert storage.all("SELECT position FROM cold") == [(2,)]
    storage.close()
