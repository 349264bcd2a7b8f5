"""The journal: whole records survive, torn tails are cut, a full disk is an error by name."""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
from pathlib import Path

import pytest

from dsv4_agent.session.journal import Journal, JournalError, read_journal


def make(tmp_path: Path, count: int = 3) -> Path:
    path = tmp_path / "s" / "journal.jsonl"
    journal = Journal.create(path)
    for number in range(count):
        journal.write("event", {"number": number, "text": "ü\n\ud800"}, sync=True)
    journal.close()
    return path


def test_records_come_back_in_order_and_numbered(tmp_path: Path) -> None:
    contents = read_journal(make(tmp_path))
    assert [record.number for record in contents.records] == [1, 2, 3]
    assert contents.records[2].data == {"number": 2, "text": "ü\n\ud800"}
    assert not contents.torn


def test_one_record_a_line_with_a_schema_version(tmp_path: Path) -> None:
    lines = make(tmp_path).read_bytes().splitlines()
    assert len(lines) == 3
    assert all(json.loads(line)["v"] == 1 for line in lines)


def test_only_the_owner_may_read(tmp_path: Path) -> None:
    path = make(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_record_is_in_the_file_when_write_returns(tmp_path: Path) -> None:
    path = tmp_path / "s" / "journal.jsonl"
    journal = Journal.create(path)
    journal.write("event", {})
    assert len(read_journal(path).records) == 1
    journal.close()


def test_every_torn_tail_is_tolerated(tmp_path: Path) -> None:
    path = make(tmp_path)
    whole = path.read_bytes()
    start = whole.rstrip(b"\n").rfind(b"\n") + 1
    for end in range(start, len(whole)):
        path.write_bytes(whole[:end])
        contents = read_journal(path)
        assert len(contents.records) == 2
        assert contents.torn is (end > start)


def test_reopening_cuts_the_tail_and_numbers_on(tmp_path: Path) -> None:
    path = make(tmp_path)
    with path.open("ab") as file:
        file.write(b'{"v":1,"n":4,"t":"x","ki')
    journal, contents = Journal.reopen(path)
    assert contents.torn
    assert journal.write("event", {}) == 4
    journal.close()
    assert [record.number for record in read_journal(path).records] == [1, 2, 3, 4]


def test_damage_before_the_end_is_an_error_with_the_line(tmp_path: Path) -> None:
    path = make(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"garbage\n" + lines[2])
    with pytest.raises(JournalError, match="damaged at line 2"):
        read_journal(path)


def test_a_missing_record_is_damage(tmp_path: Path) -> None:
    path = make(tmp_path, 4)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[2] + lines[3])
    with pytest.raises(JournalError, match="damaged at line 2"):
        read_journal(path)


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    path = make(tmp_path)
    path.write_bytes(path.read_bytes().replace(b'"v":1', b'"v":9'))
    with pytest.raises(JournalError, match="schema version 9"):
        read_journal(path)


def test_two_processes_cannot_write_one_journal(tmp_path: Path) -> None:
    path = tmp_path / "s" / "journal.jsonl"
    journal = Journal.create(path)
    with pytest.raises(JournalError, match="in use"):
        Journal.reopen(path)
    journal.close()
    Journal.reopen(path)[0].close()


def test_a_failed_write_is_named_and_final(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s" / "journal.jsonl"
    journal = Journal.create(path)
    journal.write("event", {})
    real = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) > 5:
            return real(descriptor, bytes(data[:5]))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(JournalError, match=r"No space left on device.*DSV4_STATE_DIR"):
        journal.write("event", {})
    monkeypatch.undo()
    with pytest.raises(JournalError):
        journal.write("event", {})
    assert journal.failed
    assert len(read_journal(path).records) == 1
    assert read_journal(path).torn
    journal.close()


def test_a_real_full_disk(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    journal = Journal(Path("/dev/full"), os.open("/dev/full", os.O_WRONLY), 0, durable=True)
    with pytest.raises(JournalError, match="No space left"):
        journal.write("event", {})
    journal.close()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("x")
    link = tmp_path / "journal.jsonl"
    link.symlink_to(target)
    with pytest.raises(JournalError):
        Journal.create(link)
    assert target.read_text() == "x"


def test_what_nobody_waits_for_is_on_disk_a_moment_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = threading.Event()
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.set())
    journal = Journal.create(tmp_path / "j" / "journal.jsonl")
    journal.write("event", {})
    assert not synced.is_set()
    journal.sync_soon()
    assert synced.wait(10)
    journal.close()


def test_closing_leaves_nothing_for_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    journal = Journal.create(tmp_path / "j" / "journal.jsonl")
    journal.write("event", {})
    journal.sync_soon()
    journal.close()
    journal.close()
    assert len(synced) == 1


def test_a_disk_that_fails_later_stops_the_next_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = threading.Event()

    def full(descriptor: int) -> None:
        tried.set()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    journal = Journal.create(tmp_path / "j" / "journal.jsonl")
    journal.write("event", {})
    journal.sync_soon()
    assert tried.wait(10)
    journal._late.close()
    with pytest.raises(JournalError, match="No space left"):
        journal.write("event", {})
    journal.close()


def test_one_wait_for_the_disk_serves_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    journal = Journal.create(tmp_path / "j" / "journal.jsonl")
    journal._late._delay = 60
    for _ in range(3):
        journal.write("event", {})
        journal.sync_soon()
    journal.write("event", {}, sync=True)
    journal.close()
    assert len(synced) == 1
