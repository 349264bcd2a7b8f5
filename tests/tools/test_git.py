"""The git tools: frozen texts, and repositories whose configuration tries to run something."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dsv4_tools.base import ToolContext, ToolError
from dsv4_tools.git_repository import Repository
from dsv4_tools.git_status import GitStatus, GitStatusArgs
from dsv4_tools.workspace import Workspace
from tests.tools.conftest import Call

Git = Callable[..., str]


def commit(git: Git, root: Path, name: str = "a.txt", text: str = "one\n", message: str = "first") -> None:
    (root / name).write_text(text)
    git("add", name)
    git("commit", "-qm", message)


async def test_not_a_repository(call: Call) -> None:
    for tool, arguments in (
        ("git_status", {}),
        ("git_diff", {}),
        ("git_log", {}),
        ("git_show", {"revision": "HEAD"}),
    ):
        assert (await call(tool, **arguments)).text == "Error: the workspace is not a git repository."


async def test_status(call: Call, git: Git, root: Path) -> None:
    assert (await call("git_status")).text == "On branch main\nClean."
    commit(git, root)
    (root / "a.txt").write_text("two\n")
    (root / "d").mkdir()
    (root / "d" / "ü b.txt").write_text("")
    assert (await call("git_status")).text == 'On branch main\n M a.txt\n?? "d/ü b.txt"'
    git("checkout", "-q", "--detach")
    assert (await call("git_status")).text.startswith(f"HEAD detached at {git('rev-parse', 'HEAD')[:7]}\n")


async def test_diff(call: Call, git: Git, root: Path) -> None:
    commit(git, root)
    assert (await call("git_diff")).text == "No changes."
    (root / "a.txt").write_text("two\n")
    text = (await call("git_diff")).text
    assert text.startswith("diff --git a/a.txt b/a.txt\n")
    assert text.endswith("@@ -1 +1 @@\n-one\n+two")
    assert (await call("git_diff", path="nope")).text == "No changes."
    assert (await call("git_diff", staged=True)).text == "No changes."
    git("add", "a.txt")
    assert (await call("git_diff", staged=True, path="a.txt")).text == text
    assert "outside" in (await call("git_diff", path="../x")).text


async def test_log_and_show(call: Call, git: Git, root: Path) -> None:
    assert (await call("git_log")).text == "Error: the repository has no commits yet."
    commit(git, root)
    commit(git, root, "b.txt", message="second")
    hashes = git("log", "--format=%H").split()
    assert (await call("git_log")).text == f"{hashes[0][:7]} second\n{hashes[1][:7]} first"
    assert (await call("git_log", limit=1)).text == f"{hashes[0][:7]} second"
    assert (await call("git_log", path="a.txt")).text == f"{hashes[1][:7]} first"
    shown = (await call("git_show", revision="HEAD~1")).text
    assert shown.startswith(f"commit {hashes[1]}\nAuthor: Ann <ann@example.org>\nDate:   ")
    assert "\n\nfirst\n" in shown
    assert shown.endswith("+one")


@pytest.mark.parametrize("revision", ["--output=x", "-p", "", "HEAD\n--x", "no-such", "--upload-pack=./evil"])
async def test_bad_revisions(call: Call, git: Git, root: Path, revision: str) -> None:
    commit(git, root)
    assert (await call("git_show", revision=revision)).text.startswith("Error: ")
    assert sorted(p.name for p in root.iterdir()) == [".git", "a.txt"]


async def test_commit(call: Call, git: Git, root: Path) -> None:
    (root / "a.txt").write_text("one\n")
    done = await call("git_commit", message="Add a\n\nWhy.")
    assert done.text == f"Committed {git('rev-parse', 'HEAD')[:7]}: Add a"
    assert git("log", "-1", "--format=%B").strip() == "Add a\n\nWhy."
    assert git("log", "-1", "--format=%an <%ae>") == "dsv4 <dsv4@localhost>\n"
    assert (await call("git_commit", message="again")).text == "Error: Nothing to commit."
    assert (await call("git_commit", message=" ")).text == "Error: message is empty."
    git("config", "user.name", "Eve")
    (root / "a.txt").unlink()
    await call("git_commit", message="Remove a")
    assert git("log", "-1", "--format=%an <%ae>").strip() == "Eve <dsv4@localhost>"


async def test_commit_of_paths_leaves_the_rest(call: Call, git: Git, root: Path) -> None:
    commit(git, root)
    commit(git, root, "gone.txt")
    (root / "staged.txt").write_text("s")
    git("add", "staged.txt")
    (root / "a.txt").write_text("two\n")
    (root / "*.txt").write_text("a name that looks like a pattern\n")
    (root / "gone.txt").unlink()
    done = await call("git_commit", message="-m is no option", paths=["a.txt", "gone.txt", "*.txt"])
    assert done.text.endswith(": -m is no option")
    assert git("show", "--name-status", "--format=").split() == ["A", "*.txt", "M", "a.txt", "D", "gone.txt"]
    assert (await call("git_status")).text == "On branch main\nA  staged.txt"
    assert (await call("git_commit", message="x", paths=["nope"])).text == "Error: nope does not exist."
    assert "outside" in (await call("git_commit", message="x", paths=["../x"])).text
    only = await call("git_commit", message="one path as a string", paths="staged.txt")
    assert only.text.startswith("Committed ")


async def test_commit_refuses_unresolved_conflicts(call: Call, git: Git, root: Path) -> None:
    commit(git, root)
    git("checkout", "-qb", "other")
    commit(git, root, text="theirs\n")
    git("checkout", "-q", "main")
    commit(git, root, text="ours\n")
    git("merge", "other", "--no-commit", "-s", "ours")
    git("merge", "--abort")
    with pytest.raises(Exception, match="merge"):
        git("merge", "other")
    assert "unresolved merge conflicts" in (await call("git_commit", message="x")).text


async def test_a_workspace_below_the_top(call: Call, git: Git, root: Path, context: ToolContext) -> None:
    commit(git, root)
    (root / "sub").mkdir()
    (root / "sub" / "x").write_text("x\n")
    (root / "other").write_text("x\n")
    inner = replace(context, workspace=Workspace(root / "sub"))
    assert (await GitStatus().run(GitStatusArgs(), inner)).text == "On branch main\n?? x"


@pytest.fixture
def evil(root: Path, tmp_path: Path) -> tuple[str, Path]:
    """A program that leaves a mark when it is run, and the mark."""
    mark = tmp_path / "PWNED"
    program = root / "evil.sh"
    program.write_text(f"#!/bin/sh\necho run >> '{mark}'\ncat\n")
    program.chmod(0o755)
    return str(program), mark


async def use_every_tool(call: Call, root: Path) -> list[str]:
    (root / "a.txt").write_text("changed\n")
    (root / "new.txt").write_text("new\n")
    calls = [
        await call("git_status"),
        await call("git_diff"),
        await call("git_diff", staged=True),
        await call("git_log"),
        await call("git_show", revision="HEAD"),
        await call("git_commit", message="x"),
        await call("git_commit", message="y", paths=["a.txt"]),
    ]
    return [result.text for result in calls]


@pytest.mark.parametrize(
    "settings",
    [
        {"core.fsmonitor": "EVIL"},
        {"core.hooksPath": "HOOKS"},
        {"diff.external": "EVIL"},
        {"diff.d.textconv": "EVIL"},
        {"diff.d.command": "EVIL"},
        {"filter.d.clean": "EVIL", "filter.d.smudge": "EVIL", "filter.d.required": "true"},
        {"filter.d.process": "EVIL"},
        {"core.pager": "EVIL", "pager.log": "EVIL", "pager.diff": "EVIL"},
        {"commit.gpgSign": "true", "gpg.program": "EVIL", "log.showSignature": "true"},
        {"core.editor": "EVIL", "alias.status": "!EVIL", "sequence.editor": "EVIL"},
        {"core.sshCommand": "EVIL", "core.gitProxy": "EVIL", "credential.helper": "!EVIL"},
    ],
    ids=lambda settings: next(iter(settings)),
)
async def test_nothing_of_the_repositorys_configuration_runs(
    call: Call, git: Git, root: Path, evil: tuple[str, Path], settings: dict[str, str]
) -> None:
    program, mark = evil
    commit(git, root)
    hooks = root / "hooks"
    hooks.mkdir()
    for name in (
        "pre-commit",
        "post-commit",
        "commit-msg",
        "prepare-commit-msg",
        "post-index-change",
        "pre-auto-gc",
    ):
        for folder in (hooks, root / ".git" / "hooks"):
            (folder / name).symlink_to(program)
    (root / ".gitattributes").write_text("*.txt diff=d filter=d\n")
    for key, value in settings.items():
        git("config", key, value.replace("EVIL", program).replace("HOOKS", str(hooks)))
    texts = await use_every_tool(call, root)
    assert not mark.exists()
    assert texts[0].startswith("On branch main\n")


async def test_the_probe_would_notice(git: Git, root: Path, evil: tuple[str, Path]) -> None:
    """The control: plain git does run the filter, so the tests above can fail."""
    program, mark = evil
    commit(git, root)
    (root / ".gitattributes").write_text("*.txt filter=d\n")
    git("config", "filter.d.clean", program)
    (root / "a.txt").write_text("changed\n")
    git("diff")
    assert mark.exists()


async def test_a_filtered_file_is_not_committed_raw(call: Call, git: Git, root: Path) -> None:
    commit(git, root)
    (root / ".gitattributes").write_text("*.bin filter=lfs\n")
    (root / "x.bin").write_text("large")
    assert (await call("git_commit", message="x")).text == (
        "Error: x.bin is stored through the Git filter lfs; commit it with shell."
    )


async def test_a_planted_bare_repository_is_not_used(
    call: Call, git: Git, root: Path, evil: tuple[str, Path], context: ToolContext
) -> None:
    program, mark = evil
    docs = root / "docs"
    git("init", "-q", "--bare", str(docs))
    with (docs / "config").open("a") as file:
        file.write(f"[core]\n\tbare = false\n\tworktree = ..\n\tfsmonitor = {program}\n")
    inner = replace(context, workspace=Workspace(docs))
    try:
        await GitStatus().run(GitStatusArgs(), inner)
    except ToolError as error:
        assert "repository" in error.message
    assert not mark.exists()


async def test_a_work_tree_elsewhere_is_refused(call: Call, git: Git, root: Path, tmp_path: Path) -> None:
    git("config", "core.worktree", str(tmp_path))
    assert "core.worktree" in (await call("git_status")).text


@pytest.mark.parametrize("form", ["file", "link", "worktree"])
async def test_a_planted_git_file_shows_and_changes_no_other_repository(
    call: Call, git: Git, root: Path, tmp_path: Path, form: str
) -> None:
    other = tmp_path / "private"
    git("init", "-q", str(other))
    (other / "secret").write_text("secret\n")
    git("-C", str(other), "add", "-A")
    git("-C", str(other), "commit", "-qm", "private work")
    git("-C", str(other), "worktree", "add", "-q", str(tmp_path / "tree"))
    shutil.rmtree(root / ".git")
    match form:
        case "file":
            (root / ".git").write_text(f"gitdir: {other}/.git\n")
        case "link":
            (root / ".git").symlink_to(other / ".git")
        case _:
            (root / ".git").write_text(f"gitdir: {other}/.git/worktrees/tree\n")
    for tool, arguments in (
        ("git_log", {}),
        ("git_show", {"revision": "HEAD"}),
        ("git_commit", {"message": "m"}),
    ):
        text = (await call(tool, **arguments)).text
        assert "another work tree's repository" in text
        assert "private work" not in text
    assert git("-C", str(other), "log", "--format=%s").split("\n")[0] == "private work"


async def test_worktrees_submodules_and_separate_git_folders_are_used(
    git: Git, root: Path, tmp_path: Path
) -> None:
    commit(git, root)
    git("worktree", "add", "-q", str(tmp_path / "tree"))
    git("init", "-q", "--separate-git-dir", str(tmp_path / "apart"), str(tmp_path / "work"))
    git("-c", "protocol.file.allow=always", "submodule", "add", "-q", str(root), "sub")
    for place in (tmp_path / "tree", tmp_path / "work", root / "sub"):
        assert Repository(Workspace(place)).prefix == ""


async def test_a_git_of_the_repository_is_not_run(
    call: Call, git: Git, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(git, root)
    trap = tmp_path / "ran"
    (root / "git").write_text(f"#!/bin/sh\ntouch {trap}\n")
    (root / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f".:{root}:{os.environ['PATH']}")
    assert "first" in (await call("git_log")).text
    assert not trap.exists()


async def test_git_variables_of_the_user_do_not_redirect(
    call: Call, git: Git, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(git, root)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", "/nowhere/evil")
    assert (await call("git_status")).text == "On branch main\nClean."


async def test_a_missing_object_fetches_nothing(
    call: Call, git: Git, root: Path, evil: tuple[str, Path]
) -> None:
    program, mark = evil
    commit(git, root)
    blob = git("rev-parse", "HEAD:a.txt").strip()
    (root / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    for key, value in {
        "core.repositoryFormatVersion": "1",
        "extensions.partialClone": "origin",
        "remote.origin.url": ".",
        "remote.origin.promisor": "true",
        "remote.origin.uploadpack": program,
        "protocol.file.allow": "always",
    }.items():
        git("config", key, value)
    (root / "a.txt").write_text("changed\n")
    assert (await call("git_diff")).text.startswith("Error: ")
    assert not mark.exists()


async def test_control_characters_in_subjects_are_removed(call: Call, git: Git, root: Path) -> None:
    commit(git, root, message="a\x1b]0;evil\x07b\x1b[2J")
    assert (await call("git_log")).text.endswith(" ab")
