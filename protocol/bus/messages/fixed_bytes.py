"""Byte strings of one length, as the types of message fields: msgspec refuses others while decoding."""

from typing import Annotated

from msgspec import Meta

Bytes16 = Annotated[bytes, Meta(min_length=16, max_length=16)]
Bytes32 = Annotated[bytes, Meta(min_length=32, max_length=32)]
Bytes33 = Annotated[bytes, Meta(min_length=33, max_length=33)]
Bytes64 = Annotated[bytes, Meta(min_length=64, max_length=64)]
