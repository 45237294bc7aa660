"""ZMQ notices as bitcoind publishes them: topic, body, and a little-endian counter of that topic.

`rawblock` and `hashblock` for each new tip, `rawtx` and `hashtx` for each transaction that enters the mempool
or enters or leaves a block. Hashes are in the order that people read.
"""

import struct
from typing import assert_never

import zmq

from node.chain.regtest.chain import BlockConnected, BlockDisconnected, ChainEvent, TransactionAccepted
from protocol.bitcoin.transaction import Transaction

HIGH_WATER_MARK = 10_000
TOPICS = ("hashblock", "rawblock", "hashtx", "rawtx")


class ZmqPublisher:
    """A listener for `RegtestChain.listeners`."""

    def __init__(self, port: int) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.PUB)
        self._socket.set_hwm(HIGH_WATER_MARK)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(f"tcp://127.0.0.1:{port or '*'}")
        self.endpoint = self._socket.get_string(zmq.LAST_ENDPOINT).rstrip("\0")
        self._counters: dict[bytes, int] = {}

    def __call__(self, event: ChainEvent) -> None:
        match event:
            case BlockConnected(block, _, is_tip):
                for tx in block.transactions:
                    self._transaction(tx)
                if is_tip:
                    self._send(b"hashblock", block.hash[::-1])
                    self._send(b"rawblock", block.raw)
            case BlockDisconnected(block):
                for tx in block.transactions:
                    self._transaction(tx)
            case TransactionAccepted(tx):
                self._transaction(tx)
            case _:
                assert_never(event)

    def _transaction(self, tx: Transaction) -> None:
        self._send(b"hashtx", tx.txid[::-1])
        self._send(b"rawtx", tx.serialize())

    def _send(self, topic: bytes, body: bytes) -> None:
        counter = self._counters.get(topic, 0)
        self._counters[topic] = (counter + 1) & 0xFFFFFFFF
        self._socket.send_multipart((topic, body, struct.pack("<I", counter)))

    def close(self) -> None:
        self._socket.close()
        self._context.term()
