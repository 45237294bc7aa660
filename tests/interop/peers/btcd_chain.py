"""A btcd of its own on regtest: a second consensus engine and mempool under our chain service.

It has no wallet: the key that it mines to is the faucet's of our embedded chain, and payments are made here.
"""

import base64
import json
import ssl
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from node.chain.json_rpc import RpcError
from node.chain.regtest import faucet
from node.chain.regtest.index import Coin
from node.demo.stack import DemoFailed, free_port, wait_for
from protocol.amounts import Sat
from protocol.bitcoin.address import address_of
from protocol.bitcoin.network import REGTEST
from protocol.bitcoin.transaction import OutPoint, Transaction, TxOut, parse_txid, txid_hex
from tests.interop.peers import btcd_build
from tests.interop.peers.base import ForeignProgram

LOGIN = "lnp:a password"
FEE = 2_000
FIRST_BLOCKS = 130
MATURITY = 100


class BtcdChain:
    """The few calls that tests make of a chain. Only this object mines, so it knows the tip."""

    def __init__(self, folder: Path, *, first_blocks: int = FIRST_BLOCKS) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._port = free_port()
        self.url = f"https://127.0.0.1:{self._port}"
        self.certificate = folder / "rpc.cert"
        self.program = ForeignProgram("btcd", folder / "btcd.log")
        self.height = 0
        self.tip_hash = REGTEST.chain_hash
        self._coins: dict[OutPoint, tuple[int, int]] = {}
        """The faucet's: value, and the height from which each may be spent."""
        self.start()
        self.generate(first_blocks)

    def start(self) -> None:
        user, _, password = LOGIN.partition(":")
        self.program.start(
            (
                str(btcd_build.build()),
                "--regtest",
                "--nolisten",
                "--txindex",
                f"--datadir={self._folder / 'data'}",
                f"--logdir={self._folder / 'logs'}",
                f"--rpclisten=127.0.0.1:{self._port}",
                f"--rpccert={self.certificate}",
                f"--rpckey={self._folder / 'rpc.key'}",
                f"--rpcuser={user}",
                f"--rpcpass={password}",
                f"--miningaddr={address_of(faucet.SCRIPT_PUBKEY, REGTEST)}",
            )
        )

        def answers() -> bool:
            self.program.check()
            try:
                self.rpc("getblockcount")
            except (OSError, ssl.SSLError):
                return False
            return True

        wait_for("btcd to answer", answers)

    def blocks(self) -> list[str]:
        """All but the first, in hex: a btcd on regtest begins anew at each start, and can be given them again."""
        hashes = (self.rpc("getblockhash", height) for height in range(1, self.height + 1))
        return [self.rpc("getblock", block_hash, 0) for block_hash in hashes]

    def give(self, blocks: Sequence[str]) -> None:
        for block in blocks:
            self.rpc("submitblock", block)
        self._look()

    def close(self) -> None:
        self.program.stop()

    def rpc(self, method: str, *params: Any) -> Any:
        """Raises RpcError; JSON of unknown shape."""
        body = json.dumps({"jsonrpc": "1.0", "id": 1, "method": method, "params": params}).encode()
        login = base64.b64encode(LOGIN.encode()).decode()
        request = urllib.request.Request(self.url, body, {"Authorization": f"Basic {login}"})
        context = ssl.create_default_context(cafile=str(self.certificate))
        with urllib.request.urlopen(request, timeout=30, context=context) as answer:
            reply = json.load(answer)
        if reply["error"]:
            raise RpcError(reply["error"]["code"], reply["error"]["message"])
        return reply["result"]

    def generate(self, count: int) -> None:
        for block_hash in self.rpc("generate", count):
            coinbase = self.rpc("getblock", block_hash, 1)["tx"][0]
            output = Transaction.parse(bytes.fromhex(self.rpc("getrawtransaction", coinbase))).outputs[0]
            self._look()
            self._coins[OutPoint(parse_txid(coinbase), 0)] = (
                output.value,
                self.rpc("getblockheader", block_hash, True)["height"] + MATURITY,
            )
        self._look()

    def _look(self) -> None:
        self.tip_hash = parse_txid(self.rpc("getbestblockhash"))
        self.height = self.rpc("getblockcount")

    def invalidate_tip(self) -> None:
        self.rpc("invalidateblock", txid_hex(self.tip_hash))
        self._look()

    def submit(self, tx: Transaction) -> bytes:
        self.rpc("sendrawtransaction", tx.serialize().hex())
        return tx.txid

    def pay(self, outputs: Sequence[TxOut]) -> Transaction:
        """From one coin of the faucet that is old enough; change last."""
        wanted = sum(output.value for output in outputs) + FEE
        ready = [
            outpoint
            for outpoint, (value, height) in self._coins.items()
            if value > wanted and height <= self.height + 1
        ]
        if not ready:
            raise DemoFailed(f"btcd's faucet has no coin for {wanted} sat: mine more blocks first")
        outpoint = ready[0]
        value, _ = self._coins.pop(outpoint)
        change = TxOut(Sat(value - wanted), faucet.SCRIPT_PUBKEY)
        coin = Coin(TxOut(Sat(value), faucet.SCRIPT_PUBKEY), 0, True)
        tx = faucet.sign([(outpoint, coin)], [*outputs, change])
        self.submit(tx)
        self._coins[OutPoint(tx.txid, len(outputs))] = (change.value, self.height + 2)
        return tx

    def fund(self, script_pubkey: bytes, amount: Sat) -> OutPoint:
        return OutPoint(self.pay([TxOut(amount, script_pubkey)]).txid, 0)

    def transaction_ids(self) -> list[bytes]:
        """The mempool."""
        return [parse_txid(text) for text in self.rpc("getrawmempool")]
