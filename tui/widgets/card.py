"""A panel with a title that is painted again only when its text changed."""

from textual.content import Content
from textual.widgets import Static

Part = str | tuple[str, str]


class Card(Static):
    def __init__(self, title: str = "", *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__("", id=id, classes=classes, markup=False)
        self._shown: tuple[Part, ...] | None = None
        if title:
            self.border_title = title
            self.add_class("titled")

    def show(self, *parts: Part) -> None:
        """Text, or text and a style in the words of the theme, such as "$error"."""
        if parts != self._shown:
            self._shown = parts
            self.update(Content.assemble(*parts), layout=False)


def pair(name: str, value: str, style: str = "", width: int = 14) -> tuple[Part, ...]:
    """A line of a card: a name in the margin and its value."""
    return ((f"{name:<{width}} ", "$text-muted"), (value, style) if style else value, "\n")
