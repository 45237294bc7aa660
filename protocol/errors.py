"""The errors that cross module borders: what went wrong, whose fault it is, what to do next.

Bytes from outside raise `MalformedMessage` or nothing. A peer that breaks a rule raises `PeerViolation`. A
command of ours that we will not carry out raises `CommandRefused`. Anything else is a bug of ours.
"""


class ProtocolError(Exception):
    """The root of every error that we raise on purpose."""


class MalformedMessage(ProtocolError):
    """Bytes from outside that are not what they claim to be."""


class PeerViolation(ProtocolError):
    """The peer broke a rule; `clause` names the section of the specification."""

    def __init__(self, sentence: str, *, clause: str) -> None:
        super().__init__(f"{sentence} ({clause})")
        self.sentence = sentence
        self.clause = clause


class CommandRefused(ProtocolError):
    """We will not do what was asked; `what_to_do` is a sentence that a person can act on."""

    def __init__(self, sentence: str, *, what_to_do: str, code: int = -1) -> None:
        super().__init__(f"{sentence}. {what_to_do}")
        self.sentence = sentence
        self.what_to_do = what_to_do
        self.code = code
