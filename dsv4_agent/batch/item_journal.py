"""The steps of one item on disk, so that a worker goes on where a killed one was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from dsv4_agent.batch.states import Spent
from dsv4_agent.session.journal import Journal

_NAME = "item.jsonl"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run of the agent: the tree it left, and its ending; `check` is None until it was verified."""

    tree: str
    subtype: str
    error: str | None
    answer: str
    spent: Spent
    check: Check | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """What the verify commands said of an attempt."""

    ok: bool
    reason: str
    output: str


class ItemJournal:
    """What is on record of an item. Writing raises `JournalError`."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.prepared: str | None = None
        self.attempts: list[Attempt] = []

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Start or continue the journal of an item's folder. Raises `JournalError`."""
        path = folder / _NAME
        if not path.exists():
            return cls(Journal.create(path))
        journal, contents = Journal.reopen(path)
        opened = cls(journal)
        for record in contents.records:
            opened._replay(record.kind, record.data)
        return opened

    def prepare(self, tree: str) -> None:
        """Setup is done; the worktree is this tree."""
        self._journal.write("prepared", {"tree": tree}, sync=True)
        self.prepared = tree

    def attempted(self, attempt: Attempt) -> None:
        """The agent's run has ended."""
        data = {
            "tree": attempt.tree,
            "subtype": attempt.subtype,
            "error": attempt.error,
            "answer": attempt.answer,
            "spent": {name: getattr(attempt.spent, name) for name in Spent.__dataclass_fields__},
        }
        self._journal.write("attempted", data, sync=True)
        self.attempts.append(attempt)

    def checked(self, check: Check) -> None:
        """The last attempt was verified."""
        self._journal.write(
            "checked", {"ok": check.ok, "reason": check.reason, "output": check.output}, sync=True
        )
        self._check(check)

    def close(self) -> None:
        """Close the file."""
        self._journal.close()

    def _check(self, check: Check) -> None:
        self.attempts[-1] = replace(self.attempts[-1], check=check)

    def _replay(self, kind: str, data: Mapping[str, Any]) -> None:
        match kind:
            case "prepared":
                self.prepared = data["tree"]
            case "attempted":
                spent = Spent(**data["spent"])
                attempt = Attempt(data["tree"], data["subtype"], data["error"], data["answer"], spent)
                self.attempts.append(attempt)
            case "checked":
                self._check(Check(data["ok"], data["reason"], data["output"]))
