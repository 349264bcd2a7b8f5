from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from dsv4_agent.workbench.git_command import top_level, why_no_top_level
from dsv4_agent.workbench.git_state import Changes, Repository


def git(place: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.invalid", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=place, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    root = tmp_path / "repo"
    root.mkdir()
    git(root, "init", "-q", "-b", "main")
    (root / "a.txt").write_text("one\ntwo\n")
    (root / ".gitignore").write_text("ignored/\n")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "first")
    return root


def difference(repository: Repository) -> Changes:
    try:
        return repository.changes()
    finally:
        repository.close()


def test_a_clean_repository_and_no_change(place: Path) -> None:
    repository = Repository(place)
    info = repository.info()
    assert (
        info is not None
        and not info.dirty
        and info.branch == "main"
        and info.head == git(place, "rev-parse", "HEAD")
    )
    assert difference(repository) == Changes((), 0, 0, b"")


def test_edits_new_and_deleted_files_and_a_patch_that_applies(place: Path) -> None:
    (place / "gone.txt").write_text("x\n")
    git(place, "add", "-A")
    git(place, "commit", "-q", "-m", "second")
    repository = Repository(place)
    (place / "a.txt").write_text("one\n2\nthree\n")
    (place / "gone.txt").unlink()
    (place / "new").mkdir()
    (place / "new" / "naïve file.bin").write_bytes(bytes(range(256)))
    (place / "ignored").mkdir()
    (place / "ignored" / "x").write_text("not seen")
    changes = difference(repository)
    assert changes.files == ("a.txt", "gone.txt", "new/naïve file.bin")
    assert (changes.insertions, changes.deletions) == (2, 2)
    git(place, "stash", "-q", "-u")
    subprocess.run(["git", "apply", "-"], cwd=place, input=changes.patch, check=True)
    assert (place / "a.txt").read_text() == "one\n2\nthree\n"
    assert not (place / "gone.txt").exists()
    assert (place / "new" / "naïve file.bin").read_bytes() == bytes(range(256))


def test_what_was_dirty_before_is_not_the_run_s_doing(place: Path) -> None:
    (place / "a.txt").write_text("mine\n")
    (place / "untracked").write_text("mine too\n")
    repository = Repository(place)
    assert repository.dirty
    (place / "untracked").write_text("changed\n")
    changes = difference(repository)
    assert changes.files == ("untracked",)
    assert b"-mine too\n+changed\n" in changes.patch


def test_a_staged_change_alone_is_dirty(place: Path) -> None:
    (place / "a.txt").write_text("staged\n")
    git(place, "add", "a.txt")
    (place / "a.txt").write_text("one\ntwo\n")
    repository = Repository(place)
    repository.close()
    assert repository.dirty


def test_commits_made_by_the_run_are_seen(place: Path) -> None:
    repository = Repository(place)
    (place / "a.txt").write_text("committed\n")
    git(place, "commit", "-q", "-a", "-m", "by the run")
    changes = repository.changes()
    outcome = repository.outcome(changes)
    repository.close()
    assert changes.files == ("a.txt",)
    assert outcome is not None
    assert outcome.commits == (git(place, "rev-parse", "HEAD"),)
    assert outcome.base == git(place, "rev-parse", "HEAD~")
    assert outcome.diffstat == {"files": 1, "insertions": 1, "deletions": 2}


def test_the_repository_itself_is_left_alone(place: Path) -> None:
    (place / "new").write_text("n\n")
    before = sorted((p.name, p.is_file() and p.read_bytes()) for p in (place / ".git").rglob("*"))
    difference(Repository(place))
    assert sorted((p.name, p.is_file() and p.read_bytes()) for p in (place / ".git").rglob("*")) == before


