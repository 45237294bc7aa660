"""Real kills: daemons and signers die by -9 at random moments while payments run both ways, and nothing is lost.

`LNP_SEED` replays the choices of a run (who dies, when, how many payments); the seed of each run is printed.
"""

import asyncio
import os
import random
import time

from node.demo.stack import DemoFailed, Node, Program, RpcRefused, Stack
from tests.whole.support import Answer, LostLine, ask, folder, normal, open_channel, settled, until

KILLS = 24
CAPACITY_SAT = 2_000_000
FINAL = ("complete", "failed")
VICTIMS = ("alice daemon", "bob daemon", "alice signer", "bob signer")


class Payment:
    """One invoice and what its payer said of it."""

    def __init__(self, payer: Node, payee: Node, invoice: Answer, label: str, amount_msat: int) -> None:
        self.payer = payer
        self.payee = payee
        self.bolt11: str = invoice["bolt11"]
        self.payment_hash: str = invoice["payment_hash"]
        self.label = label
        self.amount_msat = amount_msat
        self.said: str = ""

    async def pay(self) -> None:
        try:
            await ask(self.payer, "xpay", self.bolt11)
            self.said = "complete"
        except RpcRefused as refusal:
            self.said = f"refused: {refusal}"
        except LostLine as lost:
            self.said = f"unknown: {lost}"


class Storm:
    """Bursts of payments, and a kill in the middle of each."""

    def __init__(self, stack: Stack, seed: int, victims: tuple[str, ...] = VICTIMS) -> None:
        self.stack = stack
        self.random = random.Random(seed)
        self.victims = victims
        self.payments: list[Payment] = []
        self.kills: list[str] = []
        self.back: list[float] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def nodes(self) -> tuple[Node, Node]:
        return self.stack.nodes["alice"], self.stack.nodes["bob"]

    async def burst(self, size: int) -> None:
        """Invoices of both nodes, then all of them paid at once."""
        fresh = await asyncio.gather(*(self._invoice() for _ in range(size)))
        self.payments += fresh
        for payment in fresh:
            task = asyncio.create_task(payment.pay())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _invoice(self) -> Payment:
        payer, payee = self.random.sample(self.nodes, 2)
        amount = self.random.choice((1_000, 999_999, self.random.randrange(1_000, 3_000_000)))
        label = f"p{self.random.getrandbits(64):x}"
        end = time.monotonic() + 30
        while True:
            try:
                invoice = await ask(payee, "invoice", amount, label, "storm")
                return Payment(payer, payee, invoice, label, amount)
            except RpcRefused as refusal:  # its signer was killed, and the node finds it again by itself
                if "signer does not answer" not in str(refusal) or time.monotonic() > end:
                    raise
            await asyncio.sleep(0.02)

    async def round(self) -> None:
        await self.burst(self.random.randrange(4, 25))
        await asyncio.sleep(self.random.random() * 0.15)  # the moment is the point of this test
        victims = self.random.sample(self.victims, 2 if self.random.random() < 0.2 else 1)
        for victim in victims:
            self._program(victim).kill()
        self.kills += victims
        await asyncio.sleep(self.random.random() * 0.1)
        began = time.monotonic()
        for victim in victims:
            self._restart(victim)
        await until(f"both nodes after kill {len(self.kills)} ({victims})", lambda: self._usable(victims))
        self.back.append(time.monotonic() - began)

    def _usable(self, victims: list[str]) -> bool:
        for program in map(self._program, victims):
            if not program.is_running:
                raise DemoFailed(f"{program.name} ended after its restart:\n{program.tail()}")
        return normal(*self.nodes)

    def _program(self, victim: str) -> Program:
        name, part = victim.split()
        node = self.stack.nodes[name]
        return node.daemon if part == "daemon" else node.signer

    def _restart(self, victim: str) -> None:
        name, part = victim.split()
        node = self.stack.nodes[name]
        if part == "daemon":
            node.start_daemon()
        else:
            node.start_signer()

    async def end(self) -> None:
        await asyncio.gather(*self._tasks)


def outcomes(node: Node) -> dict[str, str]:
    return {pay["payment_hash"]: pay["status"] for pay in node.call("listpays")["pays"]}


