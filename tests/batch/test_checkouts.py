"""The batch's own repository: the user's is read, and written to only when something is handed over."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dsv4_agent.batch.checkouts import Base, Checkouts, branch_is_valid
from dsv4_agent.batch.plan import PlanError
from dsv4_agent.batch.trees import Trees
from tests.batch.conftest import git


def everything(folder: Path) -> dict[str, str]:
    """Every file below a folder with its content's hash."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_nothing_in_the_users_repository_changes(
    repository: Path, checkouts: Checkouts, trees_of: Callable[[str], Trees]
) -> None:
    before = everything(repository)
    trees = trees_of("00001")
    (trees.worktree / "a.py").write_text("changed\n")
    git(trees.worktree, "commit", "-qam", "inside")
    trees.take()
    checkouts.remove("00001")
    assert everything(repository) == before
    checkouts.close()
    assert everything(repository) == before


def test_a_worktree_is_the_commit_and_no_program_of_the_repository_runs(
    repository: Path, tmp_path: Path
) -> None:
    trap = tmp_path / "trap"
    hook = repository / ".git" / "hooks" / "post-checkout"
    hook.write_text(f"#!/bin/sh\ntouch {trap}\n")
    hook.chmod(0o755)
    git(repository, "config", "filter.evil.smudge", f"touch {trap}; cat")
    git(repository, "config", "filter.evil.clean", f"touch {trap}; cat")
    (repository / ".gitattributes").write_text("*.py filter=evil\n")
    git(repository, "-c", "filter.evil.clean=cat", "add", ".gitattributes")
    git(repository, "commit", "-qm", "attributes")
    trap.unlink(missing_ok=True)
    folder = tmp_path / "batch2"
    folder.mkdir()
    checkouts = Checkouts(Base.of(repository), folder)
    checkouts.prepare()
    path = checkouts.worktree("00000")
    trees = Trees(path, checkouts.git_folder("00000"), folder / "index")
    trees.take()
    assert (path / "b.py").read_text() == (repository / "b.py").read_text()
    assert not trap.exists()


def test_looking_for_dirt_and_handing_over_run_no_program_of_the_repository(
    repository: Path, checkouts: Checkouts, tmp_path: Path
) -> None:
    trap = tmp_path / "trap"
    (repository / ".gitattributes").write_text("*.py filter=a=b\n")
    git(repository, "add", ".gitattributes")
    git(repository, "commit", "-qm", "attributes")
    for key in ("filter.a=b.clean", "core.fsmonitor", "core.alternateRefsCommand", "filter.a=b.process"):
        git(repository, "config", key, f"touch {trap}; cat")
    git(repository, "config", "filter.a=b.required", "true")
    (tmp_path / "more" / "objects").mkdir(parents=True)
    (repository / ".git" / "objects" / "info").mkdir(exist_ok=True)
    (repository / ".git" / "objects" / "info" / "alternates").write_text(f"{tmp_path}/more/objects\n")
    for path in repository.glob("*.py"):
        os.utime(path, (1, 1))
    assert not Base.of(repository).is_dirty()
    commit = checkouts.commit_of(git(repository, "rev-parse", "HEAD~^{tree}"), checkouts.base.commit, "new")
    checkouts.hand_over(commit, "made")
    assert git(repository, "rev-parse", "made") == commit
    assert not trap.exists()


def test_worktrees_are_made_anew(checkouts: Checkouts) -> None:
    path = checkouts.worktree("00000")
    (path / "junk").mkdir()
    (path / "junk" / "file").touch()
    (path / "junk").chmod(0o500)
    assert not (checkouts.worktree("00000") / "junk").exists()


