"""A QR code in half blocks, black on white whatever the theme; only where the terminal has the room."""

import segno
from textual.content import Content
from textual.widgets import Static

BORDER = 2
_HALVES = {(False, False): " ", (True, False): "▀", (False, True): "▄", (True, True): "█"}


def half_blocks(text: str) -> list[str]:
    """Upper case makes the smaller code; BOLT 11 allows it."""
    code = segno.make(text.upper(), error="l", micro=False, boost_error=False)
    rows = [[bool(cell) for cell in row] for row in code.matrix_iter(border=BORDER)]
    if len(rows) % 2:
        rows.append([False] * len(rows[0]))
    return [
        "".join(_HALVES[top, bottom] for top, bottom in zip(rows[n], rows[n + 1], strict=True))
        for n in range(0, len(rows), 2)
    ]


class Qr(Static):
    def __init__(self, *, id: str | None = None) -> None:
        super().__init__("", id=id, markup=False)
        self._text = ""
        self._lines: list[str] = []
        self._shown: tuple[str, bool] | None = None

    def show(self, text: str) -> None:
        if text != self._text:
            self._text = text
            self._lines = half_blocks(text) if text else []
        fits = bool(self._lines) and (
            len(self._lines) <= self.size.height and len(self._lines[0]) <= self.size.width
        )
        if (text, fits) == self._shown:
            return
        self._shown = (text, fits)
        if fits:
            content = Content.styled("\n".join(self._lines), "#000000 on #ffffff")
        elif text:
            content = Content.styled(
                "The QR code does not fit here: f shows it alone, y copies.", "$text-muted"
            )
        else:
            content = Content("")
        self.update(content, layout=False)  # the room is given by the screen, whatever stands in it

    def on_resize(self) -> None:
        self.call_after_refresh(self._fit)

    def _fit(self) -> None:
        self.show(self._text)