def all_final(payments: list[Payment]) -> bool:
    states = {node: outcomes(node) for node in {payment.payer for payment in payments}}
    return all(states[p.payer].get(p.payment_hash, "failed") in FINAL for p in payments)


def balances(*nodes: Node) -> list[int]:
    return [sum(channel["to_us_msat"] for channel in node.channels()) for node in nodes]


def stuck(storm: Storm) -> str:
    """What a person would look at first."""
    lines = []
    for node in storm.nodes:
        for channel in (node.try_call("listpeerchannels") or {"channels": []})["channels"]:
            shown = {key: channel.get(key) for key in ("state", "peer_connected", "status", "htlcs")}
            lines.append(f"{node.name}: {shown}")
        lines.append(f"{node.name} log:\n{node.daemon.tail(12)}")
    return "\n".join(lines)


async def weather(victims: tuple[str, ...], kills: int, payments: int) -> None:
    """The whole run: open, storm, quiet, and what must hold then."""
    seed = int(os.environ.get("LNP_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"LNP_SEED={seed}")
    with folder() as place, Stack(place) as stack:
        await asyncio.to_thread(stack.start)
        await asyncio.to_thread(open_channel, stack, sat=CAPACITY_SAT, push_msat=CAPACITY_SAT * 500)
        storm = Storm(stack, seed, victims)
        alice, bob = storm.nodes
        before = balances(alice, bob)
        began = time.monotonic()
        try:
            while len(storm.kills) < kills:
                await storm.round()
            if len(storm.payments) < payments:
                await storm.burst(payments - len(storm.payments))
            await storm.end()
            await until("quiet channels", lambda: settled(alice, bob), seconds=30)
            await until("final states", lambda: all_final(storm.payments), seconds=15)
        except DemoFailed as error:
            raise AssertionError(f"LNP_SEED={seed}: {error}\n{stuck(storm)}") from error
        print(f"{len(storm.kills)} kills, {len(storm.payments)} payments in {time.monotonic() - began:.1f} s")
        print(
            f"back after a kill: mean {sum(storm.back) / len(storm.back):.2f}, most {max(storm.back):.2f} s"
        )
        check(storm, before, seed)


async def test_payments_survive_real_kills_of_daemons_and_signers() -> None:
    await weather(VICTIMS, kills=KILLS, payments=200)


async def test_after_its_signer_came_back_a_node_goes_on_by_itself() -> None:
    """No daemon is restarted here: whatever the dead signer took with it must be asked again."""
    await weather(("alice signer", "bob signer"), kills=6, payments=60)


def check(storm: Storm, before: list[int], seed: int) -> None:
    replay = f"LNP_SEED={seed}"
    alice, bob = storm.nodes
    moved = {alice.name: 0, bob.name: 0}
    states = {node.name: outcomes(node) for node in storm.nodes}
    invoices = {
        node.name: {row["label"]: row for row in node.call("listinvoices")["invoices"]}
        for node in storm.nodes
    }
    complete = 0
    for payment in storm.payments:
        # A payment that the payer never heard of was never sent: its daemon died before it read the request.
        state = states[payment.payer.name].get(payment.payment_hash)
        invoice = invoices[payment.payee.name][payment.label]
        where = f"{replay} {payment.label}: payer {state}, payee {invoice['status']}, said {payment.said}"
        assert state in (*FINAL, None), where
        assert (invoice["status"] == "paid") == (state == "complete"), where
        assert payment.said != "complete" or state == "complete", where
        if state == "complete":
            complete += 1
            assert invoice["amount_received_msat"] == payment.amount_msat, where
            moved[payment.payer.name] -= payment.amount_msat
            moved[payment.payee.name] += payment.amount_msat
    print(f"{complete} complete")
    assert complete >= len(storm.payments) // 4, f"{replay}: too few payments went through to test anything"
    expected = [was + moved[node.name] for was, node in zip(before, storm.nodes, strict=True)]
    assert balances(*storm.nodes) == expected, replay
    assert sum(expected) == CAPACITY_SAT * 1000, replay
    for node in storm.nodes:
        (channel,) = node.channels()
        assert channel["state"] == "CHANNELD_NORMAL", replay
        log = node.daemon.log.read_text(errors="replace")
        for word in ("event=bug", "channel_in_recovery", " bug "):
            assert word not in log, f"{replay}: {word} in {node.daemon.log}"