def test_filters_hooks_and_fsmonitor_of_the_repository_never_run(place: Path, tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    script = tmp_path / "trap.sh"
    script.write_text(f"#!/bin/sh\necho ran >> {trap}\ncat\n")
    script.chmod(0o755)
    git(place, "config", "filter.evil.clean", str(script))
    git(place, "config", "filter.evil.smudge", str(script))
    git(place, "config", "core.fsmonitor", str(script))
    git(place, "config", "diff.external", str(script))
    (place / ".gitattributes").write_text("* filter=evil diff=evil\n")
    git(place, "config", "diff.evil.textconv", str(script))
    trap.unlink(missing_ok=True)
    repository = Repository(place)
    (place / "a.txt").write_text("changed\n")
    assert difference(repository).files == ("a.txt",)
    assert not trap.exists()


def test_a_partial_clone_fetches_nothing(place: Path, tmp_path: Path) -> None:
    """Its configuration names from where and by which program; a hostile one would run that program."""
    trap = tmp_path / "ran"
    tree = git(place, "rev-parse", "HEAD^{tree}")
    for key, value in (
        ("core.repositoryformatversion", "1"),
        ("extensions.partialClone", "origin"),
        ("remote.origin.promisor", "true"),
        ("remote.origin.url", str(place)),
        ("remote.origin.uploadpack", f"touch {trap}; false"),
    ):
        git(place, "config", key, value)
    (place / ".git" / "objects" / tree[:2] / tree[2:]).unlink()
    difference(Repository(place))
    assert not trap.exists()


def test_a_work_tree_that_lies_elsewhere_is_not_recorded(place: Path, tmp_path: Path) -> None:
    """It might be the whole disk. What happens in the folder itself is seen all the same."""
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / "private").write_text("theirs\n")
    for named in (other, Path("/"), tmp_path):
        git(place, "config", "core.worktree", str(named))
        repository = Repository(place)
        assert (repository.root, repository.is_git) == (place, False)
        (place / "a.txt").write_text(f"changed for {named}\n")
        assert difference(repository).files == ("a.txt",)


