"""A repository on its way to another machine, and an item's folder on its way back."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from dsv4_agent.batch.bundle import add_increment, bundle_of, increment_of, unbundle, unbundled
from dsv4_agent.batch.checkouts import Base, Checkouts
from dsv4_agent.batch.parcel import packed, unpack
from dsv4_agent.workbench.failures import RunFailure
from tests.batch.conftest import git


def test_a_bundle_makes_the_same_commits(checkouts: Checkouts, tmp_path: Path) -> None:
    git(checkouts.base.repository, "config", "core.autocrlf", "input")
    bundle = bundle_of(checkouts)
    base = unbundle(bundle, tmp_path / "there")
    assert git(base.repository, "log", "--format=%H %s", base.commit) == f"{checkouts.base.commit} begin"
    assert git(base.repository, "config", "core.autocrlf") == "input"
    assert unbundled(base.repository) == base
    assert bundle.key == bundle_of(checkouts).key
    there = Checkouts(base, tmp_path / "work")
    there.prepare()
    assert (there.worktree("00000") / "a.py").read_text().startswith("def one()")


def test_another_commit_comes_as_an_increment(checkouts: Checkouts, tmp_path: Path) -> None:
    base = unbundle(bundle_of(checkouts), tmp_path / "there")
    tree = git(checkouts.base.repository, "rev-parse", "HEAD^{tree}")
    later = checkouts.commit_of(tree, checkouts.base.commit, "later")
    add_increment(base, increment_of(checkouts, later), later)
    assert git(base.repository, "log", "--format=%s", later).splitlines() == ["later", "begin"]


def test_a_shallow_repository(repository: Path, tmp_path: Path) -> None:
    (repository / "a.py").write_text("pass\n")
    git(repository, "commit", "-qam", "second")
    subprocess.run(["git", "clone", "-q", "--depth", "1", repository.as_uri(), tmp_path / "cut"], check=True)
    checkouts = Checkouts(Base.of(tmp_path / "cut"), tmp_path / "batch")
    checkouts.prepare()
    base = unbundle(bundle_of(checkouts), tmp_path / "there")
    assert git(base.repository, "log", "--format=%s", base.commit) == "second"


def test_a_repository_that_was_not_finished_is_made_anew(checkouts: Checkouts, tmp_path: Path) -> None:
    folder = tmp_path / "there"
    (folder / ".git").mkdir(parents=True)
    (folder / ".git" / "config").write_text("broken")
    assert unbundled(folder) is None
    assert unbundle(bundle_of(checkouts), folder).files() == checkouts.base.files()


def test_a_damaged_bundle_is_said(checkouts: Checkouts, tmp_path: Path) -> None:
    bundle = bundle_of(checkouts)
    broken = type(bundle)(
        bundle.commit, bundle.form, bundle.data[:-40], b"", bundle.settings, bundle.identity
    )
    with pytest.raises(RunFailure, match="git fetch failed"):
        unbundle(broken, tmp_path / "there")
    assert unbundled(tmp_path / "there") is None


def test_a_folder_comes_back_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "sessions" / "one").mkdir(parents=True)
    (here / "sessions" / "one" / "journal.jsonl").write_text("{}\n")
    (here / "output").write_bytes(b"x" * 5000)
    (here / "link").symlink_to("/etc/passwd")
    parcel, left_out = packed(here)
    (there / "old").mkdir(parents=True)
    unpack(parcel, there)
    files = sorted(str(path.relative_to(there)) for path in there.rglob("*") if path.is_file())
    assert (files, left_out) == (["output", "sessions/one/journal.jsonl"], 0)
    monkeypatch.setattr("dsv4_agent.batch.parcel._MOST", 4000)
    parcel, left_out = packed(here)
    unpack(parcel, there)
    assert [path.name for path in there.rglob("*") if path.is_file()] == ["journal.jsonl"]
    assert left_out == 1


@pytest.mark.parametrize("name", ["../out", "/tmp/out-of-it"])
def test_a_parcel_writes_nowhere_else(tmp_path: Path, name: str) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        member = tarfile.TarInfo("link")
        member.type, member.linkname = tarfile.SYMTYPE, str(tmp_path / "elsewhere")
        archive.addfile(member)
        file = tarfile.TarInfo(name)
        file.size = 1
        archive.addfile(file, io.BytesIO(b"x"))
    with pytest.raises(RunFailure, match="can't be written"):
        unpack(buffer.getvalue(), tmp_path / "folder")
    assert not (tmp_path / "out").exists()
