from __future__ import annotations

import os
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from dsv4_tools.base import ToolContext, ToolError
from dsv4_tools.registry import default_tools
from dsv4_tools.sandbox import Network, Policy, SandboxUnavailable, choose
from dsv4_tools.sandbox.bubblewrap import Bubblewrap, _trial
from dsv4_tools.sandbox.direct import Direct
from dsv4_tools.sandbox.git_folders import linked_git
from dsv4_tools.shell import Shell, ShellArgs
from tests.tools.conftest import Git

EMPTY = {"PATH": "/nowhere"}


def test_off_is_direct(root: Path) -> None:
    sandbox = choose("off", explicit=True, workspace=root, environment=EMPTY)
    assert (sandbox.effective, sandbox.network, sandbox.degraded) == ("off", Network.ON, False)


def test_an_explicit_request_fails_with_a_remedy(root: Path) -> None:
    with pytest.raises(SandboxUnavailable) as caught:
        choose("workspace-write", explicit=True, workspace=root, environment=EMPTY)
    assert "bwrap" in caught.value.cause
    assert "--sandbox off" in caught.value.remedy


def test_the_default_degrades_and_says_so(root: Path) -> None:
    sandbox = choose(None, explicit=False, workspace=root, environment=EMPTY)
    assert sandbox.degraded
    assert sandbox.reason == "bubblewrap (bwrap) is not installed."
    assert (sandbox.name, sandbox.effective, sandbox.policy) == ("direct", "off", Policy.WORKSPACE_WRITE)


def test_a_bwrap_that_does_not_work_is_not_used(root: Path, tmp_path: Path) -> None:
    fake = tmp_path / "bin" / "bwrap"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho 'No permissions to create namespace' >&2\nexit 1\n")
    fake.chmod(0o755)
    with pytest.raises(SandboxUnavailable, match="No permissions"):
        choose(
            "read-only", explicit=True, workspace=root, environment={"PATH": f"{fake.parent}:/usr/bin:/bin"}
        )


def test_a_bwrap_inside_the_workspace_is_not_used(root: Path) -> None:
    (root / "bwrap").write_text("#!/bin/sh\nexit 0\n")
    (root / "bwrap").chmod(0o755)
    assert choose(None, False, workspace=root, environment={"PATH": str(root)}).name == "direct"


def test_direct_changes_nothing(root: Path) -> None:
    wrapped = Direct().wrap(["a", "b"], workspace=root, environment={"X": "1"})
    assert (wrapped.argv, wrapped.environment) == (("a", "b"), {"X": "1"})


def test_a_planted_git_file_opens_no_folder(root: Path, tmp_path: Path) -> None:
    target = tmp_path / "home" / ".ssh"
    target.mkdir(parents=True)
    (root / ".git").write_text(f"gitdir: {target}\n")
    assert linked_git(root / ".git") is None
    line = Bubblewrap("bwrap", Policy.WORKSPACE_WRITE).wrap(["true"], workspace=root, environment={}).argv
    assert str(target) not in line


def test_a_real_worktree_can_use_its_repository(git: Git, root: Path, tmp_path: Path) -> None:
    git("commit", "--allow-empty", "-qm", "x")
    git("worktree", "add", "-q", str(tmp_path / "tree"))
    assert linked_git(tmp_path / "tree" / ".git") == root / ".git"


def test_a_worktree_that_is_being_made_keeps_its_commondir(git: Git, root: Path) -> None:
    git("commit", "--allow-empty", "-qm", "x")
    half = root / ".git" / "worktrees" / "half"
    half.mkdir(parents=True)
    (half / "HEAD").write_text("0" * 40)
    wrapped = Bubblewrap("bwrap", Policy.WORKSPACE_WRITE).wrap(["x"], workspace=root, environment={})
    (half / "commondir").write_text("../..\n")
    assert wrapped.settle() is None
    assert (half / "commondir").exists()


def test_a_path_that_names_the_home_folder_does_not_bring_it_back(root: Path, tmp_path: Path) -> None:
    home, link = tmp_path / "home", tmp_path / "linked"
    (home / "bin").mkdir(parents=True)
    (home / "tools" / "bin").mkdir(parents=True)
    link.symlink_to(home)
    for shown in (home, link):
        listed = ("/", "/tmp", "/run", home, f"{home}/", tmp_path, link, f"{home}/bin", f"{home}/tools/bin")
        environment = {"HOME": str(shown), "PATH": ":".join(map(str, listed))}
        line = Bubblewrap("bwrap", Policy.WORKSPACE_WRITE).wrap(
            ["x"], workspace=root, environment=environment
        )
        bound = {path for option, path in pairwise(line.argv) if option == "--ro-bind"}
        assert bound.isdisjoint({"/", "/tmp", "/run", str(home), str(tmp_path), str(link)})
        assert f"{home}/bin" in bound


def test_closed_folders_are_empty_where_the_workspace_holds_them(root: Path, tmp_path: Path) -> None:
    (root / "there").mkdir()
    closed = (root / "there", root / "later", tmp_path / "outside", root)
    for policy, hidden in (
        (Policy.WORKSPACE_WRITE, [root / "there", root / "later"]),
        (Policy.READ_ONLY, [root / "there"]),
    ):
        line = Bubblewrap("bwrap", policy, closed=closed).wrap(["true"], workspace=root, environment={}).argv
        assert [path for path in closed if ("--tmpfs", str(path)) in pairwise(line)] == hidden


_PROGRAM = shutil.which("bwrap")
works = pytest.mark.skipif(
    _PROGRAM is None or _trial(_PROGRAM) is not None, reason="bubblewrap does not work on this machine"
)


