"""A session: a transcript and the journal that is always one step ahead of it.

`append` writes the journal first; a failed write leaves the transcript as it was, so nothing can reach the
model that the journal does not hold. Tool calls are recorded before they start and after they end.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import platformdirs

from dsv4_agent.session.journal import Contents, Journal, JournalError, read_journal
from dsv4_agent.session.transcript import Entry, Transcript

JOURNAL_NAME = "journal.jsonl"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class CallRecord:
    """What the journal knows of one tool call: `result` is the text for the model, None if it never ended."""

    name: str
    arguments: Mapping[str, object]
    result: str | None = None
    status: str | None = None


@dataclass(frozen=True, slots=True)
class Replay:
    """A session read back: `calls` by (turn, index within the turn)."""

    session_id: str
    transcript: Transcript
    calls: Mapping[tuple[int, int], CallRecord] = field(default_factory=dict)


def state_directory() -> Path:
    """Where sessions live: DSV4_STATE_DIR, else the platform's state folder."""
    override = os.environ.get("DSV4_STATE_DIR")
    return Path(override) if override else Path(platformdirs.user_state_dir("dsv4", appauthor=False))


class Session:
    """One conversation on disk. Make it with `create` or `resume`."""

    def __init__(
        self,
        id: str,
        journal: Journal,
        transcript: Transcript,
        calls: Mapping[tuple[int, int], CallRecord],
        *,
        ephemeral: bool,
    ) -> None:
        self.id = id
        self.directory = journal.path.parent
        self.transcript = transcript
        self.recorded_calls = dict(calls)
        self._journal = journal
        self._ephemeral = ephemeral

    @classmethod
    def create(
        cls,
        *,
        id: str | None = None,
        directory: Path | None = None,
        ephemeral: bool = False,
        durable: bool = True,
    ) -> Self:
        """Begin a session in its own folder under `directory` (default: `state_directory()/sessions`).

        An ephemeral session keeps its journal in a temporary folder that `close` removes. Raises
        `JournalError` where the folder can't be written or the id is taken or unusable.
        """
        name = uuid.uuid4().hex if id is None else id
        if not _ID.fullmatch(name):
            raise JournalError(f"session id {name!r} is unusable: take letters, digits, '.', '_' and '-'")
        try:
            if ephemeral:
                folder = Path(tempfile.mkdtemp(prefix="dsv4-"))
            else:
                root = state_directory() / "sessions" if directory is None else directory
                root.mkdir(parents=True, exist_ok=True, mode=0o700)
                folder = root / name
                folder.mkdir(mode=0o700)
        except FileExistsError as error:
            raise JournalError(f"session {name} exists already: resume it, or take another id") from error
        except OSError as error:
            raise JournalError(
                f"the session folder can't be made: {error}; set DSV4_STATE_DIR to a writable folder"
            ) from error
        journal = Journal.create(folder / JOURNAL_NAME, durable=durable)
        journal.write("session", {"id": name})
        return cls(name, journal, Transcript(), {}, ephemeral=ephemeral)

    @classmethod
    def resume(cls, path: Path, *, durable: bool = True) -> Self:
        """Continue the session of a journal file. Raises `JournalError`."""
        journal, contents = Journal.reopen(path, durable=durable)
        try:
            replayed = _rebuild(contents, path)
        except JournalError:
            journal.close()
            raise
        return cls(replayed.session_id, journal, replayed.transcript, replayed.calls, ephemeral=False)

    @property
    def journal_path(self) -> Path:
        """The journal file."""
        return self._journal.path

    @property
    def spill_directory(self) -> Path:
        """Where tools put output too long for the model; made on demand."""
        folder = self.directory / "output"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    @property
    def failed(self) -> bool:
        """Whether the journal can no longer be written."""
        return self._journal.failed

    def append(self, entry: Entry, *, sync: bool = False) -> None:
        """Journal an entry, then make it part of the transcript. Raises `JournalError`."""
        self._journal.write("entry", entry.to_json(), sync=sync)
        self.transcript.append(entry)

    def record_event(self, event: Mapping[str, object], *, sync: bool = False) -> None:
        """Journal an event that front ends are about to see. Raises `JournalError`."""
        self._journal.write("event", event, sync=sync)

    def start_call(self, turn: int, index: int, name: str, arguments: Mapping[str, object]) -> None:
        """Record, on disk, that a call is about to run. Raises `JournalError`: then it must not run."""
        data = {"turn": turn, "index": index, "name": name, "arguments": dict(arguments)}
        self._journal.write("tool_start", data, sync=True)
        self.recorded_calls[turn, index] = CallRecord(name, arguments)

    def end_call(self, turn: int, index: int, result: str, status: str) -> None:
        """Record, on disk, how a call ended. Raises `JournalError`."""
        data = {"turn": turn, "index": index, "result": result, "status": status}
        self._journal.write("tool_end", data, sync=True)
        started = self.recorded_calls[turn, index]
        self.recorded_calls[turn, index] = CallRecord(started.name, started.arguments, result, status)

    def close(self) -> None:
        """Close the journal; an ephemeral session's folder is removed."""
        self._journal.close()
        if self._ephemeral:
            shutil.rmtree(self.directory, ignore_errors=True)


def replay(path: Path) -> Replay:
    """Rebuild a session from its journal alone, without touching the file. Raises `JournalError`."""
    return _rebuild(read_journal(path), path)


def _rebuild(contents: Contents, path: Path) -> Replay:
    session_id = path.parent.name
    transcript = Transcript()
    calls: dict[tuple[int, int], CallRecord] = {}
    try:
        for record in contents.records:
            match record.kind, record.data:
                case "session", {"id": str(found)}:
                    session_id = found
                case "entry", data:
                    transcript.append(Entry.from_json(data))
                case "tool_start", {
                    "turn": int(turn),
                    "index": int(index),
                    "name": str(name),
                    "arguments": dict(a),
                }:
                    calls[turn, index] = CallRecord(name, a)
                case "tool_end", {
                    "turn": int(turn),
                    "index": int(index),
                    "result": str(text),
                    "status": str(s),
                }:
                    started = calls[turn, index]
                    calls[turn, index] = CallRecord(started.name, started.arguments, text, s)
    except (ValueError, KeyError) as error:
        raise JournalError(f"{path} does not hold a session: {error!r}") from error
    return Replay(session_id, transcript, calls)
