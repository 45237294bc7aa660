"""The static channel backup and stale channels (DESIGN, "Keys" and "Closing is one-way"; checklist 30)."""

import shutil
from pathlib import Path

import pytest

from protocol.amounts import FeeratePerKw, Sat
from protocol.bolt3.commitment import Side
from protocol.bus.messages import signer as contract
from signer.service import SignerService
from tests.signer.support import PASSPHRASE, PEER_WORDS, Node, World, make_service

MINE = 600_000_000


def sealed(world: World, part: bytes = b"what the node adds") -> contract.BackupSealed:
    reply = world.node.ask(contract.SealBackup(part))
    assert isinstance(reply, contract.BackupSealed), reply
    return reply


@pytest.fixture
def restored(tmp_path: Path) -> SignerService:
    """The same seed in a new place, with an empty database."""
    return make_service(tmp_path / "restored")


def test_backup_is_opened_by_the_same_seed_and_by_no_other(
    world: World, restored: SignerService, tmp_path: Path
) -> None:
    backup = sealed(world)
    opened = Node(restored).ask(contract.OpenBackup(backup.blob))
    assert isinstance(opened, contract.BackupOpened)
    assert opened.node_part == b"what the node adds"
    assert opened.counter == 1
    assert opened.signer_counter == 0  # this signer is older than the backup, and says so
    (channel,) = opened.channels
    assert channel == contract_channel(world, known=False)
    stranger = Node(make_service(tmp_path / "stranger", words=PEER_WORDS))
    refused = stranger.ask(contract.OpenBackup(backup.blob))
    assert isinstance(refused, contract.Refused)
    assert refused.tag == "backup-unreadable"


def contract_channel(world: World, *, known: bool) -> object:
    from protocol.bus.messages.signer_backup import BackedUpChannel

    return BackedUpChannel(world.drawn.channel, world.peer_id, True, known)


@pytest.mark.parametrize("at", [0, 4, 6, 14, 26, -1])
def test_backup_with_one_flipped_bit_is_refused(world: World, restored: SignerService, at: int) -> None:
    blob = bytearray(sealed(world).blob)
    blob[at] ^= 1
    refused = Node(restored).ask(contract.RestoreBackup(bytes(blob)))
    assert isinstance(refused, contract.Refused)
    assert refused.tag == "backup-unreadable"


@pytest.mark.parametrize("length", [0, 1, 13, 24, 40])
def test_backup_that_was_cut_off_is_refused(world: World, restored: SignerService, length: int) -> None:
    refused = Node(restored).ask(contract.OpenBackup(sealed(world).blob[:length]))
    assert isinstance(refused, contract.Refused)


def test_backup_does_not_show_what_it_holds(world: World) -> None:
    blob = sealed(world, b"peer address 127.0.0.1:9735").blob
    assert b"127.0.0.1" not in blob
    assert world.drawn.channel not in blob
    assert world.peer_id not in blob


def test_counter_grows_with_every_backup_and_over_a_restore(world: World, restored: SignerService) -> None:
    assert [sealed(world).counter for _ in range(3)] == [1, 2, 3]
    newest = sealed(world)
    node = Node(restored)
    assert isinstance(node.ask(contract.RestoreBackup(newest.blob)), contract.BackupRestored)
    again = node.ask(contract.SealBackup(b""))
    assert isinstance(again, contract.BackupSealed)
    assert again.counter == newest.counter + 1


