"""Text mode's progress on stderr: thinking, calls with their outcome, edits as a small diff.

Every foreign character goes through `plain_text`; styles are our own escape codes, on a terminal only.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Final, TextIO

from dsv4_agent.loop.events import (
    AgentMessageItem,
    CommandExecutionItem,
    Event,
    FileChangeItem,
    Init,
    ItemCompleted,
    ItemStarted,
    ItemStatus,
    Notice,
    PermissionDenied,
    PrefixBreak,
    ReasoningItem,
    Retry,
    ToolCallItem,
)
from dsv4_agent.workbench.plain_text import plain, plain_line

_DIM: Final = "2"
_RED: Final = "31"
_GREEN: Final = "32"
_YELLOW: Final = "33"
_BOLD: Final = "1"
_OUTPUT_LINES: Final = 6
_DIFF_LINES: Final = 40
_LINE_LIMIT: Final = 200  # characters


class Progress:
    """Prints what happens in a run. Writing never fails a run: a closed stderr is ignored."""

    def __init__(self, stream: TextIO | None = None, *, colour: bool | None = None) -> None:
        self._stream: TextIO | None = sys.stderr if stream is None else stream
        terminal = self._stream is not None and self._stream.isatty()
        dumb = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
        self._colour = (terminal and not dumb) if colour is None else colour
        self._said: str | None = None  # the last message waits: the final one is the answer, for stdout

    def line(self, text: str, style: str | None = None) -> None:
        """Print one of our own lines; `text` must be sanitised already."""
        if self._stream is None:
            return
        try:
            self._stream.write((f"\x1b[{style}m{text}\x1b[0m" if style and self._colour else text) + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            self._stream = None

    def notice(self, text: str) -> None:
        """A line from dsv4 itself."""
        self.line(f"dsv4: {plain_line(text)}", _YELLOW)

    def error(self, text: str) -> None:
        """The line that explains a failed run."""
        self.line(f"dsv4: error: {plain_line(text)}", _RED)

    def show(self, event: Event) -> None:
        """Print what a person wants to see of an event."""
        match event:
            case Init():
                where = f"{event.model.id} ({event.model.backend})"
                self.line(plain_line(f"dsv4 {event.dsv4_version}  {where}  session {event.session_id}"), _DIM)
            case ItemStarted(item=item):
                self._flush_message()
                if isinstance(item, CommandExecutionItem):
                    self.line(f"$ {plain_line(item.command, _LINE_LIMIT)}", _BOLD)
            case ItemCompleted(item=item):
                self._completed(item)
            case PermissionDenied():
                self.line(f"  denied: {plain_line(event.reason, _LINE_LIMIT)}", _YELLOW)
            case Retry():
                if event.discarded is not None:
                    self._said = None
                    self.line("  dropped: the turn broke off and begins anew", _DIM)
                wait = event.delay_ms / 1000
                self.notice(f"retrying {event.attempt} of {event.max} in {wait:.1f} s: {event.reason}")
            case PrefixBreak():
                self.notice(f"{event.tokens} cached tokens are lost: {event.cause}")
            case Notice():
                self.line(plain_line(f"  note: {event.text}", _LINE_LIMIT * 2), _DIM)
            case _:
                pass

    def _completed(self, item: object) -> None:
        match item:
            case ReasoningItem() if item.text.strip():
                self.line(_indented(plain(item.text.strip()), "  "), _DIM)
            case AgentMessageItem(partial=True) if item.text.strip():
                self.line(_indented(plain(item.text.strip()), "  "), _DIM)
            case AgentMessageItem() if item.text.strip():
                self._said = item.text.strip()
            case CommandExecutionItem():
                if item.status is not ItemStatus.DECLINED:  # the reason is on the line above
                    self._output(item.output)
                self._status(item.status, f"exit {item.exit_code}" if item.exit_code is not None else "")
            case FileChangeItem():
                self.line(f"{item.tool} {plain_line(item.path, _LINE_LIMIT)}", _BOLD)
                if item.status is ItemStatus.COMPLETED:
                    self._changed(item)
                else:
                    self._output(item.output)
                self._status(item.status)
            case ToolCallItem():
                self.line(f"{item.tool} {_arguments(item.input)}", _BOLD)
                self._output(item.output)
                self._status(item.status)
            case _:
                pass

    def _flush_message(self) -> None:
        if self._said is not None:
            self.line(plain(self._said))
            self._said = None

    def _output(self, text: str) -> None:
        lines = plain(text).splitlines()
        for shown in lines[:_OUTPUT_LINES]:
            self.line("  " + (shown if len(shown) <= _LINE_LIMIT else shown[: _LINE_LIMIT - 1] + "…"), _DIM)
        if len(lines) > _OUTPUT_LINES:
            self.line(f"  … {len(lines) - _OUTPUT_LINES} more lines", _DIM)

    def _status(self, status: ItemStatus | None, detail: str = "") -> None:
        if status is ItemStatus.COMPLETED or status is None:
            return
        words = f"  {status.value.replace('_', ' ')}" + (f" ({detail})" if detail else "")
        self.line(words, _RED if status is ItemStatus.FAILED else _YELLOW)

    def _changed(self, item: FileChangeItem) -> None:
        for change in item.changes:
            if change.diff:
                self._diff(change.diff)
            else:
                self.line(f"  {change.kind} +{change.added} -{change.removed}", _DIM)

    def _diff(self, diff: str) -> None:
        lines = diff.split("\n")
        for raw in lines[:_DIFF_LINES]:
            style = {"+": _GREEN, "-": _RED, "@": _DIM}.get(raw[:1])
            self.line("  " + plain_line(raw.replace("\t", "    "), _LINE_LIMIT), style)
        if len(lines) > _DIFF_LINES:
            self.line(f"  … {len(lines) - _DIFF_LINES} more lines", _DIM)


def _arguments(values: Mapping[str, object]) -> str:
    shown = (value if isinstance(value, str) else f"{key}={value!r}" for key, value in values.items())
    return plain_line(", ".join(shown), _LINE_LIMIT)


def _indented(text: str, margin: str) -> str:
    return "\n".join(margin + line if line else line for line in text.splitlines())
