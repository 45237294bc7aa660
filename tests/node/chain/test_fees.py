"""One feerate out of several sources (BOLT 2, "Updating Fees"; checklist 22)."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.chain.backend import BackendAway, BackendUnusable
from node.chain.fees import OLD_SECONDS, TARGETS, FeeSource, OtherSources, combine, per_kw
from protocol.amounts import FEERATE_CEILING, FEERATE_FLOOR, FeeratePerKw
from protocol.bus.messages.chain import GetFeerate, GetMempoolMinimum
from tests.node.chain.test_electrum import Proxy, make_electrum
from tests.node.chain.test_service import Rig, until

RATES = st.integers(0, 2_000_000).map(FeeratePerKw)


def combined(*estimates: int, minimum: int = FEERATE_FLOOR) -> int | None:
    return combine([FeeratePerKw(rate) for rate in estimates], mempool_minimum=FeeratePerKw(minimum))


@given(st.lists(RATES, max_size=5), RATES)
def test_one_feerate_is_never_below_the_floor_nor_above_the_ceiling(
    estimates: list[FeeratePerKw], minimum: FeeratePerKw
) -> None:
    """checklist 22"""
    rate = combine(estimates, mempool_minimum=minimum)
    assert (rate is None) is not any(estimates)
    assert rate is None or FEERATE_FLOOR <= rate <= FEERATE_CEILING


@given(st.lists(st.integers(1_000, 2_000), min_size=2, max_size=4), RATES)
def test_one_source_that_lies_stays_within_what_the_others_say(honest: list[int], lie: FeeratePerKw) -> None:
    """checklist 22"""
    rate = combined(*honest, lie)
    assert rate is not None and min(honest) <= rate <= max(honest)


@pytest.mark.parametrize(
    ("estimates", "found"),
    [
        ((1000, 9000, 2000), 2000),
        ((1000, 2000), 2000),
        ((1000, 400_000), 2000),  # a lie beside a single honest source costs no more than twice
        ((1000, 300), 600),
        ((1000,), 1000),
        ((0, 1000), 1000),
        ((0,), None),
        ((), None),
    ],
)
def test_several_sources_are_combined(estimates: tuple[int, ...], found: int | None) -> None:
    """checklist 22"""
    assert combined(*estimates) == found


def test_the_minimum_of_the_mempool_is_a_floor() -> None:
    """checklist 22"""
    assert combined(300, minimum=900) == 900


@pytest.mark.parametrize("rate", [None, "1", -1, 0, 1, 50, True, [], float("nan")])
def test_what_is_no_rate_is_none(rate: Any) -> None:
    assert per_kw(rate) is None


def test_rates_of_servers_are_converted() -> None:
    assert per_kw(0.00002) == 500
    assert per_kw(1e-8) == FEERATE_FLOOR


class Source:
    """Says what the test says."""

    def __init__(self, name: str, rate: int) -> None:
        self.name = name
        self.rate: int | None = rate
        self.fails: Exception | None = None
        self.unfit: Exception | None = None
        self.asked = self.checked = 0
        self.closed = False

    async def check(self) -> None:
        self.checked += 1
        if self.unfit is not None:
            raise self.unfit

    async def feerate(self, target_blocks: int) -> FeeratePerKw | None:
        self.asked += 1
        if self.fails is not None:
            raise self.fails
        return None if self.rate is None else FeeratePerKw(self.rate - target_blocks)

    async def close(self) -> None:
        self.closed = True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def heard(sources: OtherSources) -> None:
    sources.ask()
    while not sources._task.done():  # type: ignore[union-attr]  # noqa: ASYNC110 - it runs to its end by itself
        await asyncio.sleep(0)


async def test_the_next_shorter_target_counts() -> None:
    one = Source("one", 1000)
    sources = OtherSources([one], clock=Clock())
    assert sources.estimates(6) == [], "nobody has answered yet"
    await heard(sources)
    found = [sources.estimates(target) for target in (1, 2, 6, 8, 1008)]
    assert found == [[998], [998], [994], [994], [856]]
    assert (one.checked, one.asked) == (1, len(TARGETS))


async def test_a_source_that_fails_is_left_out_and_looked_at_again() -> None:
    one, other = Source("one", 1000), Source("other", 2000)
    clock = Clock()
    sources = OtherSources([one, other], clock=clock)
    await heard(sources)
    one.fails = BackendAway("it is gone")
    other.unfit = BackendUnusable("never asked again while it answers")
    clock.now = OLD_SECONDS
    await heard(sources)
    assert sources.estimates(2) == [998, 1998], "what it said counts for a while"
    clock.now = OLD_SECONDS + 1
    assert sources.estimates(2) == [1998]
    one.fails = None
    await heard(sources)
    assert sources.estimates(2) == [998, 1998]
    assert (one.checked, other.checked) == (2, 1), "what comes back may be another one"


async def test_a_source_on_another_network_is_never_asked() -> None:
    one = Source("one", 1000)
    one.unfit = BackendUnusable("it is on signet")
    sources = OtherSources([one], clock=Clock())
    await heard(sources)
    await heard(sources)
    assert (one.checked, one.asked, sources.estimates(6)) == (2, 0, [])


async def test_a_source_that_never_answers_holds_up_nobody() -> None:
    one, other = Source("one", 1000), Source("other", 2000)

    async def never(_target: int) -> None:
        await asyncio.Event().wait()

    one.feerate = never  # type: ignore[method-assign,assignment]
    sources = OtherSources([one, other], clock=Clock())
    for _ in range(3):
        sources.ask()
        await asyncio.sleep(0)
    while not sources.estimates(6):  # noqa: ASYNC110 - it answers within a few turns of the loop
        await asyncio.sleep(0)
    assert sources.estimates(6) == [1994]
    assert other.asked == len(TARGETS), "asked once while the question runs"
    await sources.close()
    assert one.closed and other.closed


@pytest.fixture
async def proxy(regtest: Any) -> AsyncIterator[Proxy]:
    proxy = Proxy(regtest[1].electrum_endpoint)
    await proxy.start()
    yield proxy
    await proxy.stop()


async def test_a_second_server_is_asked_at_each_block(regtest: Any, proxy: Proxy, tmp_path: Path) -> None:
    """checklist 22: bitcoind says 500 sat/kw."""
    proxy.alter = lambda method, result: 0.00003 if "estimatefee" in method else result
    rig = Rig(*regtest, tmp_path / "node.db")
    others: list[FeeSource] = [make_electrum(proxy.endpoint)]
    await rig.start(fee_sources=others)
    await rig.caught_up()
    await until(lambda: rig.service._fees.estimates(6))
    assert await rig.ask(GetFeerate(6)) == 750
    proxy.alter = lambda method, result: 0.5 if "estimatefee" in method else result
    rig.chain.generate(1)
    await until(lambda: rig.service._fees.estimates(6) != [750])
    assert await rig.ask(GetFeerate(6)) == 1000, "a lie costs twice the fee at most"
    await proxy.stop()
    assert await rig.ask(GetFeerate(6)) == 1000
    await rig.stop()


async def test_the_minimum_of_the_mempool_is_told(regtest: Any, tmp_path: Path) -> None:
    """checklist 22"""
    rig = Rig(*regtest, tmp_path / "node.db")
    await rig.start()
    await rig.caught_up()
    assert await rig.ask(GetMempoolMinimum()) == FEERATE_FLOOR
    await rig.backend._rpc.call("setminfeerate", 8_000)
    assert await rig.ask(GetMempoolMinimum()) == 2_000
    assert await rig.ask(GetFeerate(6)) == 2_000
    await rig.stop()
