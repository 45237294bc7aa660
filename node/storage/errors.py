"""What storage says when it cannot go on (STYLE, "Errors tell the reader what to do next")."""

from protocol.errors import ProtocolError


class StorageFailed(ProtocolError):
    """The durable database cannot be used or written: the node stops rather than go on unsaved."""

    def __init__(self, sentence: str, *, what_to_do: str) -> None:
        super().__init__(f"{sentence}. {what_to_do}")
        self.sentence = sentence
        self.what_to_do = what_to_do
