"""Verified patches become one history, in the plan's order; what doesn't fit is reported, never forced."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dsv4_agent.batch.checkouts import Checkouts
from dsv4_agent.batch.commands import Commands
from dsv4_agent.batch.states import ItemResult, State
from dsv4_agent.batch.trees import Trees
from dsv4_agent.workbench.exit_codes import OwnSubtype
from dsv4_agent.workbench.failures import RunFailure

WORKTREE = "integration"
"""Name of the worktree; an item can't have it, for theirs are numbered."""


@dataclass(frozen=True, slots=True)
class Integrated:
    """What came of one item: `commit` when it is in; else the state it ends with and why."""

    id: str
    commit: str | None
    state: State
    reason: str = ""
    output: str = ""


class Integration:
    """Takes patches one after the other into its own worktree, which is at `head` when it begins."""

    def __init__(self, checkouts: Checkouts, commands: Commands, trees: Trees, head: str) -> None:
        self.head = head
        self._checkouts = checkouts
        self._commands = commands
        self._trees = trees

    async def take(
        self, item: ItemResult, patch: bytes, message: str, verify: Sequence[str], seconds: float
    ) -> Integrated:
        """Apply an item's patch, verify what came of it, commit it. Raises `RunFailure` (54)."""
        if hashlib.sha256(patch).hexdigest() != item.sha256:
            raise RunFailure(
                OwnSubtype.TOOLS,
                f"the patch of item {item.id} is not the one that was verified",
                "Do the item again: remove its record, or start a new batch.",
            )
        tree = self._trees.applied(self.head, patch)
        before = self._trees.take()
        conflicts = tree if isinstance(tree, tuple) else self._trees.apply(patch)
        if isinstance(tree, tuple) or conflicts:
            return Integrated(item.id, None, State.CONFLICT, f"conflict in {_shown(conflicts)}")
        after = self._trees.take()
        outcome = await self._commands.run(verify, seconds)
        if not outcome.ok:
            self._trees.restore(before)
            reason = f"after integration {outcome.reason()}"
            return Integrated(item.id, None, State.VERIFY_FAILED, reason, outcome.output)
        self._trees.restore(after)  # a check may have changed files
        if after == before:
            return Integrated(item.id, None, State.NO_CHANGE, "earlier items did the same")
        # What setup left in the worktree is no part of the commit.
        self.head = self._checkouts.commit_of(tree, self.head, message)
        return Integrated(item.id, self.head, State.DONE)


def read_patch(folder: Path, item: ItemResult) -> bytes:
    """The patch of an item. Raises `RunFailure` (54)."""
    assert item.patch is not None, "only items with a patch are integrated"
    try:
        return (folder / item.patch).read_bytes()
    except OSError as error:
        raise RunFailure(
            OwnSubtype.TOOLS, f"the patch {item.patch} can't be read: {error.strerror}", "Start a new batch."
        ) from error


def _shown(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return ", ".join(paths[:3]) + more
