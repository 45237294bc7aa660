"""Random deaths: at any moment, or right behind a commit before anybody is told of it; and returns some time later.
Between them lines fail, and what was on its way there is lost."""

import asyncio
from random import Random

from tests.simulation.net import Net
from tests.simulation.node import Node


class Reaper:
    """`deaths` within `seconds`, each for up to `most_away`, and as many failures of a line. What it did stands in
    `story`."""

    def __init__(
        self, net: Net, random: Random, *, deaths: int, seconds: float, most_away: float = 8.0
    ) -> None:
        self.net = net
        self.random = random
        self.deaths = deaths
        self.seconds = seconds
        self.most_away = most_away
        self.story: list[str] = []

    async def run(self) -> None:
        """Returns when all are back."""
        moments = sorted(self.random.uniform(0, self.seconds) for _ in range(self.deaths))
        cuts = (self._cut_line(self.random.uniform(0, self.seconds)) for _ in range(self.deaths))
        await asyncio.gather(*(self._one(moment) for moment in moments), *cuts)
        self.net.connect_all()

    async def _cut_line(self, moment: float) -> None:
        await asyncio.sleep(moment)
        edge = self.random.choice(self.net.shape.edges)
        one, two = self.net.nodes[edge.one], self.net.nodes[edge.two]
        self.story.append(f"{self.net.loop.now:.4f} the line {one.name}-{two.name} fails")
        self.net.cut_line(one, two)
        await asyncio.sleep(self.random.uniform(0, 2.0))
        self.net.connect_all()

    async def _one(self, moment: float) -> None:
        await asyncio.sleep(moment)
        up = [node for node in self.net.nodes if node.is_up and node.writer.on_commit is None]
        if not up:
            return
        node = self.random.choice(up)
        if self.random.random() < 0.5:
            self._kill(node, "at once")
        else:
            await self._kill_behind_commit(node, self.random.randint(1, 12))
        away = self.random.choice((0.0, 0.05, self.random.uniform(0.1, self.most_away)))
        await asyncio.sleep(away)
        await self.net.revive(node)
        self.story.append(f"{self.net.loop.now:.4f} {node.name} is back")

    async def _kill_behind_commit(self, node: Node, count: int) -> None:
        """Or after some seconds, when it does not write so much."""
        left = count
        died = asyncio.Event()

        def committed() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                self._kill(node, f"behind commit {count}")
                died.set()

        node.writer.on_commit = committed
        try:
            async with asyncio.timeout(5.0):
                await died.wait()
        except TimeoutError:
            self._kill(node, f"waiting for commit {count}")

    def _kill(self, node: Node, how: str) -> None:
        self.story.append(f"{self.net.loop.now:.4f} {node.name} dies {how}")
        node.writer.on_commit = None
        self.net.kill(node, keep_commit=self.random.random() < 0.5, lose_questions=self.random.random() < 0.5)
