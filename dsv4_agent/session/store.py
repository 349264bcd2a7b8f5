"""The sessions on disk: which there are, what they are about, and what was shown of one."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dsv4_agent.session.journal import read_journal
from dsv4_agent.session.session import JOURNAL_NAME, state_directory

META_NAME = "meta.json"
TITLE_LIMIT = 80
_HEAD = 256 * 1024
"""Bytes of a journal that are looked at for a session without a note of what it is about."""


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """One line of a list of sessions. `updated` is seconds since the epoch."""

    id: str
    journal: Path
    title: str
    cwd: str
    model: str
    prompts: int
    updated: float


def sessions_directory() -> Path:
    """Where sessions lie, one folder each."""
    return state_directory() / "sessions"


def write_note(directory: Path, *, title: str, cwd: str, model: str, prompts: int) -> None:
    """Note what a session is about. Derived from its journal: a failure to write it loses nothing."""
    note = {"title": title, "cwd": cwd, "model": model, "prompts": prompts}
    part = directory / f".{META_NAME}.{os.getpid()}.part"
    with contextlib.suppress(OSError):
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(note, file)
            part.replace(directory / META_NAME)
        except OSError:
            part.unlink()  # a full disk
            raise


def list_sessions(directory: Path | None = None, *, limit: int = 200) -> list[SessionInfo]:
    """The newest sessions first; those without a prompt are left out."""
    folder = sessions_directory() if directory is None else directory
    found: list[tuple[float, Path]] = []
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            journal = Path(entry.path) / JOURNAL_NAME
            with contextlib.suppress(OSError):
                found.append((journal.stat().st_mtime, journal))
    infos: list[SessionInfo] = []
    for updated, journal in sorted(found, reverse=True):
        if len(infos) == limit:
            break
        if (info := _info(journal, updated)) is not None and info.prompts:
            infos.append(info)
    return infos


def find_session(wanted: str, directory: Path | None = None, *, cwd: str | None = None) -> SessionInfo | None:
    """The session of an id, of a unique beginning of one, or of a title; `last` is the newest of `cwd`."""
    infos = list_sessions(directory, limit=1_000)
    if wanted == "last":
        return next((info for info in infos if cwd is None or info.cwd == cwd), None)
    for matches in (
        [info for info in infos if info.id == wanted],
        [info for info in infos if info.title == wanted],
        [info for info in infos if info.id.startswith(wanted)],
    ):
        if len(matches) == 1:
            return matches[0]
    return None


def shown_events(journal: Path) -> Iterator[Mapping[str, object]]:
    """The published events of a session, in order. Raises `JournalError`."""
    for record in read_journal(journal).records:
        if record.kind == "event":
            yield record.data


def title_of(text: str) -> str:
    """A title from a first prompt."""
    line = " ".join(text.split())
    return line if len(line) <= TITLE_LIMIT else line[: TITLE_LIMIT - 1] + "…"


def _info(journal: Path, updated: float) -> SessionInfo | None:
    id = journal.parent.name
    try:
        note = json.loads((journal.parent / META_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        note = _from_head(journal)
    match note:
        case {"title": str(title), "cwd": str(cwd), "model": str(model), "prompts": int(prompts)}:
            return SessionInfo(id, journal, title, cwd, model, prompts, updated)
    return None


def _from_head(journal: Path) -> dict[str, object] | None:
    """What the beginning of a journal tells; a crash can come before the note was written."""
    with contextlib.suppress(OSError):
        with journal.open("rb") as file:
            lines = file.read(_HEAD).split(b"\n")[:-1]
        title, cwd, model, prompts = "", "", "", 0
        for line in lines:
            with contextlib.suppress(ValueError):
                match json.loads(line):
                    case {"kind": "event", "data": {"type": "init", "cwd": str(c), "model": {"id": str(m)}}}:
                        cwd, model = c, m
                    case {"kind": "prompt", "data": {"text": str(text)}}:
                        prompts += 1
                        title = title or title_of(text)
        return {"title": title, "cwd": cwd, "model": model, "prompts": prompts}
    return None
