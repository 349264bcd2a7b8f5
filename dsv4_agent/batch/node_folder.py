"""A batch's folder on a machine that works for it: repositories, a folder a try, what the dead left there.

A try holds the lock of its folder. One that can be locked belongs to a worker that was lost: its processes
are ended and its files removed by the next one here, at the latest when the batch ends.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dsv4_agent.batch.bundle import Bundle, add_increment, unbundle, unbundled
from dsv4_agent.batch.checkouts import Checkouts
from dsv4_agent.batch.strays import end_strays
from dsv4_agent.session.session import state_directory

_FORGOTTEN: Final = 7 * 86_400.0
"""Seconds after which a batch that did not come back is taken for dead."""


@dataclass(frozen=True, slots=True)
class NodeFolder:
    """The folder of one batch on one node. `node` keeps machines apart that share a home."""

    node: str
    batch: str

    @property
    def path(self) -> Path:
        """Where it is."""
        return _nodes() / self.node / self.batch

    @contextmanager
    def item(self, name: str) -> Iterator[Path]:
        """A new folder for a try at an item; it is gone afterwards, with every process in its worktree."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.utime(self.path)
        self._clear_forgotten()
        self._clear_dead()
        lock = self._lock(name)
        assert lock is not None, "names of tries are unique"
        folder = self.path / "items" / name
        folder.mkdir(parents=True, mode=0o700)
        try:
            yield folder
        finally:
            self._clear(name)
            os.close(lock)

    def checkouts(
        self, key: str, fetch: Callable[[], Bundle], commit: str, increment: bytes | None
    ) -> Checkouts:
        """The repository of the bundle of this key, with `commit` in it; the first who needs it fetches that.

        Raises `RunFailure` (54).
        """
        place = self.path / "repositories" / key
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(place / "lock"):
            base = unbundled(place / "source") or unbundle(fetch(), place / "source")
            if increment is not None:
                add_increment(base, increment, commit)
            checkouts = Checkouts(base, place / "checkouts")
            checkouts.prepare()
        return checkouts

    def remove(self) -> None:
        """End what still runs here and remove everything."""
        for worktree in self.path.glob("repositories/*/checkouts/worktrees/*"):
            end_strays(worktree)
        shutil.rmtree(self.path, ignore_errors=True)
        with suppress(OSError):
            self.path.parent.rmdir()

    def _clear_dead(self) -> None:
        for file in self.path.glob("*.lock"):
            name = file.name.removesuffix(".lock")
            if (lock := self._lock(name)) is not None:
                self._clear(name)
                os.close(lock)

    def _clear(self, name: str) -> None:
        """Remove what is left of a try whose lock is held."""
        for worktree in self.path.glob(f"repositories/*/checkouts/worktrees/{name}"):
            end_strays(worktree)
            shutil.rmtree(worktree, ignore_errors=True)
        shutil.rmtree(self.path / "items" / name, ignore_errors=True)
        (self.path / f"{name}.lock").unlink(missing_ok=True)

    def _lock(self, name: str) -> int | None:
        """The lock of a try, or None where a living process holds it."""
        descriptor = os.open(self.path / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return None
        return descriptor

    def _clear_forgotten(self) -> None:
        for other in _nodes().glob("*/*"):
            with suppress(OSError):
                if time.time() - other.stat().st_mtime > _FORGOTTEN:
                    NodeFolder(other.parent.name, other.name).remove()


def remove_everywhere(batch: str) -> None:
    """Remove what a batch left on this machine, by whatever node, those that died included."""
    for path in _nodes().glob(f"*/{batch}"):
        NodeFolder(path.parent.name, batch).remove()


def _nodes() -> Path:
    return state_directory() / "nodes"


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
