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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import platformdirs

from dsv4_agent.session.journal import Contents, Journal, JournalError, read_journal
from dsv4_agent.session.transcript import Entry, EntryKind, Transcript

JOURNAL_NAME = "journal.jsonl"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class CallRecord:
    """What the journal knows of one tool call: `result` is the text for the model, None if it never ended.

    `before` names the state of the files that it found, where such states are kept.
    """

    name: str
    arguments: Mapping[str, object]
    result: str | None = None
    status: str | None = None
    before: str | None = None


@dataclass(frozen=True, slots=True)
class PromptMark:
    """Where a person's prompt begins in the transcript: a point to go back to.

    `summary` is the one that it brought, None where there was none to bring: going back makes it due again.
    """

    entry: int
    text: str
    summary: str | None = None


@dataclass(slots=True)
class Replay:
    """A session read back: `calls` by (turn, index within the turn), `summary` of what was compacted.

    `compacted` counts the prompts that only a summary is left of.
    """

    session_id: str
    transcript: Transcript
    calls: dict[tuple[int, int], CallRecord] = field(default_factory=dict)
    prompts: list[PromptMark] = field(default_factory=list)
    summary: str | None = None
    compacted: int = 0

    def rewind(self, kept: int) -> None:
        """Forget everything from prompt number `kept` (from 0) on. Raises `IndexError`, `ValueError`."""
        self.transcript.cut(self.prompts[kept].entry)
        self.summary = self.prompts[kept].summary
        del self.prompts[kept:]
        self.calls = {at: call for at, call in self.calls.items() if at[0] <= self.transcript.turn}

    def compact(self, summary: str) -> None:
        """Keep of everything but the opening only `summary`, which the next prompt brings."""
        self.transcript.cut(1)
        self.compacted += len(self.prompts)
        self.prompts.clear()
        self.calls.clear()
        self.summary = summary


def state_directory() -> Path:
    """Where sessions live: DSV4_STATE_DIR, else the platform's state folder."""
    override = os.environ.get("DSV4_STATE_DIR")
    return Path(override) if override else Path(platformdirs.user_state_dir("dsv4", appauthor=False))


