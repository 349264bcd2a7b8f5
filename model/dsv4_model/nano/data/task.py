"""What a task is: a repository, a request, an oracle that solves it and a check of the outcome."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path

from dsv4_model.nano.data.repository import Repository


class Unsuitable(Exception):
    """The generated task turned out to be ambiguous; draw another one."""


@dataclass(frozen=True)
class Call:
    """One tool call of the oracle."""

    name: str
    arguments: dict[str, str | bool]


@dataclass(frozen=True)
class Step:
    """One assistant turn of the oracle: thinking, then calls, or the final text."""

    think: str
    calls: tuple[Call, ...] = ()
    text: str = ""


Oracle = Generator[Step, list[str], None]
"""Yields steps, is sent the texts of the tool results of each; ends after a step without calls."""


@dataclass(frozen=True)
class Outcome:
    """What a finished run left behind."""

    root: Path
    answer: str
    exit_code: int
    head_before: str

    def text(self, path: str) -> str | None:
        """A file's text, or None where there is no such file."""
        file = self.root / path
        return file.read_text(encoding="utf-8") if file.is_file() else None

    def files(self) -> dict[str, str]:
        """Every file outside `.git`, path to text."""
        return {
            p.relative_to(self.root).as_posix(): p.read_text(encoding="utf-8")
            for p in sorted(self.root.rglob("*"))
            if p.is_file() and ".git" not in p.relative_to(self.root).parts and p.suffix != ".pyc"
        }


@dataclass(frozen=True)
class Task:
    """One generated task.

    `check` judges the repository's state (and, for questions, the facts in the answer), never the wording.
    """

    family: str
    prompt: str
    repository: Repository
    oracle: Callable[[], Oracle]
    check: Callable[[Outcome], bool]
    edits: dict[str, str | None] = field(default_factory=dict)
    """Uncommitted changes made after the first commit; None deletes the file."""
