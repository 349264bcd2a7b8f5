"""Where batches live: a folder each below the state folder, found again by id or by repository."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from dsv4_agent.batch.ledger import LEDGER_NAME, read_ledger
from dsv4_agent.batch.plan import PlanError
from dsv4_agent.session.journal import JournalError
from dsv4_agent.session.session import state_directory
from dsv4_agent.workbench.exit_codes import OwnSubtype
from dsv4_agent.workbench.failures import RunFailure

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """One batch's folder: `ledger.jsonl`, `items/NNNNN/` (journals, patch), `repositories/N/`."""

    path: Path

    @property
    def id(self) -> str:
        """The folder's name."""
        return self.path.name

    def item(self, index: int) -> Path:
        """The folder of item number `index`."""
        return self.path / "items" / item_name(index)

    def repository(self, number: int) -> Path:
        """The folder of the checkouts of repository `number`."""
        return self.path / "repositories" / str(number)

    def is_running(self) -> bool:
        """Whether a process holds the ledger."""
        try:
            descriptor = os.open(self.path / LEDGER_NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(descriptor)
        return False


def item_name(index: int) -> str:
    """The name of an item's worktree and folder."""
    return f"{index:05d}"


def batches_directory() -> Path:
    """The folder of all batches."""
    return state_directory() / "batches"


def new_run(name: str) -> RunFolder:
    """Make a folder for a new batch. Raises `RunFailure` (54)."""
    stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    path = batches_directory() / f"{stamp}-{name}-{secrets.token_hex(2)}"
    try:
        path.mkdir(parents=True, mode=0o700)
        (path / "items").mkdir()
    except OSError as error:
        cause = f"the batch's folder {path} can't be made: {error.strerror}"
        raise RunFailure(OwnSubtype.TOOLS, cause, "Free space, or set DSV4_STATE_DIR.") from error
    return RunFolder(path)


def find_run(id: str | None, directory: Path) -> RunFolder:
    """The batch of this id, or the newest of a repository that has not ended. Raises `PlanError`."""
    if id is not None:
        path = batches_directory() / id
        if not _ID.fullmatch(id) or not (path / LEDGER_NAME).is_file():
            raise PlanError(f"there is no batch {id!r}; dsv4 batch list shows them")
        return RunFolder(path)
    for run in all_runs():
        with suppress(PlanError, JournalError):
            charter, progress = read_ledger(run.path)
            if charter.directory == directory and not progress.ended:
                return run
    raise PlanError(f"no batch of {directory} is unfinished; start one without --resume")


def all_runs() -> Iterator[RunFolder]:
    """All batches, the newest first."""
    with suppress(OSError):
        for path in sorted(batches_directory().iterdir(), reverse=True):
            if _ID.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
                yield RunFolder(path)
