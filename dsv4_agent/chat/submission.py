"""What a typed line is: a prompt, a command for the person's shell, or one for the program."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import dataclass

_COMMAND = re.compile(r"/([A-Za-z?][\w:.-]*)(?:\s.*)?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Prompt:
    """Text for the model."""

    text: str


@dataclass(frozen=True, slots=True)
class ShellLine:
    """A command of the person's own, without the `!`."""

    command: str


@dataclass(frozen=True, slots=True)
class CommandLine:
    """A line for the program, with the `/`."""

    line: str


def judge(text: str, names: Collection[str]) -> Prompt | ShellLine | CommandLine:
    """Judge by the first characters; `names` are the known commands, without the slash.

    `//` stands for a slash that begins a prompt. An unknown word after the slash is a command all the same,
    so that a slip of the finger is reported, unless it is the path of a file.
    """
    if text.startswith("//"):
        return Prompt(text[1:])
    if text.startswith("!"):
        command = text[1:].strip()
        return ShellLine(command) if command else Prompt(text)
    if text.strip() in ("?", "/?"):
        return CommandLine("/help")
    found = _COMMAND.fullmatch(text)
    if found is None or (found[1] not in names and os.path.lexists(f"/{found[1]}")):
        return Prompt(text)
    return CommandLine(text.strip())
