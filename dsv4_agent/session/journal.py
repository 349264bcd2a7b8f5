"""The journal: an append-only JSONL file from which a session can be rebuilt.

One record a line: `{"v": 1, "n": 7, "t": "2026-01-01T00:00:00.000Z", "kind": "entry", "data": {...}}`, `n`
counting from 1 without gaps. Every record is handed to the operating system before `write` returns;
`sync=True` waits for the disk as well, `sync_soon` sees to it without waiting. A line torn by a crash or a
full disk can only be the last one: reading stops before it, reopening cuts it off.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from dsv4_agent.session.late_sync import LateSync

SCHEMA_VERSION = 1


class JournalError(Exception):
    """The journal can't be written or read; one line with the cause and the remedy."""


@dataclass(frozen=True, slots=True)
class Record:
    """One line of a journal. `time` is UTC, ISO 8601."""

    number: int
    time: str
    kind: str
    data: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Contents:
    """What a journal file holds: its whole records, and how many bytes they fill. `torn`: a piece follows."""

    records: tuple[Record, ...]
    size: int
    torn: bool


class Journal:
    """A journal open for appending, by one process at a time."""

    def __init__(self, path: Path, descriptor: int, last: int, *, durable: bool) -> None:
        self.path = path
        self._descriptor: int | None = descriptor
        self._last = last
        self._durable = durable
        self._failed: JournalError | None = None
        self._late = LateSync(self._sync_late)

    @classmethod
    def create(cls, path: Path, *, durable: bool = True) -> Self:
        """Start a new journal (mode 0600, in a folder of mode 0700). Raises `JournalError`.

        `durable=False` never waits for the disk: for generated data that can be made again.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600)
        except OSError as error:
            raise _error(path, "can't be created", error) from error
        return cls._locked(path, descriptor, 0, durable=durable)

    @classmethod
    def reopen(cls, path: Path, *, durable: bool = True) -> tuple[Self, Contents]:
        """Continue a journal: cut off a torn tail and number on. Raises `JournalError`."""
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | _FLAGS)
        except OSError as error:
            raise _error(path, "can't be opened", error) from error
        journal = cls._locked(path, descriptor, 0, durable=durable)
        try:
            contents = read_journal(path)
            if contents.torn:
                os.ftruncate(descriptor, contents.size)
        except OSError as error:
            journal.close()
            raise _error(path, "can't be repaired", error) from error
        except JournalError:
            journal.close()
            raise
        journal._last = len(contents.records)
        return journal, contents

    @classmethod
    def _locked(cls, path: Path, descriptor: int, last: int, *, durable: bool) -> Self:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise JournalError(
                f"{path} is in use by another process: end that one first, or begin a new session"
            ) from error
        return cls(path, descriptor, last, durable=durable)

    @property
    def failed(self) -> bool:
        """Whether a write has failed; from then on every write raises."""
        return self._failed is not None

    def write(self, kind: str, data: Mapping[str, object], *, sync: bool = False) -> int:
        """Append one record and return its number.

        Raises `JournalError` when it could not be written in full: the caller must not go on to what the
        record announces.
        """
        if self._failed is not None:
            raise self._failed
        if self._descriptor is None:
            raise JournalError(f"{self.path} is closed")
        line = _line(self._last + 1, kind, data)
        try:
            _write_all(self._descriptor, line)
            if sync and self._durable:
                os.fsync(self._descriptor)
                self._late.done()
        except OSError as error:
            self._failed = _error(self.path, "can't be written", error)
            raise self._failed from error
        self._last += 1
        return self._last

    def sync_soon(self) -> None:
        """Have what was written on disk within a moment; a failure shows at the next write."""
        if self._durable:
            self._late.ask()

    def _sync_late(self) -> None:
        if self._descriptor is None:
            return
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            self._failed = _error(self.path, "can't be written", error)

    def close(self) -> None:
        """Close the file; safe to call twice."""
        if self._descriptor is None:
            return
        self._late.close()
        descriptor, self._descriptor = self._descriptor, None
        with contextlib.suppress(OSError):
            os.close(descriptor)


_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW


def _line(number: int, kind: str, data: Mapping[str, object]) -> bytes:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    record = {"v": SCHEMA_VERSION, "n": number, "t": now, "kind": kind, "data": data}
    try:
        text = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
        return text.encode() + b"\n"
    except UnicodeEncodeError:  # a lone surrogate, say from a file name: only the escaped form holds it
        return json.dumps(record, separators=(",", ":")).encode() + b"\n"


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _error(path: Path, what: str, error: OSError) -> JournalError:
    reason = error.strerror or str(error)
    return JournalError(f"the session journal {path} {what}: {reason}; free some space or set DSV4_STATE_DIR")


def read_journal(path: Path) -> Contents:
    """Read a journal, leaving out a torn last line.

    Raises `JournalError` for a file that can't be read, another schema version, or damage before the end.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise JournalError(f"the session journal {path} can't be read: {reason}") from error
    records: list[Record] = []
    size = 0
    while size < len(data):
        end = data.find(b"\n", size)
        if end < 0:
            return Contents(tuple(records), size, torn=True)
        record = _record(data[size:end], len(records) + 1, path)
        if record is None:
            if end + 1 == len(data):
                return Contents(tuple(records), size, torn=True)
            raise JournalError(f"{path} is damaged at line {len(records) + 1}: restore it from a backup")
        records.append(record)
        size = end + 1
    return Contents(tuple(records), size, torn=False)


def _record(line: bytes, number: int, path: Path) -> Record | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    match value:
        case {"v": int(version)} if version != SCHEMA_VERSION:
            raise JournalError(f"{path} has schema version {version}; this dsv4 reads {SCHEMA_VERSION}")
        case {"n": int(found), "t": str(time), "kind": str(kind), "data": dict(data)} if found == number:
            return Record(number, time, kind, data)
    return None
