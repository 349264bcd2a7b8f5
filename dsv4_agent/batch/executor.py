"""The interface of what does the items: processes on this machine, or workers on others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from dsv4_agent.batch.checkouts import Checkouts
from dsv4_agent.batch.items import Item
from dsv4_agent.batch.job import Job
from dsv4_agent.batch.states import ItemResult


@dataclass(frozen=True, slots=True)
class ItemProgress:
    """A line about what an item is at."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Assignment:
    """An item to be done: its job, whose `worktree` and `git` are where `checkouts` puts them.

    `commit` is what it starts from. `resumes` says that an earlier worker may have begun.
    """

    item: Item
    job: Job
    checkouts: Checkouts
    name: str
    commit: str
    resumes: bool = False


class Executor(Protocol):
    """Does items; called for several at once."""

    def run(self, assignment: Assignment) -> AsyncIterator[ItemProgress | ItemResult]:
        """Do one item: any number of progress lines, then its result, last.

        What goes wrong with an item is a result, too; `RunFailure` ends the batch. Closing the iterator
        stops the work at once. On return the item's folder holds its patch.
        """
        ...

    async def close(self) -> None:
        """End all workers; safe to call twice."""
        ...
