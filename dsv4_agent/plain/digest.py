"""A session that is taken up again, in short: a listener does not want to hear all of it once more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from dsv4_agent.loop.events import AgentMessageItem, Event, ItemCompleted, Rewound, UserMessage
from dsv4_agent.plain.labels import Label
from dsv4_agent.plain.printer import Printer, folded, harmless_lines

_LINES: Final = 20


def print_digest(printer: Printer, events: Sequence[Event]) -> None:
    """How many prompts there are, the last one and the last answer; no events are a new conversation."""
    if not events:
        printer.say(Label.SESSION, "a new conversation.")
        return
    turns = _turns(events)
    number = f"{len(turns)} {'prompt' if len(turns) == 1 else 'prompts'}"
    printer.say(Label.SESSION, f"taken up again, {number}.")
    if turns:
        prompt, answer = turns[-1]
        _print(printer, Label.LAST_PROMPT, prompt)
        _print(printer, Label.LAST_ANSWER, answer or "none")


def _turns(events: Sequence[Event]) -> list[tuple[str, str]]:
    turns: list[tuple[str, str]] = []
    for event in events:
        match event:
            case UserMessage(text=text):
                turns.append((text, ""))
            case ItemCompleted(item=AgentMessageItem(text=text, partial=False)) if turns and text.strip():
                turns[-1] = turns[-1][0], text
            case Rewound(kept=kept):
                del turns[kept:]
    return turns


def _print(printer: Printer, label: Label, text: str) -> None:
    first, *rest = folded(harmless_lines(text.strip()), _LINES)
    printer.say(label, first, rest)
