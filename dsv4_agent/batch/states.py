"""The ways an item can end, and what is on record about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Self


class State(StrEnum):
    """How an item ended. `done` and `no_change` are successes."""

    DONE = "done"
    NO_CHANGE = "no_change"
    VERIFY_FAILED = "verify_failed"
    CONFLICT = "conflict"
    ERROR = "error"
    SKIPPED = "skipped"
    BUDGET = "budget"

    @property
    def succeeded(self) -> bool:
        """Whether nothing remains to be done."""
        return self in (State.DONE, State.NO_CHANGE)


@dataclass(frozen=True, slots=True)
class Spent:
    """What an item cost: tokens of the prompt, of those from a cache, sampled tokens; seconds."""

    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    turns: int = 0
    seconds: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Spent)))

    @property
    def prefilled_tokens(self) -> int:
        """Prompt tokens that had to be computed."""
        return self.input_tokens - self.cached_input_tokens


@dataclass(frozen=True, slots=True)
class ItemResult:
    """What became of an item in its own worktree.

    `patch` names its file in the batch's folder (of unverified work, too), `sha256` guards it; `where` and
    `output` are of the check that failed; `session` names the journal.
    """

    id: str
    state: State
    reason: str = ""
    patch: str | None = None
    sha256: str | None = None
    files: tuple[str, ...] = ()
    insertions: int = 0
    deletions: int = 0
    attempts: int = 0
    session: str | None = None
    answer: str = ""
    output: str = ""
    spent: Spent = field(default_factory=Spent)

    def to_json(self) -> dict[str, Any]:
        """The ledger's form; `from_json` is its inverse."""
        data = {f.name: getattr(self, f.name) for f in fields(self)}
        spent = {f.name: getattr(self.spent, f.name) for f in fields(Spent)}
        return {**data, "state": self.state.value, "files": list(self.files), "spent": spent}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read a record back. Raises `KeyError`, `TypeError`, `ValueError` for another shape."""
        known = {f.name for f in fields(cls)}
        kept = {name: value for name, value in data.items() if name in known}
        return cls(
            **{
                **kept,
                "state": State(data["state"]),
                "files": tuple(data["files"]),
                "spent": Spent(**data["spent"]),
            }
        )
