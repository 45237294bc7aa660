"""A bitcoind as the watchtower asks it: JSON-RPC over HTTP, one question after the other."""

import base64
import http.client
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from node.tower.watcher import ChainAway

SECONDS = 60.0


class Bitcoind:
    """`cookie` is read for every question, since a restarted bitcoind has a new one."""

    def __init__(self, url: str, cookie: Path) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"{url} is no http://HOST:PORT")
        self._place = (parts.hostname, parts.port or 8332)
        self._cookie = cookie

    def height(self) -> int:
        return int(self._ask("getblockcount"))

    def block(self, height: int) -> list[bytes]:
        found = self._ask("getblock", self._ask("getblockhash", height), 1)
        return [bytes.fromhex(txid)[::-1] for txid in found["tx"]]

    def mempool(self) -> list[bytes]:
        return [bytes.fromhex(txid)[::-1] for txid in self._ask("getrawmempool")]

    def send(self, raw: bytes) -> str:
        try:
            self._ask("sendrawtransaction", raw.hex())
        except _Refused as refused:
            return str(refused) or "refused"
        return ""

    def _ask(self, method: str, *params: object) -> Any:
        try:
            login = base64.b64encode(self._cookie.read_bytes().strip()).decode()
            connection = http.client.HTTPConnection(*self._place, timeout=SECONDS)
            try:
                body = json.dumps({"id": 0, "method": method, "params": params})
                connection.request("POST", "/", body, {"Authorization": f"Basic {login}"})
                answer = json.loads(connection.getresponse().read())
            finally:
                connection.close()
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise ChainAway(f"{method}: {error}") from error
        if not isinstance(answer, dict) or "result" not in answer:
            raise ChainAway(f"{method}: no answer of a bitcoind")
        if answer.get("error") is not None:
            why = answer["error"]
            if method == "sendrawtransaction":
                raise _Refused(str(why.get("message", "")) if isinstance(why, dict) else str(why))
            raise ChainAway(f"{method}: {why}")
        return answer["result"]


class _Refused(Exception):
    pass
