"""Attribution data from the recipient back to the payer: real nodes in a row (BOLT 4, "Initialization of
`attribution_data`", "Hold times for successful payments"; checklist 39)."""

import asyncio
import importlib.util
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from msgspec.structs import replace

from node.payments.live import Attempt, LivePayment, judge_failure
from node.payments.send import NOBODY, Goal, Hop, Opened
from node.routing.liquidity import Liquidity
from protocol.amounts import BlockHeight, Msat, ShortChannelId
from protocol.bolt4.attribution import Told
from protocol.bus.messages.payments import (
    ListInvoices,
    ListParts,
    PartRow,
    Pay,
    PaymentRow,
    SendPart,
    SettleHold,
    WaitPart,
)
from protocol.bus.messages.routing import RouteHop
from protocol.hashes import sha256
from protocol.wire.bolt2_update import AttributionTlvs, UpdateFailHtlc, UpdateFulfillHtlc
from protocol.wire.message import decode, encode
from tests.node.payments.network import Net, Node
from tests.support import need

AMOUNT = 50_000_000
STEP = 40
"""Blocks that the last hop has left, and that each before it has more."""


@pytest.fixture(autouse=True)
def kernel() -> None:
    need("kernel", importlib.util.find_spec("pbk") is not None, "py-bitcoinkernel is not installed")


@pytest_asyncio.fixture
async def net(tmp_path: Path) -> AsyncIterator[Net]:
    net = Net(tmp_path, ("a-b", "b-c", "c-d"))
    await net.start()
    yield net
    await net.stop()


async def part_along(net: Net, names: str, payment_hash: bytes, secret: bytes) -> PartRow:
    """How an HTLC of A along these nodes ended."""
    hops, before = [], net["a"]
    for index, name in enumerate(names):
        left, node = len(names) - 1 - index, net[name]
        (channel,) = [c for c in await before.list_channels() if c.peer == node.node_id]
        hops.append(
            RouteHop(
                node.node_id,
                ShortChannelId(channel.alias_local or 0),
                0 if before.node_id < node.node_id else 1,
                Msat(AMOUNT + left * 100_000),
                STEP * (left + 1),
            )
        )
        before = node
    part = SendPart(payment_hash, tuple(hops), Msat(AMOUNT), payment_secret=secret)
    await net["a"].ask(part)
    return await net["a"].ask(WaitPart(payment_hash))


def garbled(frame: bytes) -> bytes:
    message = decode(frame)
    if not isinstance(message, UpdateFailHtlc):
        return frame
    return encode(replace(message, reason=message.reason[:-1] + bytes([message.reason[-1] ^ 1])))


def silenced(frame: bytes) -> bytes:
    """As of a node that knows no attribution data."""
    message = decode(frame)
    if not isinstance(message, UpdateFailHtlc | UpdateFulfillHtlc):
        return frame
    return encode(replace(message, tlvs=AttributionTlvs()))


def both(frame: bytes) -> bytes:
    return silenced(garbled(frame))


@pytest.mark.parametrize(
    ("name", "spoils", "suspects", "sentence"),
    [
        # B puts its HMACs over what it got, and something else comes: it is B, or the line to us.
        ("b", garbled, "b", "attribution data leads to hop 1 of 3"),
        # What C says does not fit what B got: it is C, or B.
        ("c", garbled, "bc", "attribution data leads to hops 1 to 2 of 3"),
        # B says that C gave nothing: anybody from B on may have done it.
        ("c", both, "bc", "attribution data leads to hops 1 to 3 of 3"),
        # Without data of B the payer knows what it knew before: nothing.
        ("b", both, "bc", "no node of its route owns up to the reason. "),
    ],
)
async def test_who_garbles_a_failure_is_blamed_and_not_everybody(
    net: Net, name: str, spoils: Callable[[bytes], bytes], suspects: str, sentence: str
):
    """checklist 39: the payee D fails it, and on the way back a node in the middle makes it unreadable."""
    net[name].on_the_line = spoils
    row = await part_along(net, "bcd", sha256(b"unknown"), bytes(32))
    assert (row.status, row.failed_at, row.failure_code) == ("failed", -1, None)
    assert sentence in (row.error or "")
    found = {node_id for node_id, _ in net["a"].router.liquidity.suspects(0)}
    assert found == {net[one].node_id for one in suspects}


HOPS = tuple(RouteHop(bytes([2, n] * 16) + b"!", ShortChannelId(n), 0, Msat(10), 40) for n in range(4))


@pytest.mark.parametrize(
    ("told", "left_out", "where"),
    [
        (None, 1, "from nobody"),
        (Told((), 0), 0, "at 0x0x0"),
        (Told((3,), 1), 1, "at 0x0x1"),
        (Told((3, 2), 2), 2, "at 0x0x2"),
        (Told((3, 2, 1, 0)), 3, "at 0x0x3"),
    ],
)
async def test_the_next_try_leaves_out_the_channel_between_the_pair(
    told: Told | None, left_out: int, where: str
):
    """checklist 39: without data it is a guess, the channel behind our own one; and three such failures are enough."""
    goal = Goal(bytes(33), bytes(32), Msat(10), 40)
    row = PaymentRow(
        "p", bytes(32), "", bytes(33), Msat(10), Msat(0), "pending", 0, None, None, None, None, 0
    )
    live = LivePayment(row, goal, max_fee=0, retry_until=0)
    attempt = Attempt("p/0", 0, bytes(32), Msat(10), Hop(Msat(10), BlockHeight(1), b"", ()), hops=HOPS)
    opened = Opened(NOBODY, None, told)
    for again in range(3):
        live.note_failure(attempt, opened)
        why = judge_failure(live, attempt, opened)
        assert (why is not None) is (again == 2)
    assert live.excluded == {(left_out, 0)}
    assert live.failures == {f"an unreadable failure {where}": 3}