def test_a_planted_git_file_names_no_other_repository(place: Path, tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    planted.mkdir()
    (planted / ".git").write_text(f"gitdir: {place}/.git\n")
    assert top_level(planted) is None
    assert "another work tree's" in why_no_top_level(planted)[0]
    git(place, "worktree", "add", "-q", str(tmp_path / "tree"))
    (planted / ".git").write_text(f"gitdir: {place}/.git/worktrees/tree\n")
    assert top_level(planted) is None
    assert top_level(tmp_path / "tree") == tmp_path / "tree"
    git(tmp_path, "init", "-q", "--separate-git-dir", str(tmp_path / "apart"), str(tmp_path / "work"))
    assert top_level(tmp_path / "work") == tmp_path / "work"


def test_a_git_of_the_repository_is_not_run(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trap = tmp_path / "ran"
    (place / "bin").mkdir()
    for planted in (place / "git", place / "bin" / "git"):
        planted.write_text(f"#!/bin/sh\ntouch {trap}\n")
        planted.chmod(0o755)
    monkeypatch.setenv("PATH", f".:./bin:{place}/bin:{os.environ['PATH']}")
    monkeypatch.chdir(place)
    repository = Repository(place)
    (place / "a.txt").write_text("changed\n")
    assert difference(repository).files == ("a.txt",)
    assert not trap.exists()


def test_a_plain_directory(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x").write_text("1\n")
    repository = Repository(tmp_path / "d")
    (tmp_path / "d" / "x").write_text("2\n")
    changes = repository.changes()
    assert repository.info() is None and repository.outcome(changes) is None and not repository.is_git
    assert difference(repository).files == ("x",)


def test_a_repository_without_a_commit(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    repository = Repository(tmp_path)
    assert not repository.dirty and repository.head is None
    (tmp_path / "x").write_text("1\n")
    assert difference(repository).files == ("x",)


def test_a_subdirectory_sees_the_whole_work_tree(place: Path) -> None:
    (place / "sub").mkdir()
    repository = Repository(place / "sub")
    (place / "a.txt").write_text("x\n")
    assert difference(repository).files == ("a.txt",)


def test_a_same_size_edit_right_after_the_snapshot_is_seen(place: Path) -> None:
    repository = Repository(place)
    stamp = (place / "a.txt").stat()
    (place / "a.txt").write_text("one\nTWO\n")
    os.utime(place / "a.txt", ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))
    assert difference(repository).files == ("a.txt",)


def test_of_large_untracked_files_only_the_names_are_told(place: Path) -> None:
    for name in ("big [1] #!*.bin", "!bang"):
        with (place / name).open("wb") as file:
            file.truncate(17 << 20)
    repository = Repository(place)
    with (place / "later").open("wb") as file:
        file.truncate(17 << 20)
    (place / "small").write_text("x\n")
    changes = repository.changes()
    size = sum(path.stat().st_size for path in repository._shadow.rglob("*") if path.is_file())
    repository.close()
    assert (changes.files, changes.left_out) == (("later", "small"), ("later",))
    assert (
        changes.diffstat() == {"files": 2, "insertions": 1, "deletions": 0} and b"later" not in changes.patch
    )
    assert size < 1 << 20


def test_large_untracked_files_that_change_or_go_are_told(place: Path) -> None:
    for name in ("grows", "goes", "stays"):
        with (place / name).open("wb") as file:
            file.truncate(17 << 20)
    repository = Repository(place)
    with (place / "grows").open("ab") as file:
        file.write(b"x")
    (place / "goes").unlink()
    assert difference(repository).left_out == ("goes", "grows")


def test_files_in_a_repository_inside_are_known(place: Path) -> None:
    inner = place / "sub"
    inner.mkdir()
    git(inner, "init", "-q")
    (inner / "b.txt").write_text("b\n")
    git(inner, "add", "-A")
    git(inner, "commit", "-q", "-m", "inner")
    git(place, "add", "-A")
    git(place, "commit", "-q", "-m", "outer")
    repository = Repository(place)
    (inner / "b.txt").write_text("changed\n")
    assert repository.changes().files == ()
    paths = [inner / "b.txt", place / "a.txt", place.parent / "else"]
    assert repository.in_submodules(paths) == ("sub/b.txt",)
    repository.close()


def test_a_large_plain_directory_is_not_copied(tmp_path: Path) -> None:
    with (tmp_path / "big").open("wb") as file:
        file.truncate(65 << 20)
    repository = Repository(tmp_path)
    repository.close()
    assert not repository.recorded and not repository.dirty


def test_the_snapshot_of_a_killed_run_is_removed_by_the_next(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    child = subprocess.Popen(["true"])
    child.wait()
    for name in (
        f"dsv4-snapshot-{child.pid}-dead",
        f"dsv4-snapshot-{os.getpid()}-alive",
        "dsv4-snapshot-other",
    ):
        (temporary / name).mkdir()
    Repository(place).close()
    assert sorted(path.name for path in temporary.iterdir()) == [
        f"dsv4-snapshot-{os.getpid()}-alive",
        "dsv4-snapshot-other",
    ]


def test_restoring_takes_back_a_run_and_nothing_else(place: Path) -> None:
    (place / "gone.txt").write_text("x\n")
    (place / "tool.sh").write_text("#!/bin/sh\n")
    (place / "tool.sh").chmod(0o755)
    (place / "link").symlink_to("a.txt")
    repository = Repository(place)
    before = repository.snapshot()
    (place / "a.txt").write_text("changed\n")
    (place / "gone.txt").unlink()
    (place / "tool.sh").unlink()
    (place / "link").unlink()
    (place / "new [x].txt").write_text("new\n")
    (place / "both.txt").write_text("the agent's\n")
    after = repository.snapshot()
    (place / "both.txt").write_text("the user's\n")
    (place / "mine.txt").write_text("the user's\n")
    restored = repository.restore(before, after)
    assert restored.files == ("a.txt", "gone.txt", "link", "new [x].txt", "tool.sh")
    assert restored.kept == ("both.txt",)
    assert (place / "a.txt").read_text() == "one\ntwo\n"
    assert (place / "gone.txt").read_text() == "x\n"
    assert os.access(place / "tool.sh", os.X_OK)
    assert (place / "link").readlink() == Path("a.txt")
    assert not (place / "new [x].txt").exists()
    assert (place / "both.txt").read_text() == (place / "mine.txt").read_text() == "the user's\n"
    assert git(place, "status", "--porcelain", "--", "a.txt") == ""
    repository.close()


def test_restoring_does_not_write_through_a_link_that_took_a_folder_s_place(
    place: Path, tmp_path: Path
) -> None:
    (place / "folder").mkdir()
    (place / "folder" / "f.txt").write_text("old\n")
    repository = Repository(place)
    before = repository.snapshot()
    (place / "folder" / "f.txt").unlink()
    after = repository.snapshot()
    outside = tmp_path / "outside"
    outside.mkdir()
    (place / "folder").rmdir()
    (place / "folder").symlink_to(outside)
    repository.restore(before, after)
    repository.close()
    assert list(outside.iterdir()) == []
