"""Plain lines as a batch goes on: for CI logs, pipes and screen readers."""

from __future__ import annotations

from collections.abc import Callable

from dsv4_agent.batch.events import (
    BatchEnded,
    BatchEvent,
    BatchStarted,
    Delivered,
    ItemEnded,
    ItemIntegrated,
    ItemStarted,
)
from dsv4_agent.batch.executor import ItemProgress
from dsv4_agent.batch.report.wording import begun, change, counted, duration, tokens, why
from dsv4_agent.batch.states import State
from dsv4_agent.workbench.plain_text import plain_line


class Lines:
    """Writes a line for what matters; `verbose` also for each step of an item."""

    def __init__(self, write: Callable[[str], None], *, verbose: bool = False) -> None:
        self._write = write
        self._verbose = verbose
        self._total = 0
        self._before = 0
        self._ended: set[str] = set()

    def show(self, event: BatchEvent) -> None:
        """Take the next event."""
        match event:
            case BatchStarted(run, items, finished, jobs):
                self._total, self._before = items, finished
                self._write(begun(run, items, finished, jobs))
            case ItemStarted(id, resumed):
                self._write(f"{'goes on' if resumed else 'begins'}: {id}")
            case ItemProgress(id, text):
                if self._verbose or "died" in text:
                    self._write(f"  {id}: {plain_line(text, 200)}")
            case ItemEnded(result):
                self._ended.add(result.id)
                state = "verified" if result.state is State.DONE else result.state.value
                count = f"[{self._before + len(self._ended)}/{self._total}]"
                parts = [f"{count} {state}: {result.id}", change(result), why(result)]
                self._write("; ".join(part for part in parts if part))
            case ItemIntegrated(outcome):
                reason = f"; {plain_line(outcome.reason, 200)}" if outcome.reason else ""
                state = "integrated" if outcome.commit else outcome.state.value
                self._write(f"{state}: {outcome.id}{reason}")
            case Delivered(what, where):
                self._write(f"{what}: {where}")
            case BatchEnded(_, results, spent, seconds, _):
                self._write(f"{counted(results)}; {duration(seconds)}; {tokens(spent)}")

    def close(self) -> None:
        """Nothing is left to write."""