async def held(net: Net, spoils: Callable[[bytes], bytes]) -> tuple[PartRow, ...]:
    """A pays a hold invoice of C, which waits for 1.25 s; B holds it for 0.3 s more."""
    b, c = net["b"], net["c"]
    now = {"b": b.clock(), "c": c.clock()}
    b.clock, c.clock = lambda: now["b"], lambda: now["c"]
    b.on_the_line = c.on_the_line = spoils
    preimage = b"\x33" * 32
    invoice = await c.invoice(AMOUNT, "bond", hold_hash=sha256(preimage))
    paying = asyncio.create_task(net["a"].ask(Pay(invoice.bolt11)))
    async with asyncio.timeout(20):
        while (await c.ask(ListInvoices())).invoices[0].status != "accepted":  # noqa: ASYNC110
            await asyncio.sleep(0.002)
    now["b"] += 1.55
    now["c"] += 1.25
    await c.ask(SettleHold(preimage))
    assert (await paying).status == "complete"
    await net["a"].quiet()
    return (await net["a"].ask(ListParts(invoice.payment_hash))).parts


async def test_the_payer_hears_how_long_each_node_held_it(net: Net):
    """checklist 39: hold times are in units of 100 ms, also on fulfil; they are kept with the part."""
    (part,) = await held(net, lambda frame: frame)
    assert (part.status, part.hold_times) == ("complete", (15, 12))
    await net["a"].restart()
    (again,) = (await net["a"].ask(ListParts(part.payment_hash))).parts
    assert again.hold_times == (15, 12)


async def test_nodes_that_know_no_attribution_data_are_paid_through_all_the_same(net: Net):
    """checklist 39: nothing is heard, and nothing else changes."""
    (part,) = await held(net, silenced)
    assert (part.status, part.hold_times) == ("complete", ())


async def test_a_restart_of_a_forwarder_does_not_shorten_what_it_held(net: Net):
    """checklist 39: when the HTLC came stands in the row of the forward; the recipient says 0 after a restart, since
    it does not know any more."""
    b, c = net["b"], net["c"]
    preimage = b"\x33" * 32
    invoice = await c.invoice(AMOUNT, "bond", hold_hash=sha256(preimage))
    paying = asyncio.create_task(net["a"].ask(Pay(invoice.bolt11)))
    async with asyncio.timeout(20):
        while (await c.ask(ListInvoices())).invoices[0].status != "accepted":  # noqa: ASYNC110
            await asyncio.sleep(0.002)
    began = b.clock()
    b.clock = c.clock = lambda: began + 500.0
    for node in (b, c):
        await node.restart()
    await net.usable()
    async with asyncio.timeout(20):
        while not c.payments._receiver._sets:  # noqa: ASYNC110
            await asyncio.sleep(0.002)
    await c.ask(SettleHold(preimage))
    assert (await paying).status == "complete"
    await net["a"].quiet()
    (part,) = (await net["a"].ask(ListParts(invoice.payment_hash))).parts
    first, last = part.hold_times
    assert 4_999 <= first <= 5_010 and last == 0


async def test_the_middle_node_killed_at_each_durable_write_still_passes_on_what_it_heard(net: Net):
    """checklist 39: C refuses. Whenever B dies, A reads the failure and both hold times or, where C's failure was not
    yet told for good when B died, what comes of it later; and in the end no row of B keeps the data."""
    b, killed, heard = net["b"], 0, []
    for after_commits in range(1, 30):
        net["a"].router.liquidity = Liquidity()
        payment_hash = sha256(b"unknown" + bytes([after_commits]))
        b.kill_at = b.commits + after_commits
        ended = asyncio.create_task(part_along(net, "bc", payment_hash, bytes(32)))
        async with asyncio.timeout(20):
            while not b.is_cut and not (ended.done() and await _is_settled(net)):  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        was_killed = b.is_cut
        if was_killed:
            killed += 1
            await b.wake_up()
            await net.usable()
        row = await ended
        for name in "abc":
            await net[name].quiet()
        assert row.status == "failed"
        if row.failed_at == 2:  # C's own word, past the last hop
            assert len(row.hold_times) == 2
            heard.append(after_commits)
        assert _kept(b) == 0
        if not was_killed:
            break
    assert killed >= 5 and len(heard) >= 5
    assert [_kept(net[name]) for name in "abc"] == [0, 0, 0]


def _kept(node: Node) -> int:
    ((count,),) = node.database.writer.read("SELECT count(*) FROM htlcs WHERE attribution IS NOT NULL")
    return int(count)


async def _is_settled(net: Net) -> bool:
    listed = [await node.list_channels() for node in net.nodes.values()]
    return not any(channel.htlcs for channels in listed for channel in channels)
