"""The audit of a network at rest: what payers, payees and forwarders have written down must be one story.

No payment is lost (paid here, unpaid there), none is duplicated, nothing hangs, and no msat came or went.
"""

from collections import Counter

from msgspec import Struct

from protocol.bus.messages import forwards
from protocol.bus.messages import payments as pay
from tests.simulation.net import Net
from tests.simulation.node import Node


class Order(Struct):
    """A payment that somebody asked for. `answer`: the final row, or the words of a refusal; empty when the payer died
    before it answered."""

    label: str
    payer: Node
    payee: Node
    amount_msat: int
    invoice: pay.InvoiceRow
    answer: pay.PaymentRow | str = ""
    began: float = 0.0
    ended: float = 0.0


class Books(Struct):
    paid: int = 0
    failed: int = 0
    sent_msat: int = 0
    fees_msat: int = 0
    attempts: int = 0
    in_parts: int = 0
    """Payments that arrived in more than one."""
    forwards: int = 0

    @property
    def success(self) -> float:
        return self.paid / max(1, self.paid + self.failed)


async def balances(net: Net) -> dict[bytes, int]:
    """By node id; and each channel looks the same from both ends, quiet and whole."""
    found: Counter[bytes] = Counter()
    ends: dict[bytes, list[tuple[int, int, int, int]]] = {}
    for node in net.nodes:
        for channel in await node.list_channels():
            assert channel.state == "CHANNELD_NORMAL", (node.name, channel.state, channel.why)
            assert not channel.htlcs, (node.name, channel.htlcs)
            found[node.node_id] += channel.to_us_msat
            entry = (channel.to_us_msat, channel.local_number, channel.remote_number, channel.capacity)
            ends.setdefault(channel.channel_id, []).append(entry)
    assert len(ends) == len(net.shape.edges)
    for one, two in ends.values():
        assert one[0] + two[0] == 1000 * one[3], "the two ends of a channel do not make it whole"
        assert (one[1], one[2]) == (two[2], two[1]), "the two ends are at different commitments"
    return dict(found)


async def audit(net: Net, orders: list[Order], before: dict[bytes, int]) -> Books:
    """`before`: what `balances` said when the first of `orders` was made; nothing else was paid since."""
    books = Books()
    expected = Counter(before)
    rows = {node.node_id: await node.list_payments() for node in net.nodes}
    invoices = {
        (node.node_id, row.payment_hash): row for node in net.nodes for row in await node.list_invoices()
    }
    passed = await _forwards(net, expected)
    for order in orders:
        _check_order(order, rows, invoices, passed, expected, books)
    known = {order.invoice.payment_hash for order in orders}
    assert passed.keys() <= known, "something was passed on that nobody paid"
    _count_attempts(net, known, books)
    books.forwards = sum(count for count, _ in passed.values())

    after = await balances(net)
    assert sum(after.values()) == sum(before.values()), "msat came or went"
    for node in net.nodes:
        assert after[node.node_id] == expected[node.node_id], f"the balance of {node.name} is another"
    for node in net.nodes:
        _check_nothing_hangs(node)
    return books


def _check_order(
    order: Order,
    rows: dict[bytes, tuple[pay.PaymentRow, ...]],
    invoices: dict[tuple[bytes, bytes], pay.InvoiceRow],
    passed: dict[bytes, tuple[int, int]],
    expected: Counter[bytes],
    books: Books,
) -> None:
    payment_hash = order.invoice.payment_hash
    own = [row for row in rows[order.payer.node_id] if row.payment_hash == payment_hash]
    invoice = invoices[order.payee.node_id, payment_hash]
    assert not [row for row in own if row.status == "pending"], f"{order.label} hangs"
    complete = [row for row in own if row.status == "complete"]
    assert len(complete) <= 1, f"{order.label} was paid twice"
    assert (invoice.status == "paid") == bool(complete), (
        f"{order.label}: {order.payer.name} says {[row.status for row in own]}, {order.payee.name} {invoice.status}"
    )
    if isinstance(order.answer, pay.PaymentRow):
        assert complete, f"{order.label} was answered complete"
    elif order.answer:
        assert not complete, f"{order.label} was refused ({order.answer}) and paid"
    count, fees = passed.get(payment_hash, (0, 0))
    if not complete:
        assert count == 0, f"{order.label} failed, and was settled on its way"
        books.failed += 1
        return
    (row,) = complete
    assert invoice.received_msat == order.amount_msat, f"{order.label} brought another amount"
    assert row.amount_sent_msat - order.amount_msat == fees, (
        f"{order.label}: sent {row.amount_sent_msat} for {order.amount_msat}, forwarders took {fees}"
    )
    expected[order.payer.node_id] -= row.amount_sent_msat
    expected[order.payee.node_id] += order.amount_msat
    books.paid += 1
    books.sent_msat += order.amount_msat
    books.fees_msat += fees


def _count_attempts(net: Net, hashes: set[bytes], books: Books) -> None:
    sql = (
        "SELECT payment_hash, count(*), sum(attempts.status = 'complete') FROM attempts "
        "JOIN payments ON payments.id = payment_id GROUP BY payment_hash"
    )
    for node in net.nodes:
        for payment_hash, count, arrived in node.writer.read(sql):
            if payment_hash in hashes:
                books.attempts += count
                books.in_parts += arrived > 1


async def _forwards(net: Net, expected: Counter[bytes]) -> dict[bytes, tuple[int, int]]:
    """By payment hash: how many HTLCs were passed on and settled, and what they earned altogether."""
    passed: dict[bytes, tuple[int, int]] = {}
    for node in net.nodes:
        earned = 0
        for row in await node.list_forwards():
            assert row.status in ("settled", "failed", "local_failed"), (node.name, row)
            if row.status != "settled":
                continue
            assert row.out_msat is not None
            assert row.in_msat - row.out_msat == row.fee_msat, (node.name, row)
            earned += row.fee_msat
            count, fees = passed.get(row.payment_hash, (0, 0))
            passed[row.payment_hash] = count + 1, fees + row.fee_msat
        told: forwards.Earnings = await node.ask(forwards.GetEarnings(0, 2**40, 2**40))
        assert sum(one.fee_msat for one in told.earned) == earned
        expected[node.node_id] += earned
    return passed


def _check_nothing_hangs(node: Node) -> None:
    """What services hold in memory for HTLCs has gone with them."""
    payments = node.payments
    assert not payments._payer._by_origin, node.name
    assert not payments._payer._live, node.name
    assert not payments._forwarder._by_origin, node.name
    assert not payments._receiver._sets, node.name
    assert not list(node.router.liquidity.running()), node.name
    for use in (
        *payments._forwarder.admission._general.values(),
        *payments._forwarder.admission._protected.values(),
    ):
        assert (use.slots, use.msat) == (0, 0), node.name
    assert node.writer.failed is None
