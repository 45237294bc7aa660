"""The fee reserve: coins that are proven, counted, spent on closes and returned to cold (DESIGN, "The fee reserve")."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from protocol import reserve
from protocol.amounts import FeeratePerKw, Sat
from protocol.bitcoin import psbt as psbts
from protocol.bitcoin.descriptor import KeyOrigin
from protocol.bitcoin.transaction import OutPoint, Transaction, TxIn, TxOut
from protocol.bus.messages import signer as contract
from protocol.bus.messages.signer_reserve import MAX_RESERVE_COINS
from protocol.hashes import sha256
from signer.keys import CHANGE, COLD, RECEIVE, RESERVE
from signer.service import SignerService
from tests.signer.support import PASSPHRASE, Node, World, htlc, make_service

OURS = 600_000_000
AMOUNT = 50_000_000
FOREIGN = b"\x00\x14" + b"\x99" * 20
CHANNEL, HTLC = reserve.PER_CHANNEL, reserve.PER_HTLC


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[SignerService]:
    make_service(tmp_path / "signer").close()
    service = SignerService(tmp_path / "signer", PASSPHRASE, in_memory=True, fee_reserve="enforce")
    yield service
    service.close()


def coin(service: SignerService, value: int, position: int = 0, salt: int = 1) -> contract.ReserveCoin:
    outputs = (TxOut(Sat(5), FOREIGN), TxOut(Sat(value), service.keys.wallet_script(RESERVE, position)))
    previous = Transaction(2, (TxIn(OutPoint(bytes((salt,)) * 32, 0)),), outputs)
    return contract.ReserveCoin(previous.serialize(), 1, position)


def as_wallet_coin(coin: contract.ReserveCoin) -> contract.WalletCoin:
    previous = Transaction.parse(coin.previous)
    return contract.WalletCoin(previous.txid, 1, previous.outputs[1].value, RESERVE, coin.position)


def note(node: Node, *coins: contract.ReserveCoin) -> contract.ReserveStatus:
    reply = node.ask(contract.NoteReserve(coins))
    assert isinstance(reply, contract.ReserveStatus), reply
    return reply


def status(node: Node) -> contract.ReserveStatus:
    reply = node.ask(contract.AskReserve())
    assert isinstance(reply, contract.ReserveStatus)
    return reply


def tag(reply: contract.Reply) -> str:
    assert isinstance(reply, contract.Refused), reply
    return reply.tag


def opened(service: SignerService, cover: int) -> World:
    """A channel with anchors, and a reserve of so much."""
    world = World(service, opened=False)
    note(world.node, coin(service, cover))
    assert world.node.ask(world.setup) == contract.ChannelSetUp()
    world.open()
    return world


# Coins.


def test_coins_are_proven_by_their_transactions(service: SignerService) -> None:
    """Attack: name amounts that no coin has, so that channels open which nothing covers."""
    node = Node(service)
    good = coin(service, 70_000, 3)
    assert note(node, good).present == 70_000
    for wrong in (
        replace(good, previous=b""),
        replace(good, previous=good.previous[:-1]),
        replace(good, index=0),
        replace(good, index=2),
        replace(good, index=-1),
        replace(good, position=4),
        replace(good, position=-1),
        replace(good, position=1 << 31),
    ):
        assert tag(node.ask(contract.NoteReserve((good, wrong)))) == "reserve-coin"
    assert tag(node.ask(contract.NoteReserve((good, good)))) == "reserve-coin"
    assert status(node).present == 70_000


def test_a_wallet_coin_of_another_branch_is_none_of_the_reserve(service: SignerService) -> None:
    node = Node(service)
    for branch in (RECEIVE, CHANGE, COLD):
        paid = TxOut(Sat(50_000), service.keys.wallet_script(branch, 0))
        previous = Transaction(2, (TxIn(OutPoint(b"\x01" * 32, 0)),), (paid,))
        wrong = contract.ReserveCoin(previous.serialize(), 0, 0)
        assert tag(node.ask(contract.NoteReserve((wrong,)))) == "reserve-coin"


def test_a_list_replaces_the_one_before(service: SignerService) -> None:
    node = Node(service)
    first, second = coin(service, 10_000), coin(service, 20_000, 1)
    assert note(node, first, second).present == 30_000
    assert note(node, second).present == 20_000
    assert note(node, first).present == 10_000
    assert note(node).present == 0


def test_a_list_is_bounded(service: SignerService) -> None:
    node = Node(service)
    one = coin(service, 10_000)
    assert tag(node.ask(contract.NoteReserve((one,) * (MAX_RESERVE_COINS + 1)))) == "reserve-size"


def test_the_list_is_on_the_disk(tmp_path: Path) -> None:
    service = make_service(tmp_path / "signer", in_memory=False)
    note(Node(service), coin(service, 10_000))
    service.close()
    service = SignerService(tmp_path / "signer", PASSPHRASE)
    assert status(Node(service)).present == 10_000
    service.close()


# What it must cover.


def test_what_is_needed_grows_with_channels_and_htlcs(service: SignerService) -> None:
    world = World(service)
    found = status(world.node)
    assert (found.mode, found.needed, found.channels, found.htlcs) == ("shadow", CHANNEL, 1, 0)
    assert found.feerate_per_kw == reserve.RESERVE_FEERATE
    World(service, beside=world, place=1, anchors=False)
    assert status(world.node).needed == CHANNEL
    items = (htlc(True, 0, AMOUNT), htlc(False, 0, AMOUNT), htlc(True, 1, 1_000_000))
    world.both_move(1, OURS - AMOUNT - 1_000_000, items)
    assert status(world.node).needed == CHANNEL + 2 * HTLC
    world.grants(world.validate(2, OURS))  # the worst of the versions counts
    assert status(world.node).htlcs == 2
    world.both_move(2, OURS)
    assert status(world.node).needed == CHANNEL
    world.grants(contract.SignHolderCommitment())
    assert status(world.node).needed == 0


def test_a_channel_counts_from_our_first_commitment_on(service: SignerService) -> None:
    """Before it nothing of ours can be in it; an opening that came to nothing would count for good."""
    world = World(service, opened=False)
    assert world.node.ask(world.setup) == contract.ChannelSetUp()
    assert status(world.node).needed == 0
    world.open()
    assert status(world.node).needed == CHANNEL


def test_a_channel_with_anchors_that_nothing_covers_is_not_opened(strict: SignerService) -> None:
    """The words are those of the design: what is there, what is needed, what to do."""
    world = World(strict, opened=False)
    note(world.node, coin(strict, CHANNEL - 1))
    reply = world.node.ask(world.setup)
    assert isinstance(reply, contract.Refused) and reply.tag == "fee-reserve"
    assert f"{CHANNEL - 1} sat" in reply.seen and f"{CHANNEL} sat" in reply.limit
    assert "Send 1 sat to the reserve address" in reply.next_step and "without anchors" in reply.next_step
    note(world.node, coin(strict, CHANNEL))
    assert world.node.ask(world.setup) == contract.ChannelSetUp()
    world.open()
    second = World(strict, beside=world, place=1, opened=False)
    assert tag(second.node.ask(second.setup)) == "fee-reserve"
    note(world.node)
    assert world.node.ask(world.setup) == contract.ChannelSetUp()  # what was granted is granted again


def test_a_channel_without_anchors_needs_no_reserve(strict: SignerService) -> None:
    world = World(strict, anchors=False)
    world.both_move(1, OURS - AMOUNT, (htlc(True, 0, AMOUNT),))
    assert status(world.node).needed == 0


def test_an_htlc_that_nothing_covers_is_not_offered(strict: SignerService) -> None:
    world = opened(strict, CHANNEL + HTLC)
    first, second = htlc(True, 0, AMOUNT), htlc(True, 1, AMOUNT, sha256(b"2"))
    world.peer_moves(1, OURS - AMOUNT, (first,))
    assert world.refuses(world.sign(2, OURS - 2 * AMOUNT, (first, second))) == "fee-reserve"
    world.holder_moves(1, OURS - AMOUNT, (first,))
    # Another in the place of the first, once it is gone: the old commitment still counts, but needs no more.
    world.peer_moves(2, OURS - AMOUNT, (second,))
    note(world.node, coin(strict, CHANNEL + HTLC), coin(strict, HTLC, 1))
    world.grants(world.sign(3, OURS - 2 * AMOUNT, (first, second)))


def test_htlcs_of_a_commitment_that_still_stands_take_cover_from_a_new_one(strict: SignerService) -> None:
    """Attack: the new commitment has fewer of them, but the peer may publish the old one."""
    world = opened(strict, CHANNEL + HTLC)
    world.both_move(1, OURS, [htlc(False, n, AMOUNT, sha256(bytes((n,)))) for n in range(2)])
    assert world.refuses(world.sign(2, OURS - AMOUNT, (htlc(True, 0, AMOUNT),))) == "fee-reserve"


def test_what_is_too_small_to_claim_needs_no_cover(strict: SignerService) -> None:
    world = opened(strict, CHANNEL)
    small = htlc(True, 0, 1000 * HTLC - 1)
    world.both_move(1, OURS - small.amount_msat, (small,))
    note(world.node)
    world.both_move(2, OURS - 2 * small.amount_msat, (small, htlc(True, 1, small.amount_msat)))


def test_traffic_that_offers_nothing_passes_with_an_empty_reserve(strict: SignerService) -> None:
    """Refusing it would break the channel: fails, fulfils, and what the peer adds."""
    world = opened(strict, CHANNEL + HTLC)
    ours, others = htlc(True, 0, AMOUNT), [htlc(False, n, AMOUNT, sha256(bytes((n,)))) for n in range(3)]
    world.both_move(1, OURS - AMOUNT, (ours,))
    note(world.node)
    world.both_move(2, OURS - AMOUNT, (ours, *others))
    assert status(world.node).needed == CHANNEL + 4 * HTLC
    world.both_move(3, OURS, others)
    assert world.refuses(world.sign(4, OURS - AMOUNT, (ours, *others))) == "fee-reserve"
    world.both_move(4, OURS)


def test_a_version_that_was_granted_is_granted_again(strict: SignerService) -> None:
    world = opened(strict, CHANNEL + HTLC)
    offer = world.sign(1, OURS - AMOUNT, (htlc(True, 0, AMOUNT),))
    first = world.grants(offer)
    note(world.node)
    assert world.grants(offer) == first


def test_in_shadow_the_rule_speaks_once_and_refuses_nothing(
    service: SignerService, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "signer"):
        world = World(service)
        world.both_move(1, OURS - AMOUNT, (htlc(True, 0, AMOUNT),))
    assert [record.msg.split()[0] for record in caplog.records] == ["fee_reserve_short"]


@pytest.mark.parametrize(("network", "mode"), [("regtest", "shadow"), ("signet", "enforce")])
def test_the_rule_is_enforced_where_coins_are_worth_something(
    tmp_path: Path, network: str, mode: str
) -> None:
    from signer import initialise

    initialise.create(tmp_path / "signer", network, PASSPHRASE, scrypt_cost=2)
    for asked, expected in ((None, mode), ("enforce", "enforce"), ("shadow", "shadow")):
        service = SignerService(tmp_path / "signer", PASSPHRASE, in_memory=True, fee_reserve=asked)
        assert service._reserve.status().mode == expected
        service.close()


# What it pays.


def closed(service: SignerService) -> tuple[World, contract.ReserveCoin]:
    world = World(service)
    world.both_move(1, OURS - AMOUNT, (htlc(True, 0, AMOUNT),))
    world.grants(contract.SignHolderCommitment())
    paying = coin(service, 30_000, 5)
    note(world.node, paying, coin(service, 20_000, 6, 2))
    return world, paying


def anchor(
    world: World, paying: contract.WalletCoin, rate: int = 3000, **more: object
) -> contract.SignAnchor:
    request = contract.SignAnchor(world.drawn.channel, 1, (paying,), (RESERVE, 9), FeeratePerKw(rate))
    return replace(request, **more)  # type: ignore[arg-type]


def stage(world: World, paying: contract.WalletCoin) -> contract.SignSecondStage:
    staged = (contract.StagedHtlc(True, 0),)
    return contract.SignSecondStage(
        world.drawn.channel, 1, staged, (paying,), (RESERVE, 9), FeeratePerKw(3000)
    )


@pytest.mark.parametrize("make", [anchor, stage])
def test_coins_of_the_reserve_pay_fees_and_leave_it(service: SignerService, make: object) -> None:
    world, paying = closed(service)
    request = make(world, as_wallet_coin(paying))  # type: ignore[operator]
    first = world.node.ask(request)
    assert isinstance(first, contract.AnchorSigned | contract.SecondStageSigned), first
    tx = Transaction.parse(first.transaction)
    assert tx.outputs[-1].script_pubkey == service.keys.wallet_script(RESERVE, 9)
    assert status(world.node).present == 20_000
    assert world.node.ask(request) == first
    assert status(world.node).present == 20_000


def test_a_fee_is_raised_with_the_same_coin(service: SignerService) -> None:
    """Also once the node left it out of the list, since its transaction waits in the mempool."""
    world, paying = closed(service)
    spent = as_wallet_coin(paying)
    assert isinstance(world.node.ask(anchor(world, spent)), contract.AnchorSigned)
    note(world.node, coin(service, 20_000, 6, 2))
    assert isinstance(world.node.ask(anchor(world, spent, 5000)), contract.AnchorSigned)


def test_a_coin_that_was_signed_away_counts_again_after_it_was_left_out(service: SignerService) -> None:
    world, paying = closed(service)
    assert isinstance(world.node.ask(anchor(world, as_wallet_coin(paying))), contract.AnchorSigned)
    assert note(world.node, paying).present == 0
    assert note(world.node).present == 0
    assert note(world.node, paying).present == 30_000


def test_only_coins_that_were_noted_pay(service: SignerService) -> None:
    """Attack: a lie about the amount, to burn more than the request says."""
    world, paying = closed(service)
    good = as_wallet_coin(paying)
    for wrong in (
        replace(good, value=Sat(29_000)),
        replace(good, position=6),
        replace(good, index=0),
        replace(good, txid=b"\x01" * 32),
    ):
        assert tag(world.node.ask(anchor(world, wrong))) == "reserve-coin"
        assert tag(world.node.ask(stage(world, wrong))) == "reserve-coin"
    assert status(world.node).present == 50_000


def test_a_refused_fee_leaves_the_coin_in_the_reserve(service: SignerService) -> None:
    world, paying = closed(service)
    assert tag(world.node.ask(anchor(world, as_wallet_coin(paying), 3000, change=(2, 0)))) == "fee-coins"
    rich = coin(service, 900_000, 7, 3)
    note(world.node, rich)
    assert tag(world.node.ask(anchor(world, as_wallet_coin(rich), 60_000))) == "close-fee"
    assert status(world.node).present == 900_000


# Back to cold.


def give_back(
    world: World,
    coins: list[contract.ReserveCoin],
    *outputs: tuple[int, int, int],
    named: bool = True,
    foreign: bool = False,
    said_of_foreign: tuple[int, int] | None = None,
) -> contract.Reply:
    """Outputs as (branch, position, value); branch -1 is somebody else's, and the PSBT may say a place of it."""
    keys = world.service.keys
    previous = [Transaction.parse(item.previous) for item in coins]
    paid = [
        TxOut(Sat(value), FOREIGN if branch < 0 else keys.wallet_script(branch, position))
        for branch, position, value in outputs
    ]
    inputs = tuple(TxIn(OutPoint(tx.txid, 1)) for tx in previous)
    origins = [
        {
            keys._branches[RESERVE].child(item.position).public_key(): KeyOrigin(
                keys.fingerprint, (*keys.wallet_path, RESERVE, item.position)
            )
        }
        for item in coins
    ]
    places = [said_of_foreign if branch < 0 else (branch, position) for branch, position, _ in outputs]
    output_origins = {
        n: {
            keys._branches[place[0]].child(place[1]).public_key(): KeyOrigin(
                keys.fingerprint, (*keys.wallet_path, *place)
            )
        }
        for n, place in enumerate(places)
        if place is not None and named
    }
    if foreign:
        previous.append(Transaction(2, (TxIn(OutPoint(b"\x02" * 32, 0)),), (TxOut(Sat(5), FOREIGN),) * 2))
        inputs = (*inputs, TxIn(OutPoint(previous[-1].txid, 1)))
        origins.append({})
    raw = psbts.create(
        Transaction(2, inputs, tuple(paid)),
        [tx.outputs[1] for tx in previous],
        previous,
        origins,
        output_origins=output_origins,
    )
    return world.node.ask(contract.SignPsbt(raw))


