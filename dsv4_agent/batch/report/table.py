"""A live table on a terminal: what is going on, what has ended, how far it is."""

from __future__ import annotations

from time import monotonic

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

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
from dsv4_agent.batch.report.wording import MARK, begun, change, counted, duration, tokens, why
from dsv4_agent.batch.states import ItemResult, State
from dsv4_agent.workbench.plain_text import plain_line

_STYLE = {
    State.DONE: "green",
    State.NO_CHANGE: "green",
    State.VERIFY_FAILED: "red",
    State.CONFLICT: "yellow",
    State.ERROR: "red",
    State.SKIPPED: "bright_black",
    State.BUDGET: "yellow",
}
_RUNNING_ROWS = 12
_NAME, _REST = 12, 28
"""Columns that the name of an item has at least, and that are left for the others."""


class LiveTable:
    """Ended items scroll by as lines above; below them stand those in progress and a bar."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._running: dict[str, tuple[float, str]] = {}
        self._before = 0
        self._ended: set[str] = set()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
        )
        self._task = self._progress.add_task("items", total=None)
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=8, transient=True)

    def show(self, event: BatchEvent) -> None:
        """Take the next event."""
        match event:
            case BatchStarted(run, items, finished, jobs):
                self._say(Text(begun(run, items, finished, jobs), "bold"))
                self._before = finished
                self._progress.update(self._task, total=items, completed=finished)
                self._live.start()
            case ItemStarted(id, _):
                self._running[id] = (monotonic(), "begins")
            case ItemProgress(id, text):
                began, _ = self._running.get(id, (monotonic(), ""))
                self._running[id] = (began, plain_line(text, 60))
            case ItemEnded(result):
                self._running.pop(result.id, None)
                self._ended.add(result.id)
                self._progress.update(self._task, completed=self._before + len(self._ended))
                self._say(_line(result, "verified" if result.state is State.DONE else result.state.value))
            case ItemIntegrated(outcome):
                self._progress.update(self._task, description="integrating")
                if outcome.commit is None:
                    ended = ItemResult(outcome.id, outcome.state, outcome.reason)
                    self._say(_line(ended, outcome.state.value))
            case Delivered(what, where):
                self._say(Text(f"{what}: {where}"))
            case BatchEnded(_, results, spent, seconds, failed):
                self._live.stop()
                self._say(Text(counted(results), "bold red" if failed else "bold green"))
                self._say(Text(f"{duration(seconds)}; {tokens(spent)}", "bright_black"))

    def close(self) -> None:
        """Leave the terminal as it should be, however the batch ended."""
        self._live.stop()

    def _say(self, text: Text) -> None:
        self._console.print(text, soft_wrap=True)

    def _render(self) -> Group:
        table = Table.grid(padding=(0, 2))
        for _ in range(4):
            table.add_column(no_wrap=True, overflow="ellipsis")
        now = monotonic()
        rows = list(self._running.items())
        for id, (began, text) in rows[:_RUNNING_ROWS]:
            name = Text(id)
            name.truncate(max(_NAME, self._console.width - _REST), overflow="ellipsis")
            table.add_row(Text("…"), name, Text(text), Text(duration(now - began), "bright_black"))
        if len(rows) > _RUNNING_ROWS:
            table.add_row(Text(""), Text(f"and {len(rows) - _RUNNING_ROWS} more"))
        return Group(table, self._progress)


def _line(result: ItemResult, state: str) -> Text:
    parts = (change(result), why(result))
    rest = "; ".join(part for part in parts if part)
    mark = Text(f"{MARK[result.state]} {state}", _STYLE[result.state])
    return Text.assemble(mark, f" {result.id}", (f"  {rest}" if rest else "", "bright_black"))
