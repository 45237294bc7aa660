"""What RPC methods take and refuse: error codes and readings of arguments, as in Bitcoin Core."""

from protocol.bitcoin.address import script_pubkey_of
from protocol.bitcoin.network import REGTEST
from protocol.bitcoin.transaction import Transaction, parse_txid
from protocol.errors import MalformedMessage

MISC_ERROR = -1
TYPE_ERROR = -3
NOT_FOUND = -5
INVALID_PARAMETER = -8
DESERIALIZATION_ERROR = -22
VERIFY_ERROR = -25
VERIFY_REJECTED = -26
ALREADY_IN_CHAIN = -27
METHOD_NOT_FOUND = -32601


class RpcError(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def txid_of(text: object, name: str = "txid") -> bytes:
    if not isinstance(text, str):
        raise RpcError(TYPE_ERROR, f"{name} must be a string of 64 hex digits")
    try:
        return parse_txid(text)
    except ValueError:
        raise RpcError(INVALID_PARAMETER, f"{name} must be hexadecimal string of length 64") from None


def transaction(text: object) -> Transaction:
    try:
        if isinstance(text, str):
            return Transaction.parse(bytes.fromhex(text))
    except (ValueError, MalformedMessage):
        pass
    raise RpcError(DESERIALIZATION_ERROR, "TX decode failed. Make sure the tx has at least one input.")


def integer(value: object, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise RpcError(TYPE_ERROR, f"{name} must be an integer")
    return value


def script_pubkey(address: object) -> bytes:
    try:
        return script_pubkey_of(str(address), REGTEST)
    except MalformedMessage as error:
        raise RpcError(NOT_FOUND, f"Error: Invalid address ({error})") from None
