"""What can be completed at the cursor, and with what."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from dsv4_agent.chat.fuzzy import Candidates
from dsv4_agent.chat.mentions import MentionIndex, written
from dsv4_agent.chat.pasted import clean

LIMIT: Final = 50
_FILE: Final = re.compile(r"""(?:^|(?<=[\s(\[{<'",;:]))@(?:"([^"]*)|([^\s"]*))$""")
_COMMAND: Final = re.compile(r"/([\w:.-]*)$")
_ARGUMENT: Final = re.compile(r"/([A-Za-z][\w:.-]*)[ \t]+(.*)$")

ArgumentCompleter = Callable[[str, str], Sequence[str]]
"""From a command's name and what is typed after it to all that could stand there instead."""


class Kind(StrEnum):
    """What the word at the cursor is."""

    FILE = "file"
    COMMAND = "command"
    ARGUMENT = "argument"


@dataclass(frozen=True, slots=True)
class Request:
    """A word to complete: it begins at column `start` and ends at the cursor."""

    kind: Kind
    query: str
    start: int
    command: str = ""


@dataclass(frozen=True, slots=True)
class Option:
    """One way to complete: what is shown, what is inserted, and whether completion goes on after it."""

    label: str
    insert: str
    detail: str = ""
    positions: tuple[int, ...] = ()
    again: bool = False


def request_at(row: int, before: str) -> Request | None:
    """What is to be completed when `before` stands left of the cursor in line `row`."""
    if (found := _FILE.search(before)) is not None:
        return Request(Kind.FILE, found[1] if found[1] is not None else found[2], found.start())
    if row != 0:
        return None
    if (found := _COMMAND.match(before)) is not None:
        return Request(Kind.COMMAND, found[1], 0)
    if (found := _ARGUMENT.match(before)) is not None:
        return Request(Kind.ARGUMENT, found[2], found.start(2), found[1])
    return None


class Completer:
    """Knows the files, the commands and their arguments."""

    def __init__(self, index: MentionIndex | None, complete_argument: ArgumentCompleter | None) -> None:
        self._index = index
        self._complete_argument = complete_argument
        self._commands: dict[str, str] = {}
        self._names = Candidates(())

    @property
    def commands(self) -> frozenset[str]:
        """The names of the known commands, without the slash."""
        return frozenset(self._commands)

    def set_commands(self, commands: Sequence[tuple[str, str]]) -> None:
        """The commands that can be completed, with what they do."""
        self._commands = {name.removeprefix("/"): description for name, description in commands}
        self._names = Candidates(self._commands)

    def options(self, request: Request) -> tuple[Option, ...]:
        """The best ways to complete, best first."""
        match request.kind:
            case Kind.FILE:
                return self._files(request.query)
            case Kind.COMMAND:
                return self._command_names(request.query)
            case Kind.ARGUMENT:
                return self._arguments(request)

    def notice(self, request: Request) -> str:
        """What should be known about the options: that they are not all, or not there yet."""
        if request.kind is not Kind.FILE or self._index is None:
            return ""
        if self._index.snapshot is None:
            return "listing files ..."
        return "" if self._index.snapshot.complete else "too many files: not all are listed"

    def _files(self, query: str) -> tuple[Option, ...]:
        if self._index is None:
            return ()
        self._index.refresh()
        options: list[Option] = []
        for match in self._index.search(query, LIMIT):
            folder = match.text.endswith("/")
            insert = written(match.text)
            # A folder in quotes is closed already: going on inside it would need the quote taken back.
            again = folder and not insert.endswith('"')
            options.append(Option(match.text, insert if again else f"{insert} ", "", match.positions, again))
        return tuple(options)

    def _command_names(self, query: str) -> tuple[Option, ...]:
        matches = self._names.search(query, LIMIT)
        first = sorted(matches, key=lambda match: not match.text.startswith(query)) if query else matches
        return tuple(
            Option(
                f"/{match.text}",
                f"/{match.text} ",
                self._commands[match.text],
                tuple(position + 1 for position in match.positions),
                again=True,
            )
            for match in first
        )

    def _arguments(self, request: Request) -> tuple[Option, ...]:
        if self._complete_argument is None or request.command not in self._commands:
            return ()
        values = self._complete_argument(request.command, request.query)
        return tuple(
            Option(value, clean(value).text.replace("\n", " "), positions=_prefix(value, request.query))
            for value in values[:LIMIT]
        )


def _prefix(value: str, query: str) -> tuple[int, ...]:
    return tuple(range(len(query))) if value.startswith(query) else ()
