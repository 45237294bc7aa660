"""The chain with its doors: JSON-RPC, ZMQ and Electrum, and the file `regtest.json` that tells where they are."""

import asyncio
import json
import os
from dataclasses import dataclass
from pathlib import Path

from node.chain.regtest.chain import RegtestChain
from node.chain.regtest.electrum import ElectrumServer
from node.chain.regtest.methods import Methods
from node.chain.regtest.notify import ZmqPublisher
from node.chain.regtest.rpc import RpcServer


@dataclass(frozen=True, slots=True)
class Doors:
    """Where a running chain answers."""

    rpc_url: str
    cookie_path: Path
    zmq_endpoint: str
    pid: int
    electrum_endpoint: str = ""

    def save(self, path: Path) -> None:
        part = path.with_suffix(".part")
        document = {
            "rpc_url": self.rpc_url,
            "cookie_path": str(self.cookie_path),
            "zmq_endpoint": self.zmq_endpoint,
            "electrum_endpoint": self.electrum_endpoint,
            "pid": self.pid,
        }
        part.write_text(json.dumps(document, indent=1))
        part.replace(path)


class RegtestService:
    """Opens the doors of a chain; the caller owns the chain and closes it afterwards."""

    def __init__(self, chain: RegtestChain, datadir: Path) -> None:
        self._chain = chain
        self._datadir = datadir
        self._stopping = asyncio.Event()
        self._rpc: RpcServer | None = None
        self._zmq: ZmqPublisher | None = None
        self._electrum: ElectrumServer | None = None

    async def start(
        self,
        *,
        rpcport: int = 0,
        zmqport: int = 0,
        electrumport: int = 0,
        user: str | None = None,
        password: str | None = None,
    ) -> Doors:
        cookie = self._datadir.absolute() / ".cookie"
        self._zmq = ZmqPublisher(zmqport)
        methods = Methods(self._chain, stop=self.stop, zmq_endpoint=self._zmq.endpoint)
        self._rpc = RpcServer(methods.call, cookie, user=user, password=password)
        self._chain.listeners.append(self._zmq)
        port = await self._rpc.start(rpcport)
        self._electrum = ElectrumServer(methods)
        electrum = f"127.0.0.1:{await self._electrum.start(electrumport)}"
        doors = Doors(f"http://127.0.0.1:{port}", cookie, self._zmq.endpoint, os.getpid(), electrum)
        doors.save(self._datadir / "regtest.json")
        return doors

    def stop(self) -> None:
        self._stopping.set()

    async def wait(self) -> None:
        await self._stopping.wait()

    async def close(self) -> None:
        (self._datadir / "regtest.json").unlink(missing_ok=True)
        if self._rpc is not None:
            await self._rpc.close()
        if self._electrum is not None:
            await self._electrum.close()
        if self._zmq is not None:
            self._chain.listeners.remove(self._zmq)
            self._zmq.close()