def test_the_history_of_a_shallow_clone_ends_where_it_does_there(repository: Path, tmp_path: Path) -> None:
    (repository / "a.py").write_text("pass\n")
    git(repository, "commit", "-qam", "second")
    cut = tmp_path / "cut"
    git(tmp_path, "clone", "-q", "--depth", "1", repository.as_uri(), str(cut))
    (tmp_path / "batch3").mkdir()
    checkouts = Checkouts(Base.of(cut), tmp_path / "batch3")
    checkouts.prepare()
    path = checkouts.worktree("00000")
    assert git(path, "log", "--format=%s") == "second"
    (path / "new.py").write_text("x = 1\n")
    trees = Trees(path, checkouts.git_folder("00000"), checkouts.folder / "index")
    commit = checkouts.commit_of(trees.take(), checkouts.base.commit, "Add\n")
    checkouts.hand_over(commit, "dsv4/batch")
    assert git(cut, "log", "--format=%s", "dsv4/batch").splitlines() == ["Add", "second"]
    assert git(cut, "rev-parse", "--is-shallow-repository") == "true"


def test_handing_over_makes_a_branch(repository: Path, checkouts: Checkouts) -> None:
    path = checkouts.worktree("00000")
    trees = Trees(path, checkouts.git_folder("00000"), checkouts.folder / "index")
    (path / "new.py").write_text("x = 1\n")
    commit = checkouts.commit_of(trees.take(), checkouts.base.commit, "Add\n\nItem: x\n")
    status = git(repository, "status", "--porcelain")
    checkouts.hand_over(commit, "dsv4/batch")
    checkouts.close()
    assert git(repository, "show", "dsv4/batch:new.py") == "x = 1"
    assert git(repository, "log", "-1", "--format=%B", "dsv4/batch") == "Add\n\nItem: x"
    assert git(repository, "status", "--porcelain") == status
    assert git(repository, "symbolic-ref", "HEAD") == "refs/heads/main"
    git(repository, "fsck", "--strict")


def test_a_branch_that_exists_or_stands_in_the_way_is_known(repository: Path) -> None:
    git(repository, "branch", "dsv4/batch")
    git(repository, "branch", "plain")
    base = Base.of(repository)
    assert base.branch_in_the_way("dsv4/batch") == "dsv4/batch"
    assert base.branch_in_the_way("dsv4") == "dsv4/batch"
    assert base.branch_in_the_way("plain/below") == "plain"
    assert base.branch_in_the_way("other") is None


@pytest.mark.parametrize(
    ("name", "good"), [("a/b", True), ("a..b", False), ("-x", False), ("a b", False), ("x.lock", False)]
)
def test_names_of_branches(name: str, good: bool) -> None:
    assert branch_is_valid(name) is good


def test_what_a_batch_can_start_from(repository: Path, tmp_path: Path) -> None:
    assert Base.of(repository).branch == "main"
    with pytest.raises(PlanError, match="is not a git repository"):
        Base.of(tmp_path)
    with pytest.raises(PlanError, match="is no commit"):
        Base.of(repository, "nowhere")
    with pytest.raises(PlanError, match="is no commit"):
        Base.of(repository, "--all")
    git(repository, "checkout", "-q", "--detach")
    assert Base.of(repository).branch is None
    empty = tmp_path / "empty"
    empty.mkdir()
    git(empty, "init", "-q")
    with pytest.raises(PlanError, match="has no commits"):
        Base.of(empty)


def test_submodules_lfs_and_dirt_are_seen(repository: Path, tmp_path: Path) -> None:
    base = Base.of(repository)
    assert base.submodules() == ()
    assert not base.uses_lfs()
    assert not base.is_dirty()
    git(repository, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(repository), "sub")
    (repository / ".gitattributes").write_text("*.bin filter=lfs diff=lfs merge=lfs -text\n")
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "more")
    (repository / "a.py").write_text("dirty\n")
    base = Base.of(repository)
    assert base.submodules() == ("sub",)
    assert "sub" not in base.files()
    assert base.uses_lfs()
    assert base.is_dirty()


def test_a_worktree_that_cannot_be_made_leaves_nothing(checkouts: Checkouts) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    checkouts.path("x").parent.chmod(0o500)
    from dsv4_agent.workbench.failures import RunFailure

    with pytest.raises(RunFailure, match="git worktree failed"):
        checkouts.worktree("00000")
    checkouts.path("x").parent.chmod(0o700)
    assert not checkouts.path("00000").exists()
