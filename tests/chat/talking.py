"""A chat over the real loop and tools, played by a script, in a repository of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar

from dsv4_agent.chat.dialogue import Dialogue
from dsv4_agent.chat.events import ChatEvent
from dsv4_agent.chat.options import ChatOptions
from dsv4_agent.chat.status import Phase
from dsv4_agent.loop.events import (
    RunResult,
)
from dsv4_agent.workbench.model_options import ModelOptions

EDIT = """\
call: edit
  path: app.py
  old_string: old
  new_string: new
"""
T = TypeVar("T")
COMMAND = "call: shell\n  command: echo hello\n"


class Chat:
    """A dialogue that runs, with everything it has shown so far."""

    def __init__(self, dialogue: Dialogue) -> None:
        self.dialogue = dialogue
        self.seen: list[ChatEvent] = []

    async def until(self, wanted: Callable[[ChatEvent], bool]) -> ChatEvent:
        async with asyncio.timeout(20):
            async for event in self.dialogue.events():
                self.seen.append(event)
                if wanted(event):
                    return event
        raise AssertionError

    async def until_a(self, kind: type[T]) -> T:
        event = await self.until(lambda event: isinstance(event, kind))
        assert isinstance(event, kind)
        return event

    async def say(self, text: str) -> RunResult:
        await self.dialogue.submit(text)
        return await self.until_a(RunResult)

    def of(self, kind: type[T]) -> list[T]:
        return [event for event in self.seen if isinstance(event, kind)]

    async def settle(self) -> None:
        """Wait until all jobs are done."""
        async with asyncio.timeout(20):
            while self.dialogue._jobs or self.dialogue.status.phase is not Phase.IDLE:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def chat_with(script: str, workspace: Path, **options: object) -> AsyncIterator[Chat]:
    file = workspace.parent / "script.txt"
    file.write_text(script)
    chosen = ChatOptions(directory=workspace, model=ModelOptions(name=f"scripted:{file}"), **options)  # type: ignore[arg-type]
    dialogue = Dialogue(chosen)
    task = asyncio.create_task(dialogue.run())
    try:
        yield Chat(dialogue)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
