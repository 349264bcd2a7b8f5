"""The ledger: what a batch is and every change of state, on disk before anything follows from it.

It has the session journal's form (one JSON object a line, numbered, each line synced). The first record holds
the plan, the base commits and all items with their values, so that a batch goes on as it began whatever has
happened to the files it was made from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from dsv4_agent.batch.checkouts import Base
from dsv4_agent.batch.integration import Integrated
from dsv4_agent.batch.items import Item
from dsv4_agent.batch.plan import Plan, PlanError, parse_plan
from dsv4_agent.batch.states import ItemResult, Spent, State
from dsv4_agent.session.journal import Contents, Journal, JournalError, Record, read_journal

LEDGER_NAME = "ledger.jsonl"
FORMAT = 1


@dataclass(slots=True)
class Progress:
    """What is on record: `results` of items in their own worktrees, then `integrated` and `delivered`.

    `spent` is what all of it has cost, also the results of items that were done again.
    """

    results: dict[str, ItemResult] = field(default_factory=dict)
    integrated: dict[str, Integrated] = field(default_factory=dict)
    delivered: dict[str, str] = field(default_factory=dict)
    spent: Spent = field(default_factory=Spent)
    ended: bool = False

    def add(self, result: ItemResult) -> None:
        """An item has ended in its own worktree."""
        self.results[result.id] = result
        self.spent += result.spent

    def redo(self, id: str) -> None:
        """An item's result counts no more; what it cost does."""
        self.results.pop(id, None)
        self.integrated.pop(id, None)


@dataclass(frozen=True, slots=True)
class Charter:
    """What a batch was begun with. `bases` are by repository, in the items' order."""

    plan: Plan
    directory: Path
    bases: Mapping[Path, Base]
    items: tuple[Item, ...]

    def to_json(self) -> dict[str, Any]:
        """The ledger's first record; `from_json` is its inverse."""
        return {
            "format": FORMAT,
            "plan": self.plan.model_dump(mode="json", exclude_defaults=True),
            "directory": str(self.directory),
            "bases": [[str(base.repository), base.commit, base.branch] for base in self.bases.values()],
            "items": [
                {"id": item.id, "values": dict(item.values), "repository": str(item.repository)}
                for item in self.items
            ],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], where: Path) -> Self:
        """Read the first record. Raises `PlanError` for one of another version."""
        if data.get("format") != FORMAT:
            raise PlanError(f"{where} is of another version of dsv4; finish it with that one")
        bases = [Base(Path(top), commit, branch) for top, commit, branch in data["bases"]]
        items = tuple(
            Item(index, row["id"], _values(row["values"]), Path(row["repository"]))
            for index, row in enumerate(data["items"])
        )
        plan = parse_plan(data["plan"], str(where))
        return cls(plan, Path(data["directory"]), {base.repository: base for base in bases}, items)


class Ledger:
    """A batch's ledger, open for appending by one process. All methods raise `JournalError`."""

    def __init__(self, journal: Journal, charter: Charter, progress: Progress) -> None:
        self._journal = journal
        self.charter = charter
        self.progress = progress

    @classmethod
    def begin(cls, folder: Path, charter: Charter) -> Self:
        """Start a ledger in a new folder."""
        journal = Journal.create(folder / LEDGER_NAME)
        journal.write("batch", charter.to_json(), sync=True)
        return cls(journal, charter, Progress())

    @classmethod
    def resume(cls, folder: Path) -> Self:
        """Go on with a ledger. Raises `PlanError` for one that never got so far as its first record."""
        journal, contents = Journal.reopen(folder / LEDGER_NAME)
        try:
            charter, progress = _read(contents, folder)
        except BaseException:
            journal.close()
            raise
        return cls(journal, charter, progress)

    def started(self, item: Item) -> None:
        """An item's worker begins, or goes on after a crash."""
        self._journal.write("item.started", {"id": item.id}, sync=True)

    def ended(self, result: ItemResult) -> None:
        """An item's worker is done."""
        self._journal.write("item.ended", result.to_json(), sync=True)
        self.progress.add(result)

    def redone(self, id: str) -> None:
        """An item is to be done again on what is integrated by now: its result counts no more."""
        self._journal.write("item.redone", {"id": id}, sync=True)
        self.progress.redo(id)

    def integrated(self, outcome: Integrated) -> None:
        """What integrating an item came to."""
        self._journal.write("item.integrated", _outcome_json(outcome), sync=True)
        self.progress.integrated[outcome.id] = outcome

    def integration_lost(self, ids: Sequence[str]) -> None:
        """The repository with these items' commits is gone: they are to be integrated again."""
        self._journal.write("integration.lost", {"ids": list(ids)}, sync=True)
        for id in ids:
            self.progress.integrated.pop(id, None)

    def delivered(self, what: str, where: str) -> None:
        """A branch or a file was handed over."""
        self._journal.write("delivered", {"what": what, "where": where}, sync=True)
        self.progress.delivered[what] = where

    def end(self, code: int) -> None:
        """Nothing remains to be done."""
        self._journal.write("batch.ended", {"exit_code": code}, sync=True)
        self.progress.ended = True

    def close(self) -> None:
        """Close the file; safe to call twice."""
        self._journal.close()


def read_ledger(folder: Path) -> tuple[Charter, Progress]:
    """Look at a batch without touching it. Raises `JournalError` and `PlanError`."""
    return _read(read_journal(folder / LEDGER_NAME), folder)


def _read(contents: Contents, folder: Path) -> tuple[Charter, Progress]:
    records = contents.records
    if not records or records[0].kind != "batch":
        raise PlanError(f"{folder} holds no batch that had begun; start a new one")
    charter = Charter.from_json(records[0].data, folder)
    progress = Progress()
    try:
        for record in records[1:]:
            _replay(record, progress)
    except (KeyError, TypeError, ValueError) as error:
        raise JournalError(f"{folder / LEDGER_NAME} is damaged: {error!r}; start a new batch") from error
    return charter, progress


def _replay(record: Record, progress: Progress) -> None:
    data: Mapping[str, Any] = record.data
    match record.kind:
        case "item.ended":
            progress.add(ItemResult.from_json(data))
        case "item.redone":
            progress.redo(data["id"])
        case "integration.lost":
            for id in data["ids"]:
                progress.integrated.pop(id, None)
        case "item.integrated":
            progress.integrated[data["id"]] = Integrated(
                data["id"], data["commit"], State(data["state"]), data["reason"], data["output"]
            )
        case "delivered":
            progress.delivered[data["what"]] = data["where"]
        case "batch.ended":
            progress.ended = True


def _outcome_json(outcome: Integrated) -> dict[str, Any]:
    return {
        "id": outcome.id,
        "commit": outcome.commit,
        "state": outcome.state.value,
        "reason": outcome.reason,
        "output": outcome.output,
    }


def _values(row: Mapping[str, Any]) -> dict[str, str | tuple[str, ...]]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}


def final_states(items: Sequence[Item], progress: Progress) -> dict[str, ItemResult]:
    """How each item ended, its integration included; those without a record are `skipped`."""
    final: dict[str, ItemResult] = {}
    for item in items:
        result = progress.results.get(item.id)
        if result is None:
            final[item.id] = ItemResult(item.id, State.SKIPPED, "the batch ended before it")
            continue
        outcome = progress.integrated.get(item.id)
        final[item.id] = result if outcome is None else _with_outcome(result, outcome)
    return final


def _with_outcome(result: ItemResult, outcome: Integrated) -> ItemResult:
    reason = outcome.reason or result.reason
    return replace(result, state=outcome.state, reason=reason, output=outcome.output or result.output)
