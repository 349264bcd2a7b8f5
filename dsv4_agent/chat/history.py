"""The prompts of earlier sessions: kept as JSON lines, shared by all running processes, never in the way.

A prompt that can't be kept is lost for later sessions only; `History.warning` says why, nothing raises.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dsv4_agent.session.session import state_directory
from dsv4_agent.workbench.plain_text import without_surrogates
from dsv4_agent.workbench.private_file import write_private

_CAP: Final = 5_000
_SLACK: Final = 1_000  # so many entries above the cap before the file is written anew
_ENTRY_LIMIT: Final = 100_000  # characters; a longer prompt is remembered by this process only
_READ_LIMIT: Final = 32_000_000
_LOCK_SECONDS: Final = 0.2  # a stopped process may hold the lock; typing must go on


@dataclass(frozen=True, slots=True)
class Entry:
    """One prompt, where it was given and when (seconds since the epoch)."""

    text: str
    cwd: str
    time: float


def history_path() -> Path:
    """The history file of this user."""
    return state_directory() / "history.jsonl"


class History:
    """What was submitted before, newest last in the file and first in every answer."""

    def __init__(self, project: Path, *, path: Path | None = None, cap: int = _CAP) -> None:
        """`project` is the folder whose prompts are preferred. Reads nothing yet."""
        self._path = history_path() if path is None else path
        self._project = os.path.realpath(project)
        self._cap = cap
        self._entries: list[Entry] = []
        self._unkept: list[Entry] = []
        self._stamp: tuple[int, int, int] | None = None
        self.warning: str | None = None

    def add(self, text: str) -> None:
        """Keep `text`, unless it is blank or the same as the one before it."""
        text = without_surrogates(text)
        if not text.strip():
            return
        self._refresh()
        if self._last_own() == text:
            return
        entry = Entry(text, self._project, time.time())
        if len(text) > _ENTRY_LIMIT or not self._append(entry):
            self._unkept.append(entry)
            return
        self._refresh()
        if len(self._entries) >= self._cap + _SLACK:
            self._compact()

    def browse(self) -> tuple[str, ...]:
        """Every prompt once, newest first, those of this project before all others."""
        self._refresh()
        entries = self._newest_first()
        own = [entry.text for entry in entries if entry.cwd == self._project]
        others = [entry.text for entry in entries if entry.cwd != self._project]
        return tuple(dict.fromkeys([*own, *others]))

    def search(self, text: str) -> tuple[str, ...]:
        """Every prompt that holds `text`, newest first; case counts only if `text` has a capital."""
        self._refresh()
        found = dict.fromkeys(entry.text for entry in self._newest_first())
        if text != text.lower():
            return tuple(prompt for prompt in found if text in prompt)
        return tuple(prompt for prompt in found if text in prompt.lower())

    def _newest_first(self) -> list[Entry]:
        if not self._unkept:
            return self._entries[::-1]
        return sorted([*self._entries, *self._unkept], key=lambda entry: entry.time, reverse=True)

    def _last_own(self) -> str | None:
        own = (entry.text for entry in self._newest_first() if entry.cwd == self._project)
        return next(own, None)

    def _refresh(self) -> None:
        """Read the file again if another process, or this one, changed it."""
        try:
            info = self._path.stat()
            stamp = (info.st_ino, info.st_size, info.st_mtime_ns)
            if stamp == self._stamp:
                return
            self._entries = list(_parse(_tail(self._path)))[-self._cap - _SLACK :]
            self._stamp = stamp
        except FileNotFoundError:
            self._entries, self._stamp = [], None
        except OSError as error:
            self._warn(error)

    def _append(self, entry: Entry) -> bool:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with _locked(self._path):
                flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                with os.fdopen(os.open(self._path, flags, 0o600), "rb+", buffering=0) as file:
                    torn = _is_torn(file.fileno())
                    line = (b"\n" if torn else b"") + _line(entry)
                    if os.write(file.fileno(), line) != len(line):  # a disk that is just full
                        raise OSError("the disk is full")
        except OSError as error:
            self._warn(error)
            return False
        return True

    def _compact(self) -> None:
        """Replace the file by its newest entries, in one step and with no other process writing."""
        try:
            with _locked(self._path) as held:
                if not held:
                    return
                entries = list(_parse(_tail(self._path)))[-self._cap :]
                write_private(self._path, b"".join(map(_line, entries)))
        except OSError as error:
            self._warn(error)
        self._refresh()

    def _warn(self, error: OSError) -> None:
        self.warning = f"The prompt history can't be kept: {error.strerror or error} ({self._path})."


class Browser:
    """One walk through the history with the arrow keys. Edits made on the way are kept until it ends."""

    def __init__(self, prompts: Iterable[str], draft: str) -> None:
        self._prompts = tuple(prompt for prompt in prompts if prompt != draft)
        self._shown: dict[int, str] = {-1: draft}
        self._at = -1

    @property
    def at_draft(self) -> bool:
        """Whether the walk is back at what the user was writing."""
        return self._at < 0

    def older(self, current: str) -> str | None:
        """The next older prompt, or None at the end; `current` is what stands in the box now."""
        return self._move(self._at + 1, current)

    def newer(self, current: str) -> str | None:
        """The next newer prompt and at last the draft; None when the draft is shown already."""
        return self._move(self._at - 1, current)

    def _move(self, to: int, current: str) -> str | None:
        if not -1 <= to < len(self._prompts):
            return None
        self._shown[self._at] = current
        self._at = to
        return self._shown.get(to, self._prompts[to])


def _line(entry: Entry) -> bytes:
    record = {"text": entry.text, "cwd": without_surrogates(entry.cwd), "time": round(entry.time, 3)}
    return json.dumps(record).encode() + b"\n"


def _parse(data: bytes) -> Iterator[Entry]:
    for line in data.split(b"\n"):
        try:
            match json.loads(line):
                case {"text": str(text), "cwd": str(cwd), "time": int() | float() as moment} if text.strip():
                    yield Entry(without_surrogates(text), cwd, float(moment))
        except (ValueError, RecursionError):  # a torn or foreign line
            continue


def _tail(path: Path) -> bytes:
    """The file, or the last part of one that is far too long."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _READ_LIMIT))
        data = file.read(_READ_LIMIT)
    return data if size <= _READ_LIMIT else data.partition(b"\n")[2]


def _is_torn(descriptor: int) -> bool:
    size = os.fstat(descriptor).st_size
    return size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Hold the lock of the history, or go on without it after a short wait and say so."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path.with_suffix(".lock"), flags, 0o600)
    try:
        yield _try_lock(descriptor)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
        except OSError:  # a file system without locks
            return False
        else:
            return True