def test_restored_channel_signs_no_commitment_and_releases_no_secret(
    world: World, restored: SignerService
) -> None:
    """checklist 30: a state that was lost is never published, and the peer closes."""
    blob = sealed(world).blob
    node = Node(restored)
    assert node.ask(contract.RestoreBackup(blob)) == contract.BackupRestored((world.drawn.channel,))
    content = world.content(Side.COUNTERPARTY, 0, MINE)
    for operation in (
        contract.SignCounterparty(0, content),
        contract.ValidateHolder(
            0,
            world.content(Side.HOLDER, 0, MINE),
            (world.peer_signs(world.content(Side.HOLDER, 0, MINE)),),
        ),
        contract.RevokeHolder(0),
        contract.SignHolderCommitment(),
        contract.SignMutualClose(
            Sat(600_000), Sat(400_000), world.drawn.shutdown_script, b"\x00\x14" + bytes(20), Sat(1000)
        ),
    ):
        answer = node.ask(contract.ChannelRequest(world.drawn.channel, (operation,)))
        assert isinstance(answer, contract.ChannelAnswer)
        assert isinstance(answer.stopped, contract.Refused), operation
        assert answer.stopped.tag in ("frozen", "stale")
        assert not answer.results


@pytest.mark.parametrize("restarted", [False, True])
def test_channel_that_the_backup_has_without_its_set_up_is_stale_too(tmp_path: Path, restarted: bool) -> None:
    """An old backup knows of the channel only that its keys were drawn. Its commitment 0 is revoked since, so a stolen
    node that sets it up anew and force closes would give the peer everything."""
    world = World(make_service(tmp_path / "first"), opened=False)
    old = sealed(world)
    assert world.node.ask(world.setup) == contract.ChannelSetUp()
    world.open()
    world.both_move(1, MINE)
    restored = make_service(tmp_path / "restored", in_memory=False)
    assert Node(restored).ask(contract.RestoreBackup(old.blob)) == contract.BackupRestored(
        (world.drawn.channel,)
    )
    if restarted:
        restored.close()
        restored = SignerService(tmp_path / "restored", PASSPHRASE, fee_reserve="enforce")
    world.service = restored
    world.node = Node(world.service)
    assert world.node.ask(world.setup) == contract.ChannelSetUp()  # so that its outputs can be swept
    assert world.refuses(world.validate(0, MINE)) == "frozen"
    assert world.refuses(world.sign(0, MINE)) == "frozen"
    assert world.refuses(contract.SignHolderCommitment()) == "stale"
    restored.close()


def test_restored_channel_sweeps_what_the_close_of_the_peer_pays_to_us(
    world: World, restored: SignerService
) -> None:
    node = Node(restored)
    node.ask(contract.RestoreBackup(sealed(world).blob))
    paid = contract.SweepInput("to_remote", b"\xcd" * 32, 0, Sat(599_000))
    sweep = contract.SignSweep(world.drawn.channel, (paid,), FeeratePerKw(1000))
    before = world.node.ask(sweep)
    after = node.ask(sweep)
    assert isinstance(before, contract.SweepSigned)
    assert isinstance(after, contract.SweepSigned)


def test_restoring_leaves_a_channel_that_is_known_as_it_is(world: World) -> None:
    state = world.state
    assert world.node.ask(contract.RestoreBackup(sealed(world).blob)) == contract.BackupRestored(())
    assert world.state is state
    world.grants(contract.SignHolderCommitment())


@pytest.mark.parametrize("restarted", [False, True])
def test_backup_from_later_than_the_database_ends_the_channels_that_it_knows(
    tmp_path: Path, restarted: bool
) -> None:
    """An old copy of the signer's database was put back. Its newest commitment is revoked since: a stolen node that
    restores and force closes would give the peer everything."""
    world = World(make_service(tmp_path / "later", in_memory=False))
    drawn = world.node.ask(contract.NewChannel(b"\x07" * 32, world.peer_id))
    assert isinstance(drawn, contract.ChannelDrawn)
    shutil.copytree(tmp_path / "later", tmp_path / "old")
    world.both_move(1, MINE)
    newest = sealed(world)
    world.service.close()
    world.service = SignerService(tmp_path / "old", PASSPHRASE, fee_reserve="enforce")
    world.node = Node(world.service)
    assert world.node.ask(contract.RestoreBackup(newest.blob)) == contract.BackupRestored(())
    if restarted:
        world.service.close()
        world.service = SignerService(tmp_path / "old", PASSPHRASE, fee_reserve="enforce")
        world.node = Node(world.service)
    assert world.refuses(contract.SignHolderCommitment()) == "stale"
    # One that was only drawn may have been set up since.
    assert world.service._channels[drawn.channel].restored
    world.service.close()


