from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from dsv4_tools.base import ToolError
from dsv4_tools.walk import files_under
from dsv4_tools.workspace import Workspace, is_git_name


@pytest.fixture
def workspace(root: Path) -> Workspace:
    return Workspace(root)


def test_closed_folders_are_shut_however_they_are_named(tmp_path: Path) -> None:
    own = tmp_path / "config" / "dsv4"
    spill = own / "spilled"
    spill.mkdir(parents=True)
    (own / "key").write_text("k")
    (spill / "out.txt").write_text("o")
    (tmp_path / "link").symlink_to(own)
    workspace = Workspace(tmp_path, closed=(own, tmp_path / "later", tmp_path.parent))
    for path in ("config/dsv4/key", "link/key", "CONFIG/DSV4/key", "later/x", str(own), "config/dsv4"):
        with pytest.raises(ToolError, match="closed to tools"):
            workspace.locate(path)
    assert workspace.locate("config/dsv4er").shown == "config/dsv4er"
    assert workspace.locate(str(spill / "out.txt"), also=(spill,)).real == spill / "out.txt"
    assert list(files_under(workspace, tmp_path)) == []


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "/etc/passwd",
        "~",
        "~/x",
        "file:///etc/passwd",
        "a/../../x",
        "/proc/self/environ",
        "/dev/zero",
        "..",
    ],
)
def test_outside_is_refused_by_name(workspace: Workspace, path: str) -> None:
    with pytest.raises(ToolError) as caught:
        workspace.locate(path)
    assert caught.value.text == f"Error: {path} is outside the workspace."


def test_sibling_with_the_same_prefix_is_outside(workspace: Workspace, root: Path) -> None:
    evil = root.with_name(root.name + "-evil")
    evil.mkdir()
    with pytest.raises(ToolError, match="outside"):
        workspace.locate(str(evil / "x"))


def test_links_are_judged_by_where_they_lead(workspace: Workspace, root: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    (root / "out").symlink_to(tmp_path / "secret")
    (root / "dangling").symlink_to(tmp_path / "new")
    (root / "folder").symlink_to(tmp_path)
    for path in ("out", "dangling", "folder/new", "folder/secret"):
        with pytest.raises(ToolError, match="outside"):
            workspace.locate(path)
    (root / "real.txt").write_text("old")
    (root / "inner").symlink_to("real.txt")
    workspace.write(workspace.locate("inner"), b"new")
    assert (root / "inner").is_symlink()
    assert (root / "real.txt").read_text() == "new"


def test_absolute_paths_inside_are_shown_relative(root: Path) -> None:
    link = root.with_name("link")
    link.symlink_to(root)
    assert Workspace(root).locate(str(root / "a" / "b")).shown == "a/b"
    assert Workspace(link).locate(str(link / "a" / "b")).shown == "a/b"
    assert Workspace(root).locate("./a//b/../c").shown == "a/c"


def test_nul_and_empty_paths(workspace: Workspace) -> None:
    for path in ("a\0b", ""):
        with pytest.raises(ToolError):
            workspace.locate(path)


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        ".GIT/hooks/pre-commit",
        ".Git/config",
        "sub/.git",
        ".gi\u200ct/config",
        "GIT~1/x",
        ".git /x",
    ],
)
def test_git_files_cannot_be_written(workspace: Workspace, root: Path, path: str) -> None:
    with pytest.raises(ToolError, match="belongs to Git"):
        workspace.write(workspace.locate(path), b"x")
    assert list(root.iterdir()) == []


def test_a_link_into_git_cannot_be_written(workspace: Workspace, root: Path) -> None:
    (root / ".git").mkdir()
    (root / "door").symlink_to(".git")
    with pytest.raises(ToolError, match="belongs to Git"):
        workspace.write(workspace.locate("door/config"), b"x")


def test_ordinary_names_near_git_are_fine() -> None:
    assert not any(map(is_git_name, [".gitignore", ".github", "git", ".git2", "digit"]))


