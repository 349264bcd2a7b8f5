"""The question about a call, in full: nothing of what would happen is left out."""

from __future__ import annotations

from dsv4_agent.loop.events import ApprovalRequested
from dsv4_agent.plain.diffs import counts, hunk_lines
from dsv4_agent.plain.items import argument_text
from dsv4_agent.plain.labels import Label
from dsv4_agent.plain.printer import Printer
from dsv4_agent.workbench.plain_text import plain_line


def print_question(printer: Printer, event: ApprovalRequested) -> None:
    """Reason and rule first; then the call, with a word of ours in front of each of its lines."""
    head, body = _call(event)
    rule = f", rule {plain_line(event.rule)}" if event.rule else ""
    why = f"Reason: {plain_line(event.reason)}{rule}, from {plain_line(event.source)}."
    printer.say(Label.QUESTION, head, [why, *body, "A no may be followed by a reason for the agent."])


def subject(event: ApprovalRequested) -> str:
    """The call in a few words."""
    return f"{event.tool} {argument_text(event.input)}"


def _call(event: ApprovalRequested) -> tuple[str, list[str]]:
    command = event.input.get("command")
    if event.tool == "shell" and isinstance(command, str):
        return _command(command, event)
    if event.changes:
        lines: list[str] = []
        for change in event.changes:
            lines.append(f"File: {plain_line(change.path)}, {counts(change.added, change.removed)}")
            lines += hunk_lines(change.diff) if change.diff else ()
        return "may this edit be made?", lines
    lines = _arguments(event)
    if event.error is not None:
        lines.append(f"No preview: {plain_line(event.error)}")
    return f"may the tool {plain_line(event.tool)} be used?", lines


def _command(command: str, event: ApprovalRequested) -> tuple[str, list[str]]:
    # Numbered, so that no line of a command can pass for one of ours.
    lines = command.split("\n")
    if len(lines) == 1:
        body = [f"Command: {plain_line(command)}"]
    else:
        body = [f"Line {n} of {len(lines)}: {plain_line(line)}" for n, line in enumerate(lines, 1)]
    others = {key: value for key, value in event.input.items() if key != "command"}
    body += [f"With {plain_line(key)}: {plain_line(str(value))}" for key, value in others.items()]
    return "may this command run?", body


def _arguments(event: ApprovalRequested) -> list[str]:
    lines: list[str] = []
    for key, value in event.input.items():
        texts = str(value).split("\n")
        name = plain_line(key)
        lines += [f"Argument {name}: {plain_line(text)}" for text in texts]
    return lines