async def run(context: ToolContext, policy: Policy, command: str) -> str:
    environment = {**context.environment, "PATH": os.environ["PATH"]}
    sandbox = choose(policy, explicit=True, workspace=context.workspace.root, environment=environment)
    used = replace(context, sandbox=sandbox, environment=environment)
    return (await Shell().run(ShellArgs(command=command), used)).text


@works
async def test_bubblewrap_lets_work_happen(context: ToolContext, git: Git, root: Path) -> None:
    assert await run(context, Policy.WORKSPACE_WRITE, "echo x > f && git add f && cat f") == "x\n[exit 0]"
    assert git("status", "--porcelain") == "A  f\n"
    assert (await run(context, Policy.WORKSPACE_WRITE, "exit 7")) == "[exit 7]"


@works
@pytest.mark.parametrize(
    "command",
    [
        "echo x > /etc/escaped",
        "echo x > .git/hooks/pre-commit",
        "echo x >> .git/config",
        "mv .git elsewhere",
        "cat ../secret",
        "cat ~/secret",
        "exec 3<>/dev/tcp/127.0.0.1/22",
        "unshare -U true",
        "kill -0 $OUTER",
    ],
)
async def test_bubblewrap_stops(
    context: ToolContext, git: Git, root: Path, tmp_path: Path, command: str
) -> None:
    (tmp_path / "secret").write_text("secret")
    text = await run(context, Policy.WORKSPACE_WRITE, command.replace("$OUTER", str(os.getpid())))
    assert not text.endswith("[exit 0]")
    assert git("config", "--get", "core.bare") == "false\n"
    assert not (root / ".git" / "hooks" / "pre-commit").exists()


@works
async def test_what_is_written_beside_the_workspace_is_gone(context: ToolContext, tmp_path: Path) -> None:
    await run(
        context, Policy.WORKSPACE_WRITE, "echo x > ../escaped; echo x > /tmp/escaped; echo x > ~/escaped"
    )
    assert not any(folder.joinpath("escaped").exists() for folder in (tmp_path, Path("/tmp"), Path.home()))


@works
async def test_read_only_writes_nothing(context: ToolContext, root: Path) -> None:
    assert not (await run(context, Policy.READ_ONLY, "echo x > f")).endswith("[exit 0]")
    assert list(root.iterdir()) == []


@works
async def test_missing_hooks_cannot_be_planted(context: ToolContext, git: Git, root: Path) -> None:
    shutil.rmtree(root / ".git" / "hooks")
    await run(context, Policy.WORKSPACE_WRITE, "mkdir -p .git/hooks; echo x > .git/hooks/pre-commit")
    assert not (root / ".git" / "hooks" / "pre-commit").exists()


async def test_file_tools_obey_a_read_only_session(context: ToolContext, git: Git, root: Path) -> None:
    (root / "f").write_text("a\n")
    reading = replace(context, sandbox=Direct(policy=Policy.READ_ONLY))
    tools = default_tools()
    for name, arguments in (
        ("write", {"path": "f", "content": "b"}),
        ("edit", {"path": "f", "old_string": "a", "new_string": "b"}),
        ("git_commit", {"message": "m"}),
    ):
        with pytest.raises(ToolError, match="read-only"):
            await tools[name].run(tools[name].Args.model_validate(arguments), reading)
    assert (await tools["read"].run(tools["read"].Args.model_validate({"path": "f"}), reading)).text == "1\ta"
    assert git("status", "--porcelain") == "?? f\n"


@works
async def test_hooks_behind_alinked_git_folder_are_protected(
    context: ToolContext, git: Git, root: Path
) -> None:
    (root / ".git").rename(root / "real")
    (root / ".git").symlink_to("real")
    for hooks in (".git/hooks", "real/hooks"):
        await run(context, Policy.WORKSPACE_WRITE, f"echo x > {hooks}/pre-commit")
    assert not (root / "real" / "hooks" / "pre-commit").exists()


@works
async def test_git_can_not_be_sent_to_another_configuration(
    context: ToolContext, git: Git, root: Path, tmp_path: Path
) -> None:
    """By commondir, by config.worktree, or by the folders of submodules and of other worktrees."""
    trap = tmp_path / "ran"
    git("commit", "--allow-empty", "-qm", "x")
    git("worktree", "add", "-q", str(tmp_path / "tree"))
    (root / ".git" / "modules" / "a").mkdir(parents=True)
    git("init", "-q", "--separate-git-dir", str(root / ".git" / "modules" / "a" / "b"), str(root / "b"))
    git("config", "extensions.worktreeConfig", "true")
    evil = f'[core]\\n\\tfsmonitor = "touch {trap}; false"\\n'
    text = await run(
        context,
        Policy.WORKSPACE_WRITE,
        f"printf '{evil}' | tee .git/config.worktree .git/modules/a/b/config"
        " .git/worktrees/tree/config.worktree;"
        "echo x > .git/modules/a/b/hooks/pre-commit; ln -s ../../evil .git/modules/a/b/commondir;"
        f"cp -r .git evil; printf '{evil}' > evil/config; cp -r evil .git/evil;"
        "echo ../../../evil > .git/worktrees/tree/commondir; echo evil > .git/commondir",
    )
    assert "[removed .git/commondir, b/commondir: it would make Git read another configuration]" in text
    git("status")
    git("-C", "b", "status")
    git("-C", str(tmp_path / "tree"), "status")
    assert not trap.exists()
    assert not (root / ".git" / "modules" / "a" / "b" / "hooks" / "pre-commit").exists()
    assert (
        await run(context, Policy.WORKSPACE_WRITE, "echo y > f; git add f; git -C b status -s") == "[exit 0]"
    )
