"""From a declared struct to straight-line `read` and `write` (BOLT 1, "Lightning Message Format").

A payment carries half a dozen messages each way, so their codec is on the hottest path that we have. The
compiler runs at import: neighbours of fixed width become one `struct.Struct`, everything else one call. The
result is a function with no loop and no look-up by name.
"""

from collections.abc import Callable
from struct import Struct
from typing import Any, NamedTuple, NoReturn, get_type_hints

import msgspec

from protocol.errors import MalformedMessage
from protocol.secret import Secret
from protocol.wire.fields import Field, Fixed, check_fixed_bytes
from protocol.wire.tlv import TlvStream, read_stream, write_stream

Read = Callable[[bytes, int, int], tuple[Any, int]]
Write = Callable[[Any], bytes]


class Declared(NamedTuple):
    name: str
    field: Field | type[TlvStream]


class Codec(NamedTuple):
    read: Read
    write: Write


def declared_fields(cls: type[msgspec.Struct]) -> list[Declared]:
    """The fields of a message or record in wire order, each with its field type or its TLV namespace."""
    hints = get_type_hints(cls, include_extras=True)
    found = []
    for name in cls.__struct_fields__:
        hint = hints[name]
        if isinstance(hint, type) and issubclass(hint, TlvStream):
            found.append(Declared(name, hint))
            continue
        metadata: tuple[Any, ...] = getattr(hint, "__metadata__", ())
        if len(metadata) != 1:
            raise TypeError(f"{cls.__name__}.{name} needs Annotated[type, FIELD]")
        found.append(Declared(name, metadata[0]))
    return found


def _too_short(needed: int, left: int) -> NoReturn:
    raise MalformedMessage(f"{needed} bytes are needed, {left} are left")


def _bad_point(name: str, value: bytes) -> NoReturn:
    raise MalformedMessage(f"{name} {value.hex()} is not a compressed point")


def _bad_value(checks: tuple[tuple[str, Fixed], ...], message: Any) -> NoReturn:
    for name, field in checks:
        value = getattr(message, name)
        try:
            check_fixed_bytes(field, value.reveal() if field.form == "secret" else value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    raise AssertionError("one of the checked fields is wrong")


class _Source:
    """The two functions as they grow, and the objects that they refer to."""

    def __init__(self, cls: type[msgspec.Struct], type_number: int | None) -> None:
        self.names: dict[str, Any] = {"cls": cls, "Secret": Secret, "too_short": _too_short}
        self.names |= {"bad_point": _bad_point, "bad_value": _bad_value}
        self.read: list[str] = []
        self.parts: list[str] = []
        self.checks: list[tuple[str, Fixed]] = []
        self.run: list[tuple[str, Fixed]] = []
        self.type_number = type_number

    def close_run(self) -> None:
        """Turn the collected neighbours of fixed width into one unpack and one pack."""
        number = len(self.parts)
        layout = "".join(field.code for _, field in self.run)
        values = [f"v_{name}.reveal()" if f.form == "secret" else f"v_{name}" for name, f in self.run]
        if number == 0 and self.type_number is not None:
            self.names["pack_0"] = Struct(">H" + layout).pack
            self.parts.append(f"pack_0({', '.join([str(self.type_number), *values])})")
        elif self.run:
            self.names[f"pack_{number}"] = Struct(">" + layout).pack
            self.parts.append(f"pack_{number}({', '.join(values)})")
        if not self.run:
            return
        run = Struct(">" + layout)
        self.names[f"unpack_{number}"] = run.unpack_from
        self.read.append(f"if end - pos < {run.size}: too_short({run.size}, end - pos)")
        self.read.append(f"{''.join(f'v_{name}, ' for name, _ in self.run)}= unpack_{number}(data, pos)")
        self.read.append(f"pos += {run.size}")
        for name, field in self.run:
            if field.form == "point":
                self.read.append(f"if v_{name}[0] not in (2, 3): bad_point({name!r}, v_{name})")
            elif field.form == "secret":
                self.read.append(f"v_{name} = Secret(v_{name})")
            if field.form != "int":
                self.checks.append((name, field))
        self.run = []

    def add(self, name: str, field: Field) -> None:
        if isinstance(field, Fixed):
            self.run.append((name, field))
            return
        self.close_run()
        self.names[f"read_{name}"] = field.read
        self.names[f"write_{name}"] = field.write
        self.read.append(f"v_{name}, pos = read_{name}(data, pos, end)")
        self.parts.append(f"write_{name}(v_{name})")

    def add_tlvs(self, name: str, stream: type[TlvStream], absent: TlvStream) -> None:
        self.close_run()
        self.names["absent"] = absent
        self.names["read_tlvs"] = lambda data, pos, end: read_stream(stream, data, pos, end)
        self.names["write_tlvs"] = write_stream
        self.read.append(f"if pos == end: v_{name} = absent")
        self.read.append(f"else: v_{name}, pos = read_tlvs(data, pos, end)")
        self.parts.append(f"(b'' if v_{name} is absent else write_tlvs(v_{name}))")

    def write_lines(self, names: list[str]) -> list[str]:
        lines = [f"v_{name} = m.{name}" for name in names]
        if self.checks:
            self.names["checks"] = tuple(self.checks)
            wrong = []
            for name, field in self.checks:
                wrong.append(f"len(v_{name}) != {field.size}")
                if field.form == "point":
                    wrong.append(f"v_{name}[0] not in (2, 3)")
            lines.append(f"if {' or '.join(wrong)}: bad_value(checks, m)")
        whole = self.parts[0] if len(self.parts) == 1 else f"b''.join(({', '.join(self.parts)},))"
        lines.append(f"return {whole}")
        return lines


def compile_struct(cls: type[msgspec.Struct], type_number: int | None = None) -> Codec:
    """`read(data, pos, end)` and `write(value)`; with a type number, `write` puts it in front."""
    declared = declared_fields(cls)
    source = _Source(cls, type_number)
    for name, field in declared:
        if isinstance(field, type):
            source.add_tlvs(name, field, cls.__struct_defaults__[-1])
        else:
            source.add(name, field)
    source.close_run()
    names = [name for name, _ in declared]
    made = ", ".join(f"v_{name}" for name in names)
    text = "\n    ".join(["def read(data, pos, end):", *source.read, f"return cls({made}), pos"])
    text += "\n"
    text += "\n    ".join(["def write(m):", *source.write_lines(names)])
    # The one lawful exec: the text is made of our own declarations at import, never of bytes from outside.
    exec(compile(text, f"<wire codec of {cls.__name__}>", "exec"), source.names)  # noqa: S102
    return Codec(source.names["read"], source.names["write"])
