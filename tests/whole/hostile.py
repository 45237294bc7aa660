"""A peer that does what it likes over real TCP (BOLT 8)."""

import asyncio
import os

from protocol import curve
from protocol.bolt8.ciphers import Decryptor, Encryptor
from protocol.bolt8.handshake import Initiator
from protocol.bolt8.static_key import mix_static
from protocol.bolt9 import OUR_INIT
from protocol.secret import Secret
from protocol.wire import Message, bolt1, decode, encode

INIT = encode(bolt1.Init(b"", OUR_INIT.to_bytes(), bolt1.InitTlvs()))


class Hostile:
    """`raw` writes bytes as they are; `say` encrypts messages, once `shake_hands` is done."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, node_id: bytes) -> None:
        self._reader = reader
        self._writer = writer
        self._key = os.urandom(32)
        self.handshake = Initiator(Secret(os.urandom(32)), node_id, curve.point_of(self._key))
        self._encryptor: Encryptor | None = None
        self._decryptor: Decryptor | None = None

    @classmethod
    async def dial(cls, address: str, node_id: str) -> "Hostile":
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        return cls(reader, writer, bytes.fromhex(node_id))

    def raw(self, data: bytes) -> None:
        self._writer.write(data)

    async def shake_hands(self, *, change_act_three: bool = False) -> None:
        self.raw(self.handshake.act_one())
        self.handshake.receive_act_two(await asyncio.wait_for(self._reader.readexactly(50), 10))
        request = self.handshake.static_request
        assert request is not None
        answer = mix_static(self._key, request.chaining_key.reveal(), request.remote_ephemeral)
        act_three, keys = self.handshake.finish(answer)
        if change_act_three:
            act_three = act_three[:20] + bytes([act_three[20] ^ 1]) + act_three[21:]
        self.raw(act_three)
        self._encryptor = Encryptor(keys.sending_key, keys.chaining_key)
        self._decryptor = Decryptor(keys.receiving_key, keys.chaining_key)

    def say(self, *frames: bytes) -> None:
        assert self._encryptor is not None
        for frame in frames:
            self.raw(self._encryptor.encrypt(frame))

    async def hears_until_closed(self) -> list[Message]:
        """What the node still says until it hangs up; it has ten seconds to do so."""
        heard: list[Message] = []
        async with asyncio.timeout(10):
            try:
                while data := await self._reader.read(1 << 16):
                    if self._decryptor is not None:
                        found = [decode(frame) for frame in self._decryptor.feed(data)]
                        heard += [message for message in found if isinstance(message, Message)]
            except ConnectionError:
                pass
        self._writer.close()
        return heard

    def leave(self) -> None:
        self._writer.close()
