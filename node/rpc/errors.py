"""The error numbers of the Core Lightning dialect, as its manual pages give them: clients act on them."""

from enum import IntEnum
from typing import Any


class Code(IntEnum):
    PARSE_ERROR = -32700
    INVALID_REQUEST = -32600
    METHOD_NOT_FOUND = -32601
    INVALID_PARAMS = -32602
    INTERNAL = -32603
    GENERIC = -1
    NOT_CONFIRMED = -3
    PAY_IN_PROGRESS = 200
    FUND_CANNOT_AFFORD = 301
    CONNECT_NO_ADDRESS = 400
    CONNECT_FAILED = 401
    CONNECT_DISCONNECTED = 402
    INVOICE_EXPIRED_DURING_WAIT = 903
    KEY_NOT_KNOWN = 1301


class RpcError(Exception):
    """What the caller is told instead of a result."""

    def __init__(self, code: int, message: str, data: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = int(code)
        self.message = message
        self.data = data

    def to_json(self) -> dict[str, Any]:
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.data is not None:
            error["data"] = self.data
        return error


def invalid_params(message: str) -> RpcError:
    return RpcError(Code.INVALID_PARAMS, message)


OUTCOME_UNKNOWN = {"outcome": "unknown"}
"""The `data` of an error after which something may still happen."""
