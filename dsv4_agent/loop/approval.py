"""A person's answers to calls that need one: the loop waits here, a front end answers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from dsv4_agent.permissions.rules import Rule


@dataclass(frozen=True, slots=True)
class Answer:
    """Yes or no to one call. `reason` of a no is told to the model; `rules` of a yes hold from now on."""

    allowed: bool
    reason: str = ""
    rules: tuple[Rule, ...] = ()


class Approvals:
    """Open questions by the id of the item that they are about."""

    def __init__(self) -> None:
        self._open: dict[str, asyncio.Future[Answer]] = {}

    def ask(self, id: str) -> asyncio.Future[Answer]:
        """Open a question; whoever awaits the future must `close` it afterwards."""
        future = asyncio.get_running_loop().create_future()
        self._open[id] = future
        return future

    def answer(self, id: str, answer: Answer) -> bool:
        """Settle a question; False where it is not open (any more)."""
        future = self._open.get(id)
        if future is None or future.done():
            return False
        future.set_result(answer)
        return True

    def close(self, id: str) -> None:
        """Forget a question."""
        if (future := self._open.pop(id, None)) is not None:
            future.cancel()
