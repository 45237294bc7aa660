"""A program that has paired, and then speaks the link's own frames: whatever it likes, to whomever it likes."""

import asyncio
from types import TracebackType

import msgspec
import zmq

from protocol.bus.zmq_link import Answer, Ask, Event, Failure, Here, Refusal, Tell
from protocol.bus.zmq_socket import LoopSocket
from protocol.pairing import Pairing

Frame = Here | Ask | Tell | Event | Answer | Refusal | Failure


class Attacker:
    def __init__(self, pairing: Pairing) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.CURVE_SERVERKEY, pairing.server_key.encode())
        socket.setsockopt(zmq.CURVE_PUBLICKEY, pairing.client_public.encode())
        socket.setsockopt(zmq.CURVE_SECRETKEY, pairing.client_secret.encode())
        socket.connect(pairing.endpoint)
        self.heard: list[Frame] = []
        self._news = asyncio.Event()
        self._link = LoopSocket(socket, self._on_message)

    def __enter__(self) -> "Attacker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._link.close()
        self._context.term()

    async def send(self, *frames: Frame | bytes) -> None:
        for frame in frames:
            raw = frame if isinstance(frame, bytes) else msgspec.msgpack.encode(frame)
            async with asyncio.timeout(10):
                while not self._link.send([raw]):  # noqa: ASYNC110 - ZeroMQ's own thread connects
                    await asyncio.sleep(0.01)

    async def answer_to(self, number: int) -> Answer | Refusal | Failure:
        async with asyncio.timeout(10):
            while True:
                for frame in self.heard:
                    if isinstance(frame, Answer | Refusal | Failure) and frame.id == number:
                        return frame
                self._news.clear()
                await self._news.wait()

    async def hears_nothing_within(self, seconds: float) -> bool:
        self._news.clear()
        try:
            await asyncio.wait_for(self._news.wait(), seconds)
        except TimeoutError:
            return True
        return False

    def _on_message(self, frames: list[bytes]) -> None:
        if frames[0]:
            self.heard.append(msgspec.msgpack.decode(frames[0], type=Frame))
            self._news.set()
