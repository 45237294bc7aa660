"""Starting services in order, and stopping them in the reverse one whatever happens."""

import asyncio

import pytest

from node import supervisor as supervising
from node.supervisor import Supervisor


class Part:
    def __init__(self, name: str, diary: list[str], *, breaks: str = "") -> None:
        self.name = name
        self._diary = diary
        self._breaks = breaks

    async def start(self) -> None:
        self._diary.append(f"+{self.name}")
        if self._breaks == "start":
            raise RuntimeError("no socket")

    async def stop(self) -> None:
        self._diary.append(f"-{self.name}")
        if self._breaks == "stop":
            raise RuntimeError("stuck")
        if self._breaks == "hang":
            await asyncio.Event().wait()


async def test_services_stop_in_the_reverse_order_of_their_start() -> None:
    diary: list[str] = []
    supervisor = Supervisor()
    for name in "abc":
        await supervisor.start(Part(name, diary))
    await supervisor.stop()
    assert diary == ["+a", "+b", "+c", "-c", "-b", "-a"]
    assert supervisor.failed is None


async def test_a_service_that_fails_to_start_ends_the_daemon_and_is_stopped_too() -> None:
    diary: list[str] = []
    supervisor = Supervisor()
    await supervisor.start(Part("a", diary))
    with pytest.raises(RuntimeError, match="no socket"):
        await supervisor.start(Part("b", diary, breaks="start"))
    assert supervisor.stopping.is_set()
    assert isinstance(supervisor.failed, RuntimeError)
    await supervisor.stop()
    assert diary == ["+a", "+b", "-b", "-a"]


@pytest.mark.parametrize("breaks", ["stop", "hang"])
async def test_a_service_that_does_not_stop_does_not_keep_the_others(
    breaks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervising, "STOP_SECONDS", 0.01)
    diary: list[str] = []
    supervisor = Supervisor()
    await supervisor.start(Part("a", diary))
    await supervisor.start(Part("b", diary, breaks=breaks))
    await supervisor.stop()
    assert diary == ["+a", "+b", "-b", "-a"]


async def test_the_first_failure_is_the_one_that_is_kept() -> None:
    supervisor = Supervisor()
    supervisor.request_stop()
    assert supervisor.failed is None
    first = RuntimeError("first")
    supervisor.fail(first)
    supervisor.fail(RuntimeError("second"))
    assert supervisor.failed is first
