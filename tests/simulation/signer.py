"""The line from a simulated node to its real signer: questions of a turn go together, answers take virtual time."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from node.signer_link.client import SignerState
from protocol.bus.messages import signer as contract
from protocol.secret import Secret
from signer import keys
from signer.initialise import create
from signer.service import SignerService

PASSPHRASE = Secret(b"a passphrase of the simulation")
DEADLINE_MS = 60_000
_Question = tuple[contract.Request, Callable[[Any], None], int, int]
"""With the life of the node that asks, and the session of that life."""


def new_signer(folder: Path, entropy: bytes) -> SignerService:
    """With the least cost of scrypt; its database is nowhere but in memory."""
    create(folder, "regtest", PASSPHRASE, mnemonic=keys.new_mnemonic(entropy), scrypt_cost=2)
    return SignerService(folder, PASSPHRASE, in_memory=True)


class SignerLine:
    """What services need of `node.signer_link.client.SignerClient`. The signer outlives its node.

    A question that has left is judged even if the node dies meanwhile; the answer then reaches nobody.
    """

    def __init__(self, service: SignerService, *, seconds: float = 0.0) -> None:
        self.service = service
        self.state = SignerState.UP
        self.reason = ""
        self.requests = 0
        self.refusals: list[tuple[str, str]] = []
        """(tag, words) of what the signer refused. Among honest nodes that live on it is a bug of the one or the
        other."""
        self._seconds = seconds
        self._session = 0
        self._life = 0
        self._is_cut = False
        self._waiting: list[_Question] = []
        self.welcome = self.hello()

    def hello(self) -> contract.Welcome:
        """A new life of the node begins."""
        self._life += 1
        self._is_cut = False
        welcome = self.ask(contract.Hello("regtest"))
        assert isinstance(welcome, contract.Welcome), welcome
        self._session = welcome.session
        return welcome

    def cut(self, *, lose_questions: bool = False) -> None:
        """The node is gone. What it asked and was not judged yet may be lost, or not."""
        self._is_cut = True
        if lose_questions:
            self._waiting.clear()

    def ask(self, request: contract.Request) -> contract.Reply:
        """At once: for what happens before time begins."""
        call = contract.SignerCall(0, self._session, DEADLINE_MS, request)
        (reply,) = self.service.handle_batch([call])
        return reply.reply

    async def wait_up(self) -> contract.Welcome:
        return self.welcome

    def call_nowait(
        self, request: contract.Request, callback: Callable[[Any], None], *, deadline: float = 30
    ) -> int:
        if self._is_cut:
            return 0
        self.requests += 1
        self._waiting.append((request, callback, self._life, self._session))
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_later(self._seconds / 2, self._judge)
        return self.requests

    async def call(self, request: contract.Request, *, deadline: float = 30) -> contract.Reply:
        answer: asyncio.Future[contract.Reply] = asyncio.get_running_loop().create_future()

        def answered(reply: contract.Reply) -> None:
            if not answer.done():
                answer.set_result(reply)

        self.call_nowait(request, answered, deadline=deadline)
        return await answer

    def _judge(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return  # lost on their way
        calls = [
            contract.SignerCall(number, session, DEADLINE_MS, request)
            for number, (request, _, _, session) in enumerate(waiting)
        ]
        replies = [reply.reply for reply in self.service.handle_batch(calls)]
        asyncio.get_running_loop().call_later(self._seconds / 2, self._give, waiting, replies)

    def _give(self, waiting: list[_Question], replies: list[contract.Reply]) -> None:
        for (request, callback, life, _), reply in zip(waiting, replies, strict=True):
            if life == self._life and not self._is_cut:
                self._note(request, reply)
                callback(reply)

    def _note(self, request: contract.Request, reply: contract.Reply) -> None:
        stopped = reply.stopped if isinstance(reply, contract.ChannelAnswer) else reply
        if isinstance(stopped, contract.Refused | contract.PeerFault):
            self.refusals.append((stopped.tag, f"{type(request).__name__}: {stopped}"))