class Session:
    """One conversation on disk. Make it with `create` or `resume`."""

    def __init__(self, journal: Journal, state: Replay, *, ephemeral: bool) -> None:
        self.id = state.session_id
        self.directory = journal.path.parent
        self._state = state
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
        return cls(journal, Replay(name, Transcript()), ephemeral=ephemeral)

    @classmethod
    def resume(cls, path: Path, *, durable: bool = True) -> Self:
        """Continue the session of a journal file. Raises `JournalError`."""
        journal, contents = Journal.reopen(path, durable=durable)
        try:
            replayed = _rebuild(contents, path)
        except JournalError:
            journal.close()
            raise
        return cls(journal, replayed, ephemeral=False)

    @property
    def transcript(self) -> Transcript:
        """The conversation; change it through this session only."""
        return self._state.transcript

    @property
    def recorded_calls(self) -> Mapping[tuple[int, int], CallRecord]:
        """What is known of the calls of the transcript, by (turn, index within the turn)."""
        return self._state.calls

    @property
    def prompts(self) -> Sequence[PromptMark]:
        """The points to go back to, oldest first."""
        return self._state.prompts

    @property
    def prompts_said(self) -> int:
        """How many prompts the conversation has had, those included that only a summary is left of."""
        return self._state.compacted + len(self._state.prompts)

    @property
    def summary(self) -> str | None:
        """What compaction left of an earlier conversation and the next prompt must bring."""
        return self._state.summary

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

    def append(self, entry: Entry, *, sync: bool = False, soon: bool = False) -> None:
        """Journal an entry, then make it part of the transcript. Raises `JournalError`.

        `sync` waits until it is on disk; with `soon` it is there in a moment.
        """
        self._journal.write("entry", entry.to_json(), sync=sync)
        if soon:
            self._journal.sync_soon()
        self.transcript.append(entry)

    def append_prompt(self, entry: Entry, text: str) -> None:
        """Append what a person said, a point to go back to; it brings the summary. Raises `JournalError`."""
        mark = PromptMark(len(self.transcript.entries), text, self._state.summary)
        self._journal.write("prompt", {"entry": mark.entry, "text": text})
        self._state.prompts.append(mark)
        self._state.summary = None
        self.append(entry, sync=True)

    def rewind(self, kept: int) -> PromptMark:
        """Go back to before prompt number `kept`, counted from 0; returns its mark.

        Raises `JournalError`, and `IndexError` where there is no such prompt; then nothing has changed.
        """
        mark = self.prompts[kept]
        self._journal.write("rewind", {"kept": kept}, sync=True)
        self._state.rewind(kept)
        return mark

    def compact(self, summary: str) -> None:
        """Keep of the conversation only its opening and `summary`. Raises `JournalError`."""
        self._journal.write("compact", {"summary": summary}, sync=True)
        self._state.compact(summary)

    def replace_prompt(self, entry: Entry) -> None:
        """Put another opening in front of the conversation. Raises `JournalError`."""
        self._journal.write("opening", entry.to_json(), sync=True)
        self.transcript.replace_prompt(entry)

    def rename(self, title: str) -> None:
        """Put a title of the user's on record. Raises `JournalError`."""
        self._journal.write("title", {"title": title})

    def record_event(self, event: Mapping[str, object], *, sync: bool = False) -> None:
        """Journal an event that front ends are about to see. Raises `JournalError`."""
        self._journal.write("event", event, sync=sync)

    def start_call(
        self,
        turn: int,
        index: int,
        name: str,
        arguments: Mapping[str, object],
        before: str | None = None,
        *,
        changes: bool = True,
    ) -> None:
        """Record that a call is about to run; on disk, if it `changes` anything.

        Raises `JournalError`: then it must not run.
        """
        data = {"turn": turn, "index": index, "name": name, "arguments": dict(arguments)}
        if before is not None:
            data["before"] = before
        self._journal.write("tool_start", data, sync=changes)
        self._state.calls[turn, index] = CallRecord(name, arguments, before=before)

    def end_call(self, turn: int, index: int, result: str, status: str) -> None:
        """Record how a call ended; it gets to disk with its result.

        Raises `JournalError`.
        """
        data = {"turn": turn, "index": index, "result": result, "status": status}
        self._journal.write("tool_end", data)
        started = self._state.calls[turn, index]
        self._state.calls[turn, index] = replace(started, result=result, status=status)

    def close(self) -> None:
        """Close the journal; an ephemeral session's folder is removed."""
        self._journal.close()
        if self._ephemeral:
            shutil.rmtree(self.directory, ignore_errors=True)


def replay(path: Path) -> Replay:
    """Rebuild a session from its journal alone, without touching the file. Raises `JournalError`."""
    return _rebuild(read_journal(path), path)


def _rebuild(contents: Contents, path: Path) -> Replay:
    state = Replay(path.parent.name, Transcript())
    try:
        for record in contents.records:
            match record.kind, record.data:
                case "session", {"id": str(found)}:
                    state.session_id = found
                case "entry", data:
                    entry = Entry.from_json(data)
                    state.transcript.append(entry)
                    state.summary = None if entry.kind is EntryKind.USER else state.summary
                case "opening", data:
                    state.transcript.replace_prompt(Entry.from_json(data))
                case "prompt", {"entry": int(at), "text": str(text)}:
                    state.prompts.append(PromptMark(at, text, state.summary))
                case "rewind", {"kept": int(kept)}:
                    state.rewind(kept)
                case "compact", {"summary": str(summary)}:
                    state.compact(summary)
                case "tool_start", {
                    "turn": int(turn),
                    "index": int(index),
                    "name": str(name),
                    "arguments": dict(a),
                }:
                    before = record.data.get("before")
                    state.calls[turn, index] = CallRecord(
                        name, a, before=before if isinstance(before, str) else None
                    )
                case "tool_end", {
                    "turn": int(turn),
                    "index": int(index),
                    "result": str(text),
                    "status": str(s),
                }:
                    started = state.calls[turn, index]
                    state.calls[turn, index] = replace(started, result=text, status=s)
    except (ValueError, LookupError) as error:
        raise JournalError(f"{path} does not hold a session: {error!r}") from error
    # A crash may come between a mark and its entry.
    state.prompts = [mark for mark in state.prompts if mark.entry < len(state.transcript.entries)]
    return state