def test_surplus_goes_back_to_cold(service: SignerService) -> None:
    world, paying = closed(service)
    reply = give_back(world, [paying], (COLD, 40, 20_000), (RESERVE, 8, 9_000))
    assert isinstance(reply, contract.PsbtSigned)
    assert psbts.parse(reply.psbt).inputs[0] != {}
    assert status(world.node).present == 20_000
    assert isinstance(give_back(world, [paying], (COLD, 0, 29_000), named=False), contract.PsbtSigned)


def test_the_reserve_pays_nobody_else(service: SignerService) -> None:
    """Attack: the hot coins go where the thief likes, to the hot wallet first, or to a miner."""
    world, paying = closed(service)
    assert tag(give_back(world, [paying], (-1, 0, 29_000))) == "psbt-reserve"
    assert tag(give_back(world, [paying], (COLD, 40, 20_000), (-1, 0, 9_000))) == "psbt-reserve"
    for place in ((COLD, 0), (RESERVE, 8)):  # the PSBT says that it is ours
        assert tag(give_back(world, [paying], (-1, 0, 29_000), said_of_foreign=place)) == "psbt-reserve"
    assert tag(give_back(world, [paying], (RECEIVE, 0, 29_000))) == "psbt-reserve"
    assert tag(give_back(world, [paying], (COLD, 40, 29_000), named=False)) == "psbt-reserve"
    assert tag(give_back(world, [paying], (COLD, 40, 22_000))) == "psbt-reserve"
    assert tag(give_back(world, [paying], (COLD, 40, 29_000), foreign=True)) == "psbt-reserve"
    assert status(world.node).present == 50_000


