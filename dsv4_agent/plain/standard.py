"""Standard input and output as the kind of terminal that they are."""

from __future__ import annotations

import os
import sys

from dsv4_agent.chat.commands import COMMANDS
from dsv4_agent.chat.drafts import DraftStore
from dsv4_agent.chat.history import History
from dsv4_agent.chat.mentions import MentionIndex
from dsv4_agent.plain.lines import LineTerminal
from dsv4_agent.plain.parts import Parts
from dsv4_agent.plain.terminal import Terminal

_DUMB = ("", "dumb", "unknown")


def standard_terminal(parts: Parts) -> Terminal:
    """Line editing where a terminal can do it, else plain lines without a single escape sequence."""
    history = History(parts.options.directory)
    typing = sys.stdin.isatty()
    if not typing or not sys.stdout.isatty() or os.environ.get("TERM", "") in _DUMB:
        return LineTerminal(sys.stdin.fileno(), sys.stdout, remember=history.add if typing else None)
    return _keyboard(parts, history)


def _keyboard(parts: Parts, history: History) -> Terminal:
    from prompt_toolkit.input import create_input

    from dsv4_agent.plain.completion import ChatCompleter
    from dsv4_agent.plain.keyboard import KeyboardTerminal
    from dsv4_agent.plain.past import Past
    from dsv4_agent.plain.steady import standard_output

    directory = parts.options.directory
    names = [command.name for command in COMMANDS]
    return KeyboardTerminal(
        create_input(sys.stdin),
        standard_output(),
        history=Past(history),
        completer=ChatCompleter(names, parts.complete, MentionIndex(directory)),
        drafts=DraftStore(directory),
        cycle_mode=parts.cycle_mode,
        tell=parts.tell,
    )
