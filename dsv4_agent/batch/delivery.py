"""What a batch hands over: patch files always, and a branch, commits or a branch an item as the plan says."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from dsv4_agent.batch.checkouts import Checkouts
from dsv4_agent.batch.choices import Delivery
from dsv4_agent.batch.integration import WORKTREE
from dsv4_agent.batch.items import Item
from dsv4_agent.batch.ledger import Ledger
from dsv4_agent.batch.naming import branch_of, joined_message, message_of, with_trailers
from dsv4_agent.batch.runs import RunFolder
from dsv4_agent.batch.states import ItemResult, State
from dsv4_agent.batch.trees import Trees
from dsv4_agent.workbench.exit_codes import OwnSubtype
from dsv4_agent.workbench.failures import RunFailure


def copy_patches(run: RunFolder, items: Mapping[str, Item], results: Mapping[str, ItemResult]) -> Path:
    """Put every item's patch into `patches/`, named by order, id and state; returns that folder.

    Raises `RunFailure` (54).
    """
    folder = run.path / "patches"
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        for id, result in results.items():
            if result.patch is not None:
                mark = "" if result.state is State.DONE else f".{result.state.value}"
                name = f"{items[id].index + 1:04d}-{id}{mark}.patch"
                shutil.copyfile(run.path / result.patch, folder / name)
    except OSError as error:
        cause = f"the patches can't be written to {folder}: {error.strerror}"
        raise RunFailure(OwnSubtype.TOOLS, cause, "Free space.") from error
    return folder


def deliver_branches(
    run: RunFolder,
    ledger: Ledger,
    checkouts: Checkouts,
    items: list[Item],
    results: Mapping[str, ItemResult],
    head: str,
) -> Iterator[str]:
    """Hand the integrated items of one repository over; yields the branches made. Raises `RunFailure` (54).

    What an earlier process handed over is not made again.
    """
    plan = ledger.charter.plan
    done = [item for item in items if results[item.id].state is State.DONE]
    if not done:
        return
    match plan.deliver:
        case Delivery.PATCHES:
            return
        case Delivery.COMMITS:
            wanted = [(branch_of(plan, None), head)]
        case Delivery.BRANCH:
            message = joined_message(plan, run.id, done)
            wanted = [(branch_of(plan, None), _squashed(checkouts, head, message))]
        case Delivery.BRANCHES:
            wanted = [(branch_of(plan, item), _alone(run, checkouts, ledger, item, results)) for item in done]
    for branch, commit in wanted:
        key = f"{checkouts.base.repository}:{branch}"
        if key not in ledger.progress.delivered:
            checkouts.hand_over(commit, branch)
            ledger.delivered(key, commit)
        yield branch


def _squashed(checkouts: Checkouts, head: str, message: str) -> str:
    return checkouts.commit_of(f"{head}^{{tree}}", checkouts.base.commit, message)


def _alone(
    run: RunFolder, checkouts: Checkouts, ledger: Ledger, item: Item, results: Mapping[str, ItemResult]
) -> str:
    """The item's own commit on the base, as it was verified in its worktree."""
    result = results[item.id]
    plan = ledger.charter.plan
    path = checkouts.worktree(WORKTREE)
    trees = Trees(path, checkouts.git_folder(WORKTREE), checkouts.folder / "delivery.index")
    assert result.patch is not None
    if conflicts := trees.apply((run.path / result.patch).read_bytes()):
        raise RunFailure(OwnSubtype.TOOLS, f"the patch of item {item.id} no longer applies to {conflicts[0]}")
    message = with_trailers(message_of(plan, item), plan, run.id, item, result.session)
    return checkouts.commit_of(trees.take(), checkouts.base.commit, message)
