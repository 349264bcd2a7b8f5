"""Removing what batches left behind."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from dsv4_agent.batch.ledger import read_ledger
from dsv4_agent.batch.plan import PlanError
from dsv4_agent.batch.runs import RunFolder, all_runs
from dsv4_agent.batch.strays import end_strays
from dsv4_agent.session.journal import JournalError


def clean_up(*, unfinished: bool, everything: bool) -> tuple[list[str], list[str]]:
    """Remove worktrees of ended batches (of unfinished ones where asked); what was removed, what failed.

    A running batch is left alone. Patches, journals and the ledger stay unless `everything`.
    """
    removed: list[str] = []
    failed: list[str] = []
    for run in all_runs():
        if run.is_running():
            continue
        ended = _has_ended(run)
        targets = [run.path / "repositories"] if ended or unfinished else []
        targets += [run.path] if everything and (ended or unfinished) else []
        for target in targets:
            if target.exists():
                end_strays(target)
                _remove(target)
                (failed if target.exists() else removed).append(str(target))
    return removed, [f"{path} could not be removed: check its rights" for path in failed]


def _has_ended(run: RunFolder) -> bool:
    try:
        return read_ledger(run.path)[1].ended
    except (PlanError, JournalError):
        return False


def _remove(path: Path) -> None:
    """Remove a tree, also where a command took the rights of folders away."""
    for folder, names, _ in os.walk(path):
        for name in names:
            inner = Path(folder) / name
            if not inner.is_symlink():
                inner.chmod(0o700)
    shutil.rmtree(path, ignore_errors=True)
