"""What `lnpd restore --plan` says of channels whose funding is spent already (issue "channel", 6; checklist 30)."""

import importlib.util
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from types import SimpleNamespace

import pytest

from node.backup.content import Content
from node.chain.backend import BackendAway, BackendUnusable, BlockRef, Outcome, Placed, Unspent
from node.chain.backend import Found as FoundTransaction
from node.chain.blocks import Header, Interest, Looked
from node.channel import static
from node.channel.content import commitment_params
from node.channel.events import CloseWanted
from node.channel.host import ChannelHost
from node.restore import Fate, plan
from node.restore import Outcome as End
from node.restore_chain import Seen, Spend, Wanted, look
from protocol.amounts import FEERATE_FLOOR, BlockHeight, FeeratePerKw, Sat
from protocol.bitcoin.transaction import OutPoint, Transaction, TxIn, TxOut
from protocol.bus.messages.chain import WatchOutput
from protocol.bus.messages.signer import NumbersOfChannel
from tests.node.onchain.test_unilateral import BIG, EXPIRY
from tests.node.onchain.world import DELAY, World
from tests.support import need

# The plan.


@pytest.fixture(params=[False, True], ids=["static_remotekey", "anchors"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    need("kernel", importlib.util.find_spec("pbk") is not None, "py-bitcoinkernel is not installed")
    return World(tmp_path, anchors=request.param)


def fate(world: World, tx: Transaction, height: int | None) -> Fate:
    """Of Alice's channel, which comes back from a backup."""
    committed = world.pair.alice.state.committed
    record = static.record(committed)
    assert record is not None
    content = Content(1, "regtest", 0, 1, 1, (record,), ())
    at = commitment_params(committed.params).funding_outpoint
    (found,) = plan((), (), None, content, Seen({at: Spend(tx, height)})).fates
    assert found.new
    return found


def test_our_own_commitment_is_named_with_the_block_from_which_it_is_swept(world: World) -> None:
    found = fate(world, world.force_close(world.pair.alice), 200)
    assert found.outcome is End.OURS
    assert "it is in block 200" in found.sentence
    assert f"delayed by {DELAY} blocks" in found.sentence
    assert f"from block {200 + DELAY} on" in found.sentence
    assert "HTLC" not in found.sentence


def test_our_own_commitment_in_the_mempool(world: World) -> None:
    found = fate(world, world.force_close(world.pair.alice), None)
    assert found.outcome is End.OURS
    assert "waits in the mempool" in found.sentence
    assert f"{DELAY} blocks after its own" in found.sentence


def test_htlcs_of_our_own_commitment_are_said_to_be_out_of_our_hands(world: World) -> None:
    alice, bob = world.pair.ends
    world.offer(alice, BIG, EXPIRY)
    assert "1 more of its outputs is an HTLC" in fate(world, world.copy(alice).tx, 1).sentence
    world.offer(bob, BIG, EXPIRY)
    sentence = fate(world, world.force_close(alice), 1).sentence
    assert "2 more of its outputs are HTLCs" in sentence
    assert "signatures, which are lost" in sentence
    assert "received goes back to the peer after its expiry" in sentence
    assert "preimage, and else stays where it is for ever" in sentence


def test_the_commitment_of_the_peer_is_named_with_what_it_pays(world: World) -> None:
    tx = world.force_close(world.pair.bob)
    found = fate(world, tx, 200)
    assert found.outcome is End.THEIRS
    ours = max(output.value for output in tx.outputs)  # Alice has the larger half
    assert f"The {ours} sat that it pays to us are swept" in found.sentence


def test_a_close_by_agreement_is_named(world: World) -> None:
    world.pair.alice.do(CloseWanted())
    world.pair.quiet()
    found = fate(world, Transaction.parse(world.pair.alice.published[0]), 200)
    assert found.outcome is End.AGREED


def test_database_and_signer_that_are_both_old_do_not_go_on(world: World) -> None:
    """They fit each other; the chain alone can tell."""
    old = world.pair.alice.state
    params = commitment_params(old.committed.params)
    numbers = (NumbersOfChannel(old.committed.params.handle, 0, 0, 0, 0, False),)
    (before,) = plan((old,), numbers, None, None).fates
    assert before.outcome is End.GOES_ON
    tx = world.force_close(world.pair.alice)
    (after,) = plan((old,), numbers, None, None, Seen({params.funding_outpoint: Spend(tx, 200)})).fates
    assert after.outcome is End.OURS
    assert not after.new


def test_a_chain_that_was_not_asked_is_a_warning(world: World) -> None:
    made = plan((), (), None, None, Seen({}, "bitcoind does not answer"))
    assert "bitcoind does not answer" in made.warnings[0]


@pytest.mark.parametrize(("funded", "opened", "since"), [(101, 77, 101), (None, 77, 77), (None, None, 0)])
def test_a_restored_channel_looks_for_its_funding_from_its_open_on(
    world: World, funded: int | None, opened: int | None, since: int
) -> None:
    """A backup from before its first block tells no height of the funding; the spend may be older than the blocks that
    a node looks at by itself."""
    committed = copy(world.pair.alice.state.committed)
    committed.funding_height, committed.opened_height = funded, opened
    record = static.record(committed)
    assert record is not None
    watched: list[WatchOutput] = []
    host = SimpleNamespace(run=watched.append, _ask_chain=lambda watch: watch)
    ChannelHost._watch(host, SimpleNamespace(state=SimpleNamespace(committed=static.restored(record))))
    assert [watch.since for watch in watched] == [since]


# The look into the chain.

FUNDING = OutPoint(b"\x01" * 32, 0)
OTHER = OutPoint(b"\x02" * 32, 1)
SCRIPT = b"\x00\x20" + b"\x05" * 32


def spender(outpoint: OutPoint) -> Transaction:
    return Transaction(2, (TxIn(outpoint),), (TxOut(Sat(1000), SCRIPT),))


class FakeBackend:
    """Blocks 0 to 9, some with a transaction."""

    name = "fake"
    cannot: frozenset[str] = frozenset()

    def __init__(
        self,
        blocks: Mapping[int, Transaction] | None = None,
        *,
        mempool: Sequence[Transaction] = (),
        unspent: frozenset[OutPoint] = frozenset(),
        fails: Exception | None = None,
    ) -> None:
        self.blocks, self.mempool, self.unspent, self.fails = blocks or {}, mempool, unspent, fails
        self.read: list[int] = []

    async def check(self) -> None:
        if self.fails is not None:
            raise self.fails

    async def tip(self) -> BlockRef:
        return BlockRef(BlockHeight(9), bytes([9]) * 32, 0)

    async def block_hash(self, height: int) -> bytes | None:
        return bytes([height]) * 32

    async def look(self, height: int, block_hash: bytes, interest: Interest) -> Looked | None:
        assert SCRIPT in interest.scripts
        self.read.append(height)
        tx = self.blocks.get(height)
        header = Header(block_hash, bytes(32), bytes(32), 0, 0)
        return Looked(header, () if tx is None else ((1, tx),))

    async def output_status(self, txid: bytes, index: int) -> Unspent | None:
        found = OutPoint(txid, index) in self.unspent
        return Unspent(Sat(1), SCRIPT, 1, bytes(32)) if found else None

    async def mempool_spenders(self, watched: Mapping[OutPoint, bytes]) -> Sequence[Transaction]:
        return [tx for tx in self.mempool if tx.inputs[0].outpoint in watched]

    async def output_at(self, height: int, tx_index: int, output_index: int) -> Placed | None:
        raise NotImplementedError

    async def transaction(self, txid: bytes, height: int | None = None) -> FoundTransaction | None:
        raise NotImplementedError

    async def broadcast(self, raw: bytes) -> Outcome:
        raise AssertionError("a plan sends nothing")

    async def submit_package(self, parents: Sequence[bytes], child: bytes) -> Outcome:
        raise AssertionError("a plan sends nothing")

    async def feerate(self, target_blocks: int) -> FeeratePerKw | None:
        return None

    async def mempool_minimum(self) -> FeeratePerKw:
        return FEERATE_FLOOR

    def subscribe(self, changed: object) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError


async def seen(backend: FakeBackend, *wanted: Wanted) -> Seen:
    return await look(backend, wanted or (Wanted(FUNDING, SCRIPT, 3),))  # type: ignore[arg-type]


async def test_a_spend_is_found_in_its_block_and_no_block_is_read_after_it() -> None:
    backend = FakeBackend({5: spender(FUNDING)})
    assert (await seen(backend)).spends == {FUNDING: Spend(spender(FUNDING), 5)}
    assert backend.read == [3, 4, 5]


async def test_a_block_counts_more_than_the_mempool() -> None:
    both = FakeBackend({4: spender(FUNDING)}, mempool=(spender(FUNDING),))
    assert (await seen(both)).spends[FUNDING].height == 4
    waiting = FakeBackend(mempool=(spender(FUNDING),))
    assert (await seen(waiting)).spends[FUNDING].height is None


async def test_no_block_is_read_for_fundings_that_are_unspent() -> None:
    backend = FakeBackend({5: spender(OTHER)}, unspent=frozenset({FUNDING}))
    assert await seen(backend) == Seen({})
    assert backend.read == []


async def test_two_fundings_are_found_in_one_pass() -> None:
    backend = FakeBackend({2: spender(OTHER), 7: spender(FUNDING)})
    found = await seen(backend, Wanted(FUNDING, SCRIPT, 6), Wanted(OTHER, SCRIPT, 1))
    assert {at: spend.height for at, spend in found.spends.items()} == {FUNDING: 7, OTHER: 2}
    assert backend.read == list(range(1, 8))


@pytest.mark.parametrize("error", [BackendAway("no answer"), BackendUnusable("pruned")])
async def test_a_chain_that_cannot_tell_stops_no_restore(error: Exception) -> None:
    found = await seen(FakeBackend(fails=error))
    assert found.spends == {}
    assert found.missing == str(error)
