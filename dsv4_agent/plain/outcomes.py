"""What commands ask of their front end, as plain mode does it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from dsv4_agent.chat import outcomes as out
from dsv4_agent.plain.diffs import patch_lines
from dsv4_agent.plain.labels import Label
from dsv4_agent.plain.narrator import NOTICE_LABELS
from dsv4_agent.plain.printer import Printer, folded
from dsv4_agent.workbench.plain_text import plain_line

_PATCH_LINES: Final = 400
_BAR: Final = re.compile("[█·]{4,} *")


def print_outcome(
    printer: Printer, outcome: out.Say | out.Page | out.Patch | out.Pick | out.Copy | out.UseTheme
) -> None:
    """Print it; what is to be answered or done besides is the caller's."""
    match outcome:
        case out.Say(kind=kind, text=text):
            printer.say(NOTICE_LABELS.get(kind, Label.NOTICE), text)
        case out.Page(title=title, text=text):
            printer.say(Label.PAGE, plain_line(title), _BAR.sub("", text).split("\n"))
        case out.Patch(title=title, text=text):
            printer.say(Label.PATCH, plain_line(title), folded(list(patch_lines(text)), _PATCH_LINES))
        case out.Pick(title=title, options=options, selected=selected):
            rows = (_row(n, option, selected) for n, option in enumerate(options, 1))
            printer.say(Label.CHOOSE, plain_line(title), rows)
        case out.Copy(text=text):
            printer.say(Label.COPY, "plain mode has no clipboard; the text follows.", text.split("\n"))
            printer.say(Label.COPY, "end of the text.")
        case out.UseTheme():
            printer.say(Label.NOTICE, "plain mode has no colours, so there is no theme to choose.")


def help_text(commands: Iterable[tuple[str, str]], keys: Iterable[tuple[str, str]]) -> str:
    """What can be typed and pressed here."""
    return "\n".join(
        [
            "Write what should be done and press Enter. What is written while the agent works reaches it",
            "at the next chance. Ctrl+C stops the agent and keeps what was done.",
            "",
            "@path: mention a file.",
            "!command: run a command yourself; the model reads its output.",
            "//: begin a prompt with a slash.",
            "A backslash at the end of a line: go on in the next one.",
            "",
            "Commands",
            *(f"/{name}: {text}." for name, text in commands),
            "",
            *keys_text(keys),
        ]
    )


def keys_text(keys: Iterable[tuple[str, str]]) -> list[str]:
    """The keys, one to a line."""
    return ["Keys", *(f"{key}: {text}." for key, text in keys)]


def _row(number: int, option: out.Option, selected: str | None) -> str:
    detail = f", {plain_line(option.detail)}" if option.detail else ""
    now = ", now in use" if option.value == selected else ""
    return f"{number}. {plain_line(option.label)}{detail}{now}"
