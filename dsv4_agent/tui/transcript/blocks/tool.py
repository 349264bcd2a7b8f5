"""A tool call of the model: what it does, how it ended, what came back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from dsv4_agent.loop.events import CommandExecutionItem, FileChangeItem, ItemStatus, ToolCallItem
from dsv4_agent.tui.transcript.blocks.card import Card, Change, State, card_rows
from dsv4_agent.tui.transcript.blocks.durations import duration, precise
from dsv4_agent.tui.transcript.frame import Frame
from dsv4_agent.tui.transcript.lines import estimate
from dsv4_agent.tui.transcript.rows import Row
from dsv4_agent.workbench.plain_text import plain

ToolItem = CommandExecutionItem | FileChangeItem | ToolCallItem
_QUOTED: Final = ("pattern", "query", "symbol")
_BARE: Final = ("path", "file_path", "url", "command", "name")
_STATES: Final = {
    ItemStatus.COMPLETED: State.DONE,
    ItemStatus.FAILED: State.FAILED,
    ItemStatus.DECLINED: State.DECLINED,
    ItemStatus.TIMED_OUT: State.TIMED_OUT,
}


@dataclass(frozen=True, slots=True)
class ToolBlock:
    """One call. `denial` says why it was refused; `stopped` that the run ended before it did."""

    item: ToolItem
    started: float = 0.0
    denial: str = ""
    stopped: bool = False

    @property
    def running(self) -> bool:
        """Has it not ended?"""
        return self.item.status is None and not self.stopped

    def rows(self, frame: Frame) -> list[Row]:
        """The card."""
        card = self._card()
        if self.running and (since := duration(frame.now - self.started)):
            card = replace(card, facts=(since,))
        return card_rows(card, frame)

    def estimate(self, frame: Frame) -> int:
        """About how many rows."""
        card = self._card()
        bodies = [card.output, *(change.diff for change in card.changes)]
        return 1 + bool(card.note) + sum(estimate(body, frame.inner, frame.detail.value) for body in bodies)

    def text(self) -> str:
        """Header, diffs and all output."""
        card = self._card()
        counts = "" if card.added is None else f" +{card.added} -{card.removed or 0}"
        facts = " · ".join((card.state.word, *filter(None, card.facts)))
        parts = [f"[{card.verb} {card.title}{counts} · {facts}]", card.note]
        parts += [change.diff.rstrip("\n") for change in card.changes]
        parts.append(card.output.rstrip("\n"))
        return plain("\n".join(filter(None, parts)))

    def _card(self) -> Card:
        item = self.item
        took = precise(item.duration_ms)
        match item:
            case CommandExecutionItem():
                code = "" if item.exit_code is None else f"exit {item.exit_code}"
                card = Card(self._state, "$", item.command, (code, took), output=item.output)
                if item.exit_code and card.state is State.DONE:
                    card = replace(card, state=State.FAILED)
                if item.output_truncated:
                    card = replace(card, facts=(*card.facts, "output cut"))
                if item.output_path:
                    card = replace(card, foot=f"all of it is in {item.output_path}")
            case FileChangeItem():
                card = self._file_change(item, took)
            case ToolCallItem():
                cut = "output cut" if item.output_truncated else ""
                card = Card(self._state, item.tool, title_of(item.input), (took, cut), output=item.output)
        return replace(card, note=self.denial)

    def _file_change(self, item: FileChangeItem, took: str) -> Card:
        relaxed = f"match: {item.match}" if item.match and item.match != "exact" else ""
        card = Card(self._state, item.tool, item.path, (took, relaxed))
        if not item.changes:
            return replace(card, output=item.output)
        several = len(item.changes) > 1
        changes = tuple(
            Change(
                change.path,
                change.diff,
                f"{change.kind} {change.path}  +{change.added} -{change.removed}" if several else "",
            )
            for change in item.changes
            if change.diff or several
        )
        return replace(
            card,
            added=sum(change.added for change in item.changes),
            removed=sum(change.removed for change in item.changes),
            changes=changes,
            output="" if self._state is State.DONE else item.output,
        )

    @property
    def _state(self) -> State:
        if self.item.status is None:
            return State.STOPPED if self.stopped else State.RUNNING
        return _STATES[self.item.status]


def title_of(arguments: Mapping[str, object]) -> str:
    """The arguments of a call on one line, the telling ones first."""
    ordered = sorted(arguments, key=lambda name: (name not in _QUOTED, name not in _BARE))
    return " ".join(_argument(name, arguments[name]) for name in ordered)


def _argument(name: str, value: object) -> str:
    said = str(value)[:400].replace("\n", " ")
    if name in _QUOTED:
        return f'"{said}"'
    return said if name in _BARE else f"{name}={said}"
