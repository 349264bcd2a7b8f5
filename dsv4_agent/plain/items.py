"""What is printed of the calls: commands, edits, other tools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from dsv4_agent.loop.events import (
    CommandExecutionItem,
    FileChangeInfo,
    FileChangeItem,
    ItemStatus,
    ToolCallItem,
)
from dsv4_agent.plain.diffs import counts, hunk_lines
from dsv4_agent.plain.labels import Label
from dsv4_agent.plain.printer import Printer, folded, harmless_lines
from dsv4_agent.workbench.plain_text import plain_line

OUTPUT_LINES: Final = 20
_TOOL_LINES: Final = 5
_DIFF_LINES: Final = 60
_WIDTH: Final = 400  # characters of an output line; a listener can't skip the rest of one
_KINDS: Final = {"add": "new file, ", "delete": "deleted, ", "rename": "renamed, ", "update": ""}


def print_start(printer: Printer, item: CommandExecutionItem | ToolCallItem) -> None:
    """A call begins."""
    match item:
        case CommandExecutionItem():
            printer.say(Label.RUNNING, item.command)
        case ToolCallItem():
            printer.say(Label.USING, f"{item.tool} {argument_text(item.input)}".rstrip())


def print_end(
    printer: Printer,
    item: CommandExecutionItem | FileChangeItem | ToolCallItem,
    seen: tuple[FileChangeInfo, ...] = (),
) -> None:
    """A call is over; `seen` are changes that the question about it has shown already."""
    if item.status is ItemStatus.DECLINED:  # the reason has been said
        return
    match item:
        case CommandExecutionItem():
            state = f"exit {item.exit_code}" if item.exit_code is not None else _state(item.status)
            _result(printer, f"{state}, {_seconds(item.duration_ms)}", item.output, OUTPUT_LINES)
        case FileChangeItem():
            _changed(printer, item, seen)
        case ToolCallItem():
            _result(printer, _state(item.status), item.output, _TOOL_LINES)


def print_own_shell(printer: Printer, command: str, output: str, exit_code: int | None) -> None:
    """A command of the person's own has run."""
    state = "no exit code" if exit_code is None else f"exit {exit_code}"
    lines = folded(_output(output), OUTPUT_LINES)
    printer.say(Label.SHELL, f"{plain_line(command)}, {state}", lines)


def argument_text(values: Mapping[str, object]) -> str:
    """The arguments of a call on one line."""
    shown = (value if isinstance(value, str) else f"{key}={value!r}" for key, value in values.items())
    return plain_line(", ".join(shown), _WIDTH)


def _result(printer: Printer, state: str, output: str, most: int) -> None:
    printer.say(Label.RESULT, state, folded(_output(output), most))


def _changed(printer: Printer, item: FileChangeItem, seen: tuple[FileChangeInfo, ...]) -> None:
    if item.status is not ItemStatus.COMPLETED:
        lines = folded(_output(item.output), OUTPUT_LINES)
        printer.say(Label.EDIT, f"{plain_line(item.path)}, {_state(item.status)}", lines)
        return
    if not item.changes:
        printer.say(Label.EDIT, f"{plain_line(item.path)}, no change")
    for change in item.changes:
        kind = _KINDS.get(change.kind, "")
        text = f"{plain_line(change.path)}, {kind}{counts(change.added, change.removed)}"
        diff = [] if change in seen or not change.diff else list(hunk_lines(change.diff))
        printer.say(Label.EDIT, text, folded(diff, _DIFF_LINES))


def _output(text: str) -> list[str]:
    text = text.strip("\n")
    return harmless_lines(text, _WIDTH) if text.strip() else []


def _state(status: ItemStatus | None) -> str:
    return "done" if status in (ItemStatus.COMPLETED, None) else status.value.replace("_", " ")


def _seconds(milliseconds: int) -> str:
    return f"{milliseconds / 1000:.1f} s"
