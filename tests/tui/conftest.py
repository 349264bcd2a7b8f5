"""A chat app over a scripted model in a small repository, driven by a pilot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from textual.pilot import Pilot

from dsv4_agent.chat.events import ChatEvent
from dsv4_agent.chat.options import ChatOptions
from dsv4_agent.loop.events import RunResult
from dsv4_agent.tui.app import ChatApp
from dsv4_agent.tui.panels import arming
from dsv4_agent.workbench.model_options import ModelOptions
from dsv4_agent.workbench.settings import Settings
from tests.small_repository import small_repository


@dataclass
class Driven:
    """An app that runs, and the pilot that presses its keys."""

    app: ChatApp
    pilot: Pilot[None]
    workspace: Path
    results: int = 0

    def __post_init__(self) -> None:
        show = self.app._showing.show

        def counting(event: ChatEvent) -> None:
            show(event)
            self.results += isinstance(event, RunResult)

        self.app._showing.show = counting  # type: ignore[method-assign]

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait until something is so."""
        async with asyncio.timeout(20):
            while not holds():
                await self.pilot.pause(0.01)

    async def ready(self) -> None:
        """Wait until the model is there and nothing goes on."""
        await self.until(lambda: self.app.dialogue.status.phase == "ready" and not self.app.dialogue._jobs)

    async def say(self, text: str) -> None:
        """Type a line and send it."""
        self.app.composer.replace_text(text)
        await self.pilot.press("enter")
        await self.pilot.pause()

    async def ask(self, text: str) -> None:
        """Send a prompt and wait until the agent has finished."""
        await self.ready()
        before = self.results
        await self.say(text)
        await self.until(lambda: self.results > before)
        await self.ready()
        await self.pilot.pause()

    @property
    def shown(self) -> str:
        """Everything in the transcript."""
        return self.app.transcript.text(all=True)

    async def panel(self, kind: type) -> object:
        """Wait for an open panel of a kind."""
        await self.until(lambda: self.app.query(kind))
        await self.pilot.pause()
        return self.app.query_one(kind)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(arming, "QUIET", 0.0)
    return small_repository(tmp_path, monkeypatch)


@pytest.fixture
def driven(workspace: Path) -> Callable[..., object]:
    """`driven(script, size=..., settings=..., **options)`: an async context that gives a `Driven`."""

    @asynccontextmanager
    async def run(
        script: str = "text: Hello.",
        *,
        size: tuple[int, int] = (80, 24),
        settings: Settings | None = None,
        **options: object,
    ) -> AsyncIterator[Driven]:
        file = workspace.parent / "script.txt"
        file.write_text(script)
        chosen = ChatOptions(
            directory=workspace,
            model=ModelOptions(name=f"scripted:{file}"),
            **options,  # type: ignore[arg-type]
        )
        app = ChatApp(chosen, settings)
        async with app.run_test(size=size) as pilot:
            yield Driven(app, pilot, workspace)

    return run
