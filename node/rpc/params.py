"""Parameters of the Core Lightning dialect: by position (nulls allowed) or by name, in many spellings.

Clients send numbers as text and amounts with a unit, so each kind takes every form that `lightning-cli` takes.
The order of a method's parameters is what clients rely on; it never changes.
"""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from msgspec import Struct

from node.rpc.errors import RpcError, invalid_params
from protocol.amounts import MAX_MONEY, FeeratePerKw, Msat, Sat, parse_scid

Arguments = dict[str, Any]
"""One value for each declared parameter; its type is what the parameter's kind returns."""


class _Required:
    def __repr__(self) -> str:
        return "required"


REQUIRED: Final = _Required()


class Param(Struct, frozen=True):
    """`kind` makes a value of what JSON gave, or raises ValueError with "should be …"."""

    name: str
    kind: Callable[[Any], Any]
    default: Any = REQUIRED

    @property
    def usage(self) -> str:
        return self.name if self.default is REQUIRED else f"[{self.name}]"


def bind(method: str, params: Sequence[Param], given: object) -> Arguments:
    """The arguments of a call. Raises RpcError that names the parameter, or the nearest one."""
    if given is None:
        given = []
    if isinstance(given, list):
        if len(given) > len(params):
            raise invalid_params(
                f"{method} takes at most {len(params)} parameters, {len(given)} were given: {usage(method, params)}"
            )
        named: Mapping[str, Any] = dict(zip((param.name for param in params), given, strict=False))
    elif isinstance(given, dict):
        named = given
        _refuse_unknown(method, params, named)
    else:
        raise invalid_params("params is a list or an object")
    return {param.name: _value(method, params, param, named.get(param.name)) for param in params}


def usage(method: str, params: Sequence[Param]) -> str:
    return " ".join((method, *(param.usage for param in params)))


def _refuse_unknown(method: str, params: Sequence[Param], named: Mapping[str, Any]) -> None:
    names = [param.name for param in params]
    for name in named:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}?" if near else usage(method, params)
            raise invalid_params(f"unknown parameter {name!r}: {hint}")


def _value(method: str, params: Sequence[Param], param: Param, value: Any) -> Any:
    if value is None:
        if param.default is REQUIRED:
            raise invalid_params(f"missing required parameter: {param.name} (usage: {usage(method, params)})")
        return param.default
    try:
        return param.kind(value)
    except RpcError:
        raise
    except (ValueError, TypeError, OverflowError) as error:
        raise invalid_params(f"{param.name}: {error}, not {_short(value)}") from error


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


# Kinds.


def text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("should be text")
    return value


def label(value: Any) -> str:
    """A label may look like a number, and then command lines send it as one."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError("should be text or a number")
    return str(value)


def boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):
        return bool(value == "true")
    raise ValueError("should be true or false")


def integer(least: int, most: int = 2**63 - 1) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,19}", value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(
                f"should be a whole number from {least}" + (f" to {most}" if most < 2**63 - 1 else "")
            )
        return value

    return read


def number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("should be a number")
    return float(value)


def one_of(*choices: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"should be one of {', '.join(choices)}")
        return str(value)

    return read


def hex_bytes(size: int) -> Callable[[Any], bytes]:
    def read(value: Any) -> bytes:
        if not isinstance(value, str) or not re.fullmatch(rf"[0-9a-fA-F]{{{2 * size}}}", value):
            raise ValueError(f"should be {2 * size} hex digits")
        return bytes.fromhex(value)

    return read


def node_id(value: Any) -> bytes:
    if not isinstance(value, str) or not re.fullmatch(r"0[23][0-9a-fA-F]{64}", value):
        raise ValueError("should be a node id (66 hex digits that start with 02 or 03)")
    return bytes.fromhex(value)


def short_channel_id(value: Any) -> int:
    return parse_scid(text(value))


_UNITS = {"msat": Decimal(1), "sat": Decimal(1000), "btc": Decimal(100_000_000_000)}
_AMOUNT = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,11})?)(msat|sat|btc)?")


def _read_msat(value: Any, bare_unit: str) -> Msat:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError("should be an amount such as 1000, 1000msat, 1sat or 0.00000001btc")
    match = _AMOUNT.fullmatch(str(value))
    if match is None:
        raise ValueError("should be an amount such as 1000, 1000msat, 1sat or 0.00000001btc")
    try:
        amount = Decimal(match[1]) * _UNITS[match[2] or bare_unit]
    except InvalidOperation as error:
        raise ValueError("should be an amount") from error
    if amount != int(amount):
        raise ValueError("should be a whole number of msat")
    if amount > MAX_MONEY * 1000:
        raise ValueError("should be no more than all bitcoin there are")
    return Msat(int(amount))


def msat(value: Any) -> Msat:
    return _read_msat(value, "msat")


def msat_or_any(value: Any) -> Msat | None:
    return None if value == "any" else msat(value)


def sat(value: Any) -> Sat:
    amount = _read_msat(value, "sat")
    if amount % 1000:
        raise ValueError("should be a whole number of satoshis")
    return Sat(amount // 1000)


def sat_or_all(value: Any) -> Sat | None:
    return None if value == "all" else sat(value)


FEERATE_WORDS = {"urgent": 2, "normal": 6, "slow": 144, "opening": 6}
"""The words and the number of blocks within which each wants to be mined."""
_FEERATE = re.compile(r"([0-9]{1,9})(perkw|perkb)?")


def feerate(value: Any) -> FeeratePerKw | str:
    """A word, to be looked up, or sat per 1000 weight; a bare number is per 1000 vbytes, as lightningd has it."""
    if value in FEERATE_WORDS:
        return str(value)
    match = None if isinstance(value, bool) else _FEERATE.fullmatch(str(value))
    if match is None:
        raise ValueError("should be urgent, normal, slow, or a number such as 253perkw or 1000perkb")
    rate = int(match[1])
    # Rounded up: a rate of 1000 per kvB must not fall below the relay minimum by rounding.
    return FeeratePerKw(rate if match[2] == "perkw" else (rate + 3) // 4)


def not_offered(what: str) -> Callable[[Any], Any]:
    """A parameter that keeps its place in the order but may only be null or empty."""

    def read(value: Any) -> Any:
        if value in ("", [], {}, False):
            return None
        raise ValueError(f"should be left out: {what}")

    return read


def ignored(value: Any) -> Any:
    """A parameter that changes nothing here, such as a route preference; clients send it by habit."""
    return value
