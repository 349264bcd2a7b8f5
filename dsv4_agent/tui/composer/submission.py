"""What a submitted text is: a prompt, a shell command or a command of the program."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import dataclass

_NAME = re.compile(r"/([A-Za-z][\w:.-]*)(?=\s|$)")


@dataclass(frozen=True, slots=True)
class Prompt:
    """Text for the model; `skip` is how many leading characters were an escape and not part of it."""

    skip: int = 0


@dataclass(frozen=True, slots=True)
class Shell:
    """A line for the user's shell, without the `!`."""

    command: str


@dataclass(frozen=True, slots=True)
class Command:
    """A line for the program, with the `/`."""

    line: str


def classify(text: str, commands: Collection[str]) -> Prompt | Shell | Command:
    """Judge `text` by its first characters; `commands` are the names that are known.

    A path at the start of a sentence is a prompt. An unknown word after the slash is a command all the same,
    so that a typing error is reported and not sent to the model - unless such a file exists (`/tmp`).
    """
    if text.startswith("//"):
        return Prompt(skip=1)
    if text.startswith("!"):
        command = text[1:].strip()
        return Shell(command) if command else Prompt()
    found = _NAME.match(text)
    if found is None:
        return Prompt()
    if found[1] not in commands and os.path.lexists(found[0]):
        return Prompt()
    return Command(text.strip())
