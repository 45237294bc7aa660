"""What the daemon says of the line to the signer."""

from msgspec import Struct


class SignerLink(Struct, frozen=True, tag="signer.link"):
    """Event: the signer answers, or it does not and why."""

    up: bool
    reason: str
