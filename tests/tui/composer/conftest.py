from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import ClassVar

import pytest
from textual import events
from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.pilot import Pilot

from dsv4_agent.tui.composer.composer import Composer

COMMANDS = [("help", "Show [b]all[/b] there is"), ("effort", "How hard to think"), ("quit", "Leave")]
NAMES = {" ": "space", "\n": "ctrl+j"}


class Host(App[None]):
    """An application that writes down what the composer says and which keys reach it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape", "note('escape')"),
        ("ctrl+c", "note('ctrl+c')"),
        ("ctrl+d", "note('ctrl+d')"),
    ]

    def __init__(self, workspace: Path) -> None:
        super().__init__()
        self.said: list[object] = []
        self.edits = 0
        self.composer = Composer(workspace, complete_argument=self.complete)

    def complete(self, command: str, prefix: str) -> list[str]:
        values = ["low", "high", "max"] if command == "effort" else []
        return [value for value in values if value.startswith(prefix)]

    def compose(self) -> ComposeResult:
        yield self.composer

    def on_mount(self) -> None:
        self.composer.set_commands(COMMANDS)
        self.composer.focus()

    def action_note(self, key: str) -> None:
        self.said.append(key)

    def on_composer_submitted(self, message: Composer.Submitted) -> None:
        self.said.append(("prompt", message.text, message.shown))

    def on_composer_shell_submitted(self, message: Composer.ShellSubmitted) -> None:
        self.said.append(("shell", message.command))

    def on_composer_command_submitted(self, message: Composer.CommandSubmitted) -> None:
        self.said.append(("command", message.line))

    def on_composer_edited(self, message: Composer.Edited) -> None:
        self.edits += 1

    @property
    def draft(self) -> str:
        """The text as it stands in the box, chips folded."""
        return self.composer._area.text

    @property
    def screen_text(self) -> str:
        """Everything that is on the screen."""
        lines = self.screen._compositor.render_strips()
        return "\n".join(strip.text for strip in lines)

    @property
    def options(self) -> list[str]:
        """What the popup lists."""
        return [option.label for option in self.composer._popup._options]


class Hands:
    """A user at the keyboard of the host."""

    def __init__(self, app: Host, pilot: Pilot[None]) -> None:
        self.app = app
        self.pilot = pilot

    async def type(self, text: str) -> None:
        await self.pilot.press(*(NAMES.get(character, character) for character in text))
        await self.pilot.pause()

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause()

    async def paste(self, text: str) -> None:
        focused = self.app.focused
        assert focused is not None
        focused.post_message(events.Paste(text))
        await self.pilot.pause()
        await self.pilot.pause()

    async def index(self) -> None:
        self.app.composer._index.wait()
        await self.pilot.pause()


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DSV4_STATE_DIR", str(tmp_path / "state"))
    root = tmp_path / "work"
    (root / "src").mkdir(parents=True)
    (root / "src" / "main.py").write_text("print(1)\n")
    (root / "a b.txt").write_text("x")
    return root


Session = Callable[[], AbstractAsyncContextManager[Hands]]


@pytest.fixture
def session(workspace: Path) -> Session:
    """Opens the host in the workspace; a second call is the next session of the same user."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Hands]:
        app = Host(workspace)
        async with app.run_test(size=(60, 24)) as pilot:
            await pilot.pause()
            yield Hands(app, pilot)

    return opened
