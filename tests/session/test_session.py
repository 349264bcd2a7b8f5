"""A session on disk: journal first, replay exact, crash recovery of calls."""

from __future__ import annotations

from pathlib import Path

import pytest

from dsv4_agent.dsml.segments import Segment
from dsv4_agent.session.journal import JournalError
from dsv4_agent.session.session import CallRecord, Session, replay, state_directory
from dsv4_agent.session.transcript import Entry, EntryKind


def prompt() -> Entry:
    return Entry(EntryKind.PROMPT, 0, (Segment("sys", True),), (1, 2))


def test_replay_rebuilds_the_transcript_from_the_journal_alone(tmp_path: Path) -> None:
    session = Session.create(directory=tmp_path)
    session.append(prompt())
    session.append(
        Entry(EntryKind.USER, 0, (Segment("x", False),), (3,), ({"role": "user", "content": "x"},))
    )
    session.record_event({"type": "turn.started", "turn": 1})
    session.append(Entry(EntryKind.SAMPLED, 1, (Segment("y", True),), (4,), closed=False, reasoning_tokens=1))
    session.close()
    replayed = replay(session.journal_path)
    assert replayed.session_id == session.id
    assert replayed.transcript.entries == session.transcript.entries
    assert replayed.transcript.tokens() == [1, 2, 3, 4]


def test_a_failed_journal_write_leaves_the_transcript_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session.create(directory=tmp_path)

    def refuse(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.write", refuse)
    with pytest.raises(JournalError):
        session.append(prompt())
    assert session.transcript.entries == ()
    assert session.failed
    monkeypatch.undo()
    session.close()


def test_calls_are_recorded_before_and_after(tmp_path: Path) -> None:
    session = Session.create(directory=tmp_path)
    session.start_call(1, 0, "shell", {"command": "make"})
    assert replay(session.journal_path).calls[1, 0] == CallRecord("shell", {"command": "make"})
    session.end_call(1, 0, "done", "completed")
    session.close()
    resumed = Session.resume(session.journal_path)
    assert resumed.recorded_calls[1, 0].result == "done"
    resumed.close()


def test_resume_goes_on_where_the_journal_ends(tmp_path: Path) -> None:
    session = Session.create(directory=tmp_path, id="abc")
    session.append(prompt())
    session.close()
    resumed = Session.resume(tmp_path / "abc" / "journal.jsonl")
    resumed.append(Entry(EntryKind.USER, 0, (Segment("x", False),), (3,)))
    resumed.close()
    assert replay(resumed.journal_path).transcript.tokens() == [1, 2, 3]


@pytest.mark.parametrize("id", ["", "..", "a/b", ".hidden", "x" * 101, "a\n"])
def test_an_id_cannot_leave_the_folder(tmp_path: Path, id: str) -> None:
    with pytest.raises(JournalError, match="unusable"):
        Session.create(directory=tmp_path, id=id)


def test_an_id_is_used_once(tmp_path: Path) -> None:
    Session.create(directory=tmp_path, id="a").close()
    with pytest.raises(JournalError, match="exists already"):
        Session.create(directory=tmp_path, id="a")


def test_an_ephemeral_session_leaves_nothing() -> None:
    session = Session.create(ephemeral=True)
    assert session.journal_path.exists()
    session.close()
    assert not session.directory.exists()


def test_the_state_folder_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSV4_STATE_DIR", str(tmp_path))
    assert state_directory() == tmp_path
    session = Session.create()
    assert session.directory.parent == tmp_path / "sessions"
    session.close()


def test_an_unwritable_state_folder_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(JournalError, match="DSV4_STATE_DIR"):
        Session.create(directory=blocked / "sessions")


def test_a_journal_without_sense_is_named(tmp_path: Path) -> None:
    session = Session.create(directory=tmp_path)
    session.record_event({})
    session._journal.write("tool_end", {"turn": 1, "index": 0, "result": "x", "status": "y"})
    session.close()
    with pytest.raises(JournalError, match="does not hold a session"):
        replay(session.journal_path)


def user(text: str, turn: int = 0) -> Entry:
    return Entry(EntryKind.USER, turn, (Segment(text, False),), (10, turn))


def sampled(turn: int) -> Entry:
    return Entry(EntryKind.SAMPLED, turn, (Segment("y", True),), (20, turn))


def talked(tmp_path: Path) -> Session:
    session = Session.create(directory=tmp_path)
    session.append(prompt())
    for turn in (1, 2, 3):
        session.append_prompt(user(f"p{turn}", turn - 1), f"p{turn}")
        session.append(sampled(turn))
        session.start_call(turn, 0, "read", {})
        session.end_call(turn, 0, "r", "completed")
    return session


def same(session: Session) -> None:
    """What the journal alone gives is what the session is."""
    replayed = replay(session.journal_path)
    assert replayed.transcript.entries == session.transcript.entries
    assert replayed.prompts == list(session.prompts)
    assert replayed.calls == session.recorded_calls
    assert replayed.summary == session.summary


def test_going_back_forgets_what_came_after_in_the_journal_too(tmp_path: Path) -> None:
    session = talked(tmp_path)
    assert session.rewind(1).text == "p2"
    assert session.transcript.tokens() == [1, 2, 10, 0, 20, 1]
    assert [mark.text for mark in session.prompts] == ["p1"]
    assert set(session.recorded_calls) == {(1, 0)}
    same(session)
    session.append_prompt(user("other", 1), "other")
    same(session)
    with pytest.raises(IndexError):
        session.rewind(9)
    same(session)
    session.rewind(0)
    assert session.transcript.entries == (prompt(),)
    same(session)


def test_compaction_keeps_the_opening_and_the_summary_until_a_prompt_brings_it(tmp_path: Path) -> None:
    session = talked(tmp_path)
    session.compact("what matters")
    assert session.transcript.entries == (prompt(),)
    assert session.summary == "what matters" and session.prompts == []
    same(session)
    session.append_prompt(user("on"), "on")
    assert session.summary is None
    same(session)
    session.append_prompt(user("and on"), "and on")
    session.rewind(1)
    assert session.summary is None
    session.rewind(0)
    assert session.summary == "what matters"  # the prompt that brought it is no more
    same(session)


def test_another_opening_is_in_the_journal(tmp_path: Path) -> None:
    session = talked(tmp_path)
    session.replace_prompt(Entry(EntryKind.PROMPT, 0, (Segment("other", True),), (7, 8, 9)))
    assert session.transcript.tokens()[:4] == [7, 8, 9, 10]
    same(session)


def test_a_crash_between_a_mark_and_its_entry_leaves_no_mark(tmp_path: Path) -> None:
    session = talked(tmp_path)
    session.close()
    lines = session.journal_path.read_bytes().splitlines(keepends=True)
    mark = next(i for i, line in enumerate(lines) if b'"text":"p3"' in line and b'"kind":"prompt"' in line)
    session.journal_path.write_bytes(b"".join(lines[: mark + 1]))
    assert [m.text for m in replay(session.journal_path).prompts] == ["p1", "p2"]
