"""What a batch says while it runs; reports and screens only listen."""

from __future__ import annotations

from dataclasses import dataclass

from dsv4_agent.batch.executor import ItemProgress
from dsv4_agent.batch.integration import Integrated
from dsv4_agent.batch.states import ItemResult, Spent


@dataclass(frozen=True, slots=True)
class BatchStarted:
    """Always first. `finished` items are on record from an earlier process."""

    run: str
    items: int
    finished: int
    jobs: int


@dataclass(frozen=True, slots=True)
class ItemStarted:
    """A worker begins with an item, or goes on with it."""

    id: str
    resumed: bool


@dataclass(frozen=True, slots=True)
class ItemEnded:
    """An item is done in its own worktree; `done` still has to be integrated."""

    result: ItemResult


@dataclass(frozen=True, slots=True)
class ItemIntegrated:
    """What integrating an item came to."""

    outcome: Integrated


@dataclass(frozen=True, slots=True)
class Delivered:
    """Something was handed over: `what` is `patches` (a folder) or `branch`."""

    what: str
    where: str


@dataclass(frozen=True, slots=True)
class BatchEnded:
    """Always last. `results` are final and in the plan's order; `seconds` are of this process."""

    run: str
    results: tuple[ItemResult, ...]
    spent: Spent
    seconds: float
    failed: bool


BatchEvent = BatchStarted | ItemStarted | ItemProgress | ItemEnded | ItemIntegrated | Delivered | BatchEnded