def test_restored_channels_are_there_after_a_restart(world: World, tmp_path: Path) -> None:
    first = make_service(tmp_path / "disk", in_memory=False)
    Node(first).ask(contract.RestoreBackup(sealed(world).blob))
    first.close()
    again = SignerService(tmp_path / "disk", PASSPHRASE)
    numbers = Node(again).ask(contract.ChannelNumbers())
    assert isinstance(numbers, contract.Numbers)
    assert [entry.channel for entry in numbers.channels] == [world.drawn.channel]
    assert numbers.channels[0].frozen
    again.close()


def test_no_cold_script_and_no_channel_key_is_given_out_twice_after_a_restore(
    world: World, restored: SignerService
) -> None:
    node = Node(restored)
    node.ask(contract.RestoreBackup(sealed(world).blob))
    fresh = node.ask(contract.NewChannel(b"\x02" * 32, world.peer_id))
    assert isinstance(fresh, contract.ChannelDrawn)
    assert fresh.shutdown_script != world.drawn.shutdown_script
    same = node.ask(contract.NewChannel(b"\x01" * 32, world.peer_id))
    assert isinstance(same, contract.ChannelDrawn)
    assert same.keys == world.drawn.keys  # the request id was kept too


def test_cold_scripts_of_before_the_restore_are_known_and_not_drawn_again_after_a_restart(
    world: World, tmp_path: Path
) -> None:
    first = make_service(tmp_path / "disk", in_memory=False)
    Node(first).ask(contract.RestoreBackup(sealed(world).blob))
    first.close()
    again = SignerService(tmp_path / "disk", PASSPHRASE)
    fresh = Node(again).ask(contract.NewChannel(b"\x02" * 32, world.peer_id))
    assert isinstance(fresh, contract.ChannelDrawn)
    assert fresh.shutdown_script != world.drawn.shutdown_script
    assert again._books.is_cold(world.drawn.shutdown_script)
    again.close()


def test_stale_channel_is_frozen_for_good_and_a_force_close_that_left_is_followed(world: World) -> None:
    world.grants(contract.SignHolderCommitment())
    assert world.node.ask(contract.MarkStale(world.drawn.channel)) == contract.MarkedStale()
    world.grants(contract.SignHolderCommitment())  # it left before; what is in the chain is ours to follow


def test_stale_channel_publishes_nothing(world: World) -> None:
    """checklist 30: freshness in doubt: nothing of ours may reach the chain."""
    assert world.node.ask(contract.MarkStale(world.drawn.channel)) == contract.MarkedStale()
    assert world.refuses(contract.SignHolderCommitment()) == "stale"
    assert world.refuses(world.sign(1, MINE)) == "frozen"
    assert world.node.ask(contract.MarkStale(world.drawn.channel)) == contract.MarkedStale()


def test_stale_channel_stays_stale_whatever_else_ends_it(world: World) -> None:
    """Attack: have it punished, or closed, so that it is frozen for another reason, and publish the old state then."""
    world.both_move(1, MINE)
    assert world.node.ask(contract.MarkStale(world.drawn.channel)) == contract.MarkedStale()
    taken = contract.SweepInput("revoked_to_local", b"\xcd" * 32, 0, Sat(300_000), 0)
    swept = world.node.ask(contract.SignSweep(world.drawn.channel, (taken,), FeeratePerKw(1000)))
    assert isinstance(swept, contract.SweepSigned)
    assert world.refuses(contract.SignHolderCommitment()) == "stale"


def test_channel_whose_mutual_close_left_becomes_stale_too(world: World) -> None:
    world.grants(world.close(600_000))
    assert world.node.ask(contract.MarkStale(world.drawn.channel)) == contract.MarkedStale()
    assert world.refuses(contract.SignHolderCommitment()) == "stale"
    assert world.refuses(world.close(600_000)) == "stale"
