"""The list of sessions: newest first, found by id, beginning or title, also without their notes."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from dsv4_agent.dsml.segments import Segment
from dsv4_agent.session.session import Session
from dsv4_agent.session.store import (
    META_NAME,
    find_session,
    list_sessions,
    shown_events,
    title_of,
    write_note,
)
from dsv4_agent.session.transcript import Entry, EntryKind


def made(folder: Path, id: str, prompt: str | None = "do it", *, cwd: str = "/w", age: float = 0) -> Path:
    session = Session.create(id=id, directory=folder, durable=False)
    session.append(Entry(EntryKind.PROMPT, 0, (Segment("system", True),)))
    session.record_event({"type": "init", "cwd": cwd, "model": {"id": "nano"}})
    if prompt is not None:
        session.append_prompt(Entry(EntryKind.USER, 0, (Segment(prompt, False),)), prompt)
    session.close()
    when = session.journal_path.stat().st_mtime - age
    os.utime(session.journal_path, (when, when))
    return session.journal_path


def test_newest_first_and_only_those_with_a_prompt(tmp_path: Path) -> None:
    made(tmp_path, "old", age=100)
    made(tmp_path, "new", "say  this\nand that")
    made(tmp_path, "empty", None)
    infos = list_sessions(tmp_path)
    assert [(info.id, info.title, info.cwd, info.model, info.prompts) for info in infos] == [
        ("new", "say this and that", "/w", "nano", 1),
        ("old", "do it", "/w", "nano", 1),
    ]


def test_a_note_tells_more_than_the_beginning_of_the_journal(tmp_path: Path) -> None:
    journal = made(tmp_path, "one")
    write_note(journal.parent, title="Mine", cwd="/w", model="x", prompts=7)
    (info,) = list_sessions(tmp_path)
    assert (info.title, info.model, info.prompts) == ("Mine", "x", 7)
    (journal.parent / META_NAME).write_text("{")
    assert list_sessions(tmp_path)[0].title == "do it"


def test_finding(tmp_path: Path) -> None:
    made(tmp_path, "abc1", cwd="/a", age=10)
    made(tmp_path, "abc2", "other", cwd="/b")
    assert find_session("abc1", tmp_path).id == "abc1"  # type: ignore[union-attr]
    assert find_session("abc", tmp_path) is None
    assert find_session("other", tmp_path).id == "abc2"  # type: ignore[union-attr]
    assert find_session("last", tmp_path).id == "abc2"  # type: ignore[union-attr]
    assert find_session("last", tmp_path, cwd="/a").id == "abc1"  # type: ignore[union-attr]
    assert find_session("nothing", tmp_path) is None
    assert list_sessions(tmp_path / "nowhere") == []


def test_a_damaged_session_is_no_reason_to_fail(tmp_path: Path) -> None:
    made(tmp_path, "good")
    bad = made(tmp_path, "bad")
    bad.write_bytes(b"\xff\xfe not json\n" + bad.read_bytes())
    (tmp_path / "stray").write_text("x")
    assert {info.id for info in list_sessions(tmp_path)} >= {"good"}


def test_the_shown_events_in_order(tmp_path: Path) -> None:
    journal = made(tmp_path, "one")
    assert [event["type"] for event in shown_events(journal)] == ["init"]


def test_a_failed_note_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_note(tmp_path / "nowhere", title="x", cwd="/", model="m", prompts=1)
    assert not (tmp_path / "nowhere").exists()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(json, "dump", full)
    write_note(tmp_path, title="x", cwd="/", model="m", prompts=1)
    assert list(tmp_path.iterdir()) == []


def test_titles_are_short_and_on_one_line() -> None:
    assert title_of("a\n b") == "a b"
    assert len(title_of("x" * 500)) == 80


def test_the_note_is_private(tmp_path: Path) -> None:
    write_note(tmp_path, title="x", cwd="/", model="m", prompts=1)
    assert (tmp_path / META_NAME).stat().st_mode & 0o777 == 0o600
    assert json.loads((tmp_path / META_NAME).read_text())["title"] == "x"