def test_what_lives_stays_covered(strict: SignerService) -> None:
    world = opened(strict, CHANNEL + 5_000)
    whole, spare = coin(strict, CHANNEL + 5_000), coin(strict, 8_000, 1, 2)
    note(world.node, whole, spare)
    assert tag(give_back(world, [whole], (COLD, 40, CHANNEL + 4_000))) == "fee-reserve"
    assert status(world.node).present == CHANNEL + 13_000
    assert isinstance(give_back(world, [spare], (COLD, 40, 7_000)), contract.PsbtSigned)
    assert status(world.node).present == CHANNEL + 5_000
    # What comes back to branch 3 counts here, although it must be noted when it has confirmed.
    moved = give_back(world, [whole], (RESERVE, 9, CHANNEL), (COLD, 40, 4_000))
    assert isinstance(moved, contract.PsbtSigned)
    assert status(world.node).present == 0
    assert give_back(world, [whole], (RESERVE, 9, CHANNEL), (COLD, 40, 4_000)) == moved


def test_a_coin_that_was_signed_away_covers_nothing_by_coming_back(strict: SignerService) -> None:
    """Attack: the anchor that spends it confirms instead, and what lives is left without cover."""
    world = opened(strict, CHANNEL)
    away, kept = coin(strict, 30_000, 5, 2), coin(strict, CHANNEL, 6, 3)
    note(world.node, away, kept)
    second = World(strict, beside=world, place=1)
    world.grants(contract.SignHolderCommitment())
    raised = world.node.ask(anchor(world, as_wallet_coin(away), number=0))
    assert isinstance(raised, contract.AnchorSigned)
    assert status(second.node).present == CHANNEL
    moved = give_back(second, [away, kept], (RESERVE, 9, CHANNEL), (COLD, 40, 29_000))
    assert tag(moved) == "fee-reserve"
