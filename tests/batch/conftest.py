"""A small repository to do batches in."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from dsv4_agent.batch.checkouts import Base, Checkouts
from dsv4_agent.batch.trees import Trees


def git(folder: Path, *arguments: str) -> str:
    """Run git as a person would and return what it prints."""
    identity = ("-c", "user.name=Ann", "-c", "user.email=ann@example.org")
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Three files in one commit."""
    top = tmp_path / "repository"
    top.mkdir()
    git(top, "init", "-q", "-b", "main")
    (top / "a.py").write_text("def one():\n    return 1\n\n\ndef two():\n    return one() + 1\n")
    (top / "b.py").write_text("from a import two\n\nprint(two())\n")
    (top / ".gitignore").write_text("*.log\n")
    git(top, "add", "-A")
    git(top, "commit", "-q", "-m", "begin")
    return top


@pytest.fixture
def checkouts(repository: Path, tmp_path: Path) -> Checkouts:
    """The batch's own repository, prepared."""
    folder = tmp_path / "batch"
    folder.mkdir()
    made = Checkouts(Base.of(repository), folder)
    made.prepare()
    return made


@pytest.fixture
def trees_of(checkouts: Checkouts) -> Callable[[str], Trees]:
    """A fresh worktree by name."""

    def make(name: str) -> Trees:
        path = checkouts.worktree(name)
        return Trees(path, checkouts.git_folder(name), checkouts.folder / f"{name}.index")

    return make