def test_special_files_are_refused_without_waiting(workspace: Workspace, root: Path) -> None:
    os.mkfifo(root / "pipe")
    server = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(root)  # the path of a socket must be short
    try:
        server.bind("sock")
    finally:
        os.chdir(here)
    for name in ("pipe", "sock"):
        with pytest.raises(ToolError, match="not a regular file"):
            workspace.read(workspace.locate(name))
        with pytest.raises(ToolError, match="not a regular file"):
            workspace.write(workspace.locate(name), b"x")
    server.close()


def test_a_link_swapped_in_after_the_check_is_not_followed(
    workspace: Workspace, root: Path, tmp_path: Path
) -> None:
    (root / "sub").mkdir()
    located = workspace.locate("sub/file")
    outside = tmp_path / "outside"
    outside.mkdir()
    (root / "sub").rmdir()
    (root / "sub").symlink_to(outside)
    with pytest.raises(ToolError):
        workspace.write(located, b"x")
    assert list(outside.iterdir()) == []


def test_a_hard_link_outside_keeps_its_content(workspace: Workspace, root: Path, tmp_path: Path) -> None:
    (tmp_path / "outer").write_text("precious")
    os.link(tmp_path / "outer", root / "inner")
    workspace.write(workspace.locate("inner"), b"changed")
    assert (tmp_path / "outer").read_text() == "precious"


def test_write_keeps_the_mode_and_leaves_no_temporary_file(workspace: Workspace, root: Path) -> None:
    (root / "run.sh").write_text("a")
    (root / "run.sh").chmod(0o754)
    assert workspace.write(workspace.locate("run.sh"), b"b") is False
    assert (root / "run.sh").stat().st_mode & 0o777 == 0o754
    assert workspace.write(workspace.locate("a/b/c"), b"x") is True
    assert sorted(p.name for p in root.iterdir()) == ["a", "run.sh"]


def test_a_full_disk_leaves_the_old_file(
    workspace: Workspace, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "f").write_text("old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ToolError, match="disk is full"):
        workspace.write(workspace.locate("f"), b"new")
    assert (root / "f").read_text() == "old"
    assert [p.name for p in root.iterdir()] == ["f"]


def test_a_file_changed_since_it_was_read_is_refused(workspace: Workspace, root: Path) -> None:
    (root / "f").write_text("old")
    located = workspace.locate("f")
    content = workspace.read(located)
    (root / "f").write_text("someone else's")
    with pytest.raises(ToolError, match="changed on disk"):
        workspace.write(located, b"mine", expected=content)
    assert (root / "f").read_text() == "someone else's"


def test_link_loops_and_file_parents_are_named(workspace: Workspace, root: Path) -> None:
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    (root / "file").write_text("x")
    with pytest.raises(ToolError, match=r"symbolic link|does not exist"):
        workspace.read(workspace.locate("a"))
    with pytest.raises(ToolError, match=r"not a directory|symbolic link"):
        workspace.read(workspace.locate("file/x"))


def test_a_file_that_its_mode_protects_is_not_replaced(
    workspace: Workspace, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "f").write_text("precious\n")
    (root / "f").chmod(0o444)
    if os.geteuid() == 0:  # whom no mode stops

        def refusing(path: str, flags: int, *rest: Any, **more: Any) -> int:
            if path == "f" and flags & os.O_WRONLY:
                raise PermissionError(errno.EACCES, "Permission denied")
            return real(path, flags, *rest, **more)

        real = os.open
        monkeypatch.setattr(os, "open", refusing)
    with pytest.raises(ToolError, match=r"f: permission denied\."):
        workspace.write(workspace.locate("f"), b"gone")
    assert list(root.iterdir()) == [root / "f"]
    assert (root / "f").read_text() == "precious\n"


@pytest.mark.skipif(not hasattr(os, "setxattr"), reason="no extended attributes here")
def test_extended_attributes_survive(workspace: Workspace, root: Path) -> None:
    (root / "f").write_text("old\n")
    try:
        os.setxattr(root / "f", "user.origin", b"here")
    except OSError:
        pytest.skip("the file system has none")
    workspace.write(workspace.locate("f"), b"new\n")
    assert os.getxattr(root / "f", "user.origin") == b"here"
    assert (root / "f").read_text() == "new\n"
