"""However a stolen node, the peer before and the peer after play together, declared forwards cost us nothing."""

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.bolt3.commitment import CommitmentHtlc, Side
from protocol.bus.messages import signer as contract
from signer.channel_state import ChannelState, HtlcKey, key_of
from signer.forwards import Onward
from signer.policy.balance import claim
from signer.policy.forwards import PAID
from tests.signer.support import HASH, PREIMAGE, World, htlc, make_service

OURS = 600_000_000
UNIT = 1_000_000
RECEIVED = (htlc(False, 0, 10 * UNIT, HASH, 540), htlc(False, 1, 12 * UNIT, HASH, 540))
OFFERED = (
    htlc(True, 0, 9 * UNIT, HASH, 500),
    htlc(True, 1, 12 * UNIT, HASH, 500),
    htlc(True, 2, 10 * UNIT, HASH, 500),
)
BOTH = (Side.COUNTERPARTY, Side.HOLDER)
"""Offers stand in the commitment of the peer first."""
MOVE = st.tuples(
    st.sampled_from(("move", "move", "move", "move", "learn", "release")),
    st.sampled_from("ac"),
    st.sampled_from(((Side.HOLDER,), (Side.COUNTERPARTY,), BOTH, BOTH)),
    st.integers(0, 2),
    st.booleans(),
    st.integers(0, 1),
    st.sampled_from((True, True, True, False)),
)
Move = tuple[str, str, tuple[Side, ...], int, bool, int, bool]


class Table:
    def __init__(self, folder: str) -> None:
        self.service = make_service(Path(folder) / "signer")
        self.a = World(self.service)
        self.c = World(self.service, beside=self.a, place=1)
        self.granted = 0

    def play(self, move: Move) -> None:
        kind, name, sides, index, fulfil, source, revoke = move
        if kind == "learn":
            self._ask(self.c, contract.LearnPreimage(PREIMAGE))
        elif kind == "release":
            self._ask(self.a, contract.ReleasePreimage(HASH, (index,), PREIMAGE))
        else:
            for side in sides:
                self._toggle(name, side, index, fulfil, source)
                if revoke:
                    self._revoke(name, side)

    def _ask(self, world: World, operation: contract.Operation) -> None:
        self.granted += len(world.answer(operation).results)

    def _revoke(self, name: str, side: Side) -> None:
        world = self.a if name == "a" else self.c
        if side is Side.HOLDER:
            self._ask(world, contract.RevokeHolder(world.state.holder_revoked))
        else:
            self._ask(world, world.revocation(world.state.counterparty_revoked))

    def _declared(self) -> dict[HtlcKey, Onward]:
        return self.service._forwards._by_out.get(self.c.drawn.channel, {})

    def _toggle(self, name: str, side: Side, index: int, fulfil: bool, source: int) -> None:
        """The next commitment of this side has one HTLC more, or one less: fulfilled or failed, as the thief likes.
        Each offer that no commitment before had is declared: else it would be a payment of our own."""
        world, pool = (self.a, RECEIVED) if name == "a" else (self.c, OFFERED)
        item = pool[index % len(pool)]
        versions = world.state.side(side)
        newest = max(versions)
        before = versions[newest][-1].content
        standing = {turned.id for turned in before.htlcs}
        to_holder: int = before.to_side(side, Side.HOLDER)
        if item.id in standing:
            gains = fulfil is (name == "a")  # a received one that is fulfilled, an offered one that is failed
            to_holder += item.amount_msat if gains else 0
            standing.remove(item.id)
        else:
            if name == "c" and side is Side.HOLDER and key_of(item) not in self._declared():
                return
            to_holder -= item.amount_msat if name == "c" else 0
            standing.add(item.id)
        htlcs = tuple(one for one in pool if one.id in standing)
        if side is Side.HOLDER:
            self._ask(world, world.validate(newest + 1, to_holder, htlcs))
            return
        forwards = []
        if name == "c" and item.id in standing:
            forwards.append(contract.Forward(item.id, self.a.channel_id, source))
        self._ask(world, world.sign(newest + 1, to_holder, htlcs, forwards=forwards))

    def worst(self) -> int:
        """What the two channels are worth to us if each ends with the version that is worst for us, and every
        preimage that was shown is used against us."""
        owed: set[HtlcKey] = set(self.a.state.released)
        for incoming, onwards in self.service._forwards.passed_on(self.a.drawn.channel).items():
            if any(onward.outcome == PAID for onward in onwards):
                owed.add(incoming)
        before = min(claim(side, v.content, frozenset(owed)) for side, v in self.a.state.all_versions())
        return before + min(
            _after(side, self.c.state, v.content.htlcs, v) for side, v in self.c.state.all_versions()
        )


def _after(side: Side, state: ChannelState, htlcs: tuple[CommitmentHtlc, ...], version: object) -> int:
    content = version.content  # type: ignore[attr-defined]
    bought = sum(
        item.amount_msat
        for item in htlcs
        if item.offered == (side is Side.HOLDER) and item.payment_hash in state.learned
    )
    return claim(side, content, frozenset()) - bought


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(MOVE, max_size=24))
def test_declared_forwards_cost_us_nothing(moves: list[Move]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        table = Table(folder)
        # The game begins with both received HTLCs in place, so that little is wasted on the way there.
        table.a.both_move(1, OURS, RECEIVED)
        for move in moves:
            table.play(move)
            assert table.worst() >= 2 * OURS
        table.service.close()


def test_the_game_can_be_played_to_its_end() -> None:
    """The moves of the property reach a paid forward, so that its silence means something."""

    with tempfile.TemporaryDirectory() as folder:
        table = Table(folder)
        table.a.both_move(1, OURS, RECEIVED)
        for move in (
            ("move", "c", BOTH, 0, False, 0, True),
            ("learn", "c", BOTH, 0, False, 0, True),
            ("move", "c", BOTH, 0, True, 0, True),
            ("move", "a", BOTH, 0, True, 0, True),
        ):
            table.play(move)
        assert table.granted == 13
        assert table.worst() == 2 * OURS + UNIT
        table.service.close()
