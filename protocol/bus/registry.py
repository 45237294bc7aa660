"""The messages that may cross to another process: msgspec Structs by their tags (DESIGN, "A service")."""

from types import ModuleType
from typing import Any, TypeVar

import msgspec

from protocol.errors import MalformedMessage

T = TypeVar("T", bound=type)
PLAIN = ""
"""The tag of a reply that is None, a number, text or bytes."""

_types: dict[str, type] = {}
_tags: dict[type, str] = {}
_decoders: dict[str, msgspec.msgpack.Decoder[Any]] = {}
_encode = msgspec.msgpack.Encoder().encode
_plain: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder()


def register(kind: T) -> T:
    """Makes a message known to the links between processes; also usable as a class decorator."""
    config = getattr(kind, "__struct_config__", None)  # how msgspec publishes the tag of a Struct
    tag = config.tag if config is not None else None
    if not isinstance(tag, str) or not tag:
        raise TypeError(f"{kind.__name__} cannot cross a link: it must be a msgspec Struct with a text tag")
    if _types.get(tag, kind) is not kind:
        raise TypeError(f"{kind.__name__} and {_types[tag].__name__} have the same tag {tag!r}")
    _types[tag] = kind
    _tags[kind] = tag
    _decoders[tag] = msgspec.msgpack.Decoder(kind)
    return kind


def register_module(module: ModuleType) -> None:
    """Makes every tagged message that a module defines known to the links."""
    for kind in vars(module).values():
        config = getattr(kind, "__struct_config__", None)
        if isinstance(kind, type) and config is not None and isinstance(config.tag, str):
            register(kind)


def tag_of(kind: type) -> str | None:
    return _tags.get(kind)


def type_of(tag: str) -> type | None:
    return _types.get(tag)


def pack(message: object) -> tuple[str, bytes]:
    """Raises TypeError for what was never registered: a mistake of ours."""
    if message is None or isinstance(message, bool | int | str | bytes):
        return PLAIN, _encode(message)
    tag = _tags.get(type(message))
    if tag is None:
        raise TypeError(f"{type(message).__name__} cannot cross a link: register it first")
    return tag, _encode(message)


def unpack(tag: str, body: bytes) -> Any:
    """The message; its type follows from the tag. Raises MalformedMessage."""
    decoder = _plain if tag == PLAIN else _decoders.get(tag)
    if decoder is None:
        raise MalformedMessage(f"a message with the unknown tag {tag!r}")
    try:
        message = decoder.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise MalformedMessage(f"a {tag!r} that cannot be read: {error}") from error
    if tag == PLAIN and not (message is None or isinstance(message, bool | int | str | bytes)):
        raise MalformedMessage("a reply without a tag that is no plain value")
    return message
