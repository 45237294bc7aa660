"""The prompt: runs any method of the node, with completion; what moves money is asked about first."""

import json
import re
import shlex
from typing import Any, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.suggester import SuggestFromList
from textual.widgets import Input, Static

from protocol.bus.messages.rpc import MethodInfo
from tui import words
from tui.dialogs.base import Dialog
from tui.line import RpcRefused

_INTEGER = re.compile(r"-?[0-9]{1,18}")
_LITERALS: dict[str, Any] = {"null": None, "true": True, "false": False}
MAX_OUTPUT = 20_000


class PromptDialog(Dialog[None]):
    TITLE_TEXT = "Run a method"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("Y", "confirm", "Run", id="prompt.confirm"),
        Binding("up", "history(-1)", "Earlier", show=False, id="prompt.up"),
        Binding("down", "history(1)", "Later", show=False, id="prompt.down"),
    ]
    past: ClassVar[list[str]] = []

    def __init__(self) -> None:
        super().__init__()
        self._methods: dict[str, MethodInfo] = {}
        self._waiting: tuple[str, list[Any] | dict[str, Any]] | None = None
        self._at = len(self.past)

    def fields(self) -> ComposeResult:
        yield Input(placeholder="method and arguments; help lists all", id="command", compact=True)
        yield Static("", id="output", markup=False)

    def on_mount(self) -> None:
        self.query_one(Input).focus()
        self.tell()
        self.say("")
        self.hint("enter runs · → completes · ↑ earlier · esc closes")
        self._learn()

    @work
    async def _learn(self) -> None:
        try:
            self._methods = {found.name: found for found in await self.tui.line.methods()}
        except Exception as error:  # whatever broke, the prompt can still be typed into
            self.say(str(error), "$error")
            return
        names = [f"{name} " for name in self._methods]
        self.query_one(Input).suggester = SuggestFromList(names, case_sensitive=False)

    @on(Input.Changed)
    def typing(self, event: Input.Changed) -> None:
        found = self._methods.get(event.value.split(" ")[0])
        self.tell(*((f"{found.usage}\n", "bold"), found.help) if found is not None else ())

    @on(Input.Submitted)
    def submitted(self, event: Input.Submitted) -> None:
        text = event.value.strip().removeprefix(":")
        if not text:
            return
        try:
            method, *arguments = shlex.split(text)
            params = parameters(arguments)
        except ValueError as error:
            self.say(str(error), "$error")
            return
        if text not in self.past[-1:]:
            self.past.append(text)
        self._at = len(self.past)
        info = self._methods.get(method)
        if info is not None and info.moves_money:
            self._waiting = (method, params)
            self.hide_fields(hidden=True)
            self.say(f"{method} moves money, or ends something for good. Run {text!r}?", "bold $warning")
            self.hint("Y runs it · esc goes back")
            return
        self._run_method(method, params, confirmed=False)

    def action_confirm(self) -> None:
        if self._waiting is not None:
            method, params = self._waiting
            self._back_to_typing()
            self._run_method(method, params, confirmed=True)

    def action_back(self) -> None:
        if self._waiting is not None:
            self._back_to_typing()
        else:
            self.dismiss(None)

    def action_history(self, by: int) -> None:
        self._at = max(0, min(self._at + by, len(self.past)))
        entry = self.query_one(Input)
        entry.value = self.past[self._at] if self._at < len(self.past) else ""
        entry.cursor_position = len(entry.value)

    def _back_to_typing(self) -> None:
        self._waiting = None
        self.hide_fields(hidden=False)
        self.say("")
        self.hint("enter runs · → completes · ↑ earlier · esc closes")

    @work(exclusive=True, group="run")
    async def _run_method(self, method: str, params: list[Any] | dict[str, Any], *, confirmed: bool) -> None:
        self.say(f"{method}…")
        output = self.query_one("#output", Static)
        try:
            result = await self.tui.line.rpc(method, params, confirmed=confirmed)
        except RpcRefused as error:
            head = "outcome unknown" if error.unknown else f"code {error.code}"
            self.say(f"{error} ({head})", "$warning" if error.unknown else "$error")
            return
        self.say("")
        text = json.dumps(result, indent=2, ensure_ascii=False)[:MAX_OUTPUT]
        output.update("\n".join(words.plain(line) for line in text.split("\n")))


def parameters(arguments: list[str]) -> list[Any] | dict[str, Any]:
    """By position, or all as NAME=VALUE; numbers, literals, lists and objects as JSON."""
    if arguments and all(re.match(r"[a-z_]+=", word) for word in arguments):
        return {name: _value(text) for name, _, text in (word.partition("=") for word in arguments)}
    return [_value(word) for word in arguments]


def _value(word: str) -> Any:
    if word in _LITERALS:
        return _LITERALS[word]
    if _INTEGER.fullmatch(word):
        return int(word)
    return json.loads(word) if word[:1] in ("[", "{") else word
