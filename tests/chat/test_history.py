from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from dsv4_agent.chat import history as module
from dsv4_agent.chat.history import Browser, History, history_path

HERE = Path("/work/here")


def opened(path: Path, project: Path = HERE, cap: int = 5_000) -> History:
    return History(project, path=path / "state" / "history.jsonl", cap=cap)


def test_prompts_come_back_newest_first_in_the_next_session(tmp_path: Path) -> None:
    first = opened(tmp_path)
    for text in ("one", "two\nlines", "three"):
        first.add(text)
    assert opened(tmp_path).browse() == ("three", "two\nlines", "one")


def test_file_and_folder_are_private(tmp_path: Path) -> None:
    opened(tmp_path).add("x")
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "state" / "history.jsonl").stat().st_mode) == 0o600


def test_it_lives_in_the_state_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSV4_STATE_DIR", str(tmp_path))
    assert history_path() == tmp_path / "history.jsonl"


def test_blanks_and_repetitions_are_not_kept(tmp_path: Path) -> None:
    kept = opened(tmp_path)
    for text in ("a", "a", " \n", "b", "a"):
        kept.add(text)
    lines = (tmp_path / "state" / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["a", "b", "a"]
    assert kept.browse() == ("a", "b")


def test_the_own_project_comes_first(tmp_path: Path) -> None:
    opened(tmp_path).add("mine")
    opened(tmp_path, Path("/work/there")).add("theirs")
    assert opened(tmp_path).browse() == ("mine", "theirs")
    assert opened(tmp_path).search("") == ("theirs", "mine")


def test_search_is_by_substring_and_a_capital_makes_case_count(tmp_path: Path) -> None:
    kept = opened(tmp_path)
    for text in ("fix Parser", "fix lexer", "the parser again"):
        kept.add(text)
    assert kept.search("parser") == ("the parser again", "fix Parser")
    assert kept.search("Parser") == ("fix Parser",)


@pytest.mark.parametrize(
    "tail", [b'{"text": "half', b"\xff\xfe\x00", b'{"text": 3}', b"[" * 100_000, b'{"text":"\\ud800","cwd":']
)
def test_a_torn_tail_costs_one_entry_only(tmp_path: Path, tail: bytes) -> None:
    opened(tmp_path).add("before")
    with (tmp_path / "state" / "history.jsonl").open("ab") as file:
        file.write(tail)
    opened(tmp_path).add("after")
    assert opened(tmp_path).browse() == ("after", "before")


def test_the_file_is_cut_to_its_newest_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SLACK", 5)
    kept = opened(tmp_path, cap=10)
    for number in range(40):
        kept.add(f"prompt {number}")
    lines = (tmp_path / "state" / "history.jsonl").read_text().splitlines()
    assert 10 <= len(lines) <= 15
    assert json.loads(lines[-1])["text"] == "prompt 39"
    assert stat.S_IMODE((tmp_path / "state" / "history.jsonl").stat().st_mode) == 0o600
    assert kept.browse()[0] == "prompt 39"


def test_several_processes_append_and_compact_at_once(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom dsv4_agent.chat import history\n"
        "history._SLACK = 20\nhistory._LOCK_SECONDS = 60\n"
        "kept = history.History(Path('/w'), path=Path(sys.argv[1]) / 'state' / 'history.jsonl', cap=1000)\n"
        "[kept.add(f'{sys.argv[2]} {n} ' + 'x' * 500) for n in range(60)]\n"
        "assert kept.warning is None, kept.warning\n"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path), name]) for name in ("a", "b", "c")
    ]
    assert [process.wait() for process in running] == [0, 0, 0]
    texts = {text.rsplit(" ", 1)[0] for text in opened(tmp_path, Path("/w")).browse()}
    assert texts == {f"{name} {number}" for name in "abc" for number in range(60)}


def test_another_process_is_seen_at_once(tmp_path: Path) -> None:
    mine, other = opened(tmp_path), opened(tmp_path)
    assert mine.browse() == ()
    other.add("from over there")
    assert mine.browse() == ("from over there",)


def test_an_unusable_folder_warns_and_the_session_still_remembers(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    kept = opened(tmp_path)
    kept.add("one")
    kept.add("two")
    assert kept.browse() == ("two", "one")
    assert kept.warning is not None and "history" in kept.warning


def test_a_directory_in_the_place_of_the_file_warns(tmp_path: Path) -> None:
    (tmp_path / "state" / "history.jsonl").mkdir(parents=True)
    kept = opened(tmp_path)
    kept.add("one")
    assert kept.browse() == ("one",) and kept.warning is not None


def test_a_link_in_the_place_of_the_file_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "victim").write_text("")
    (tmp_path / "state" / "history.jsonl").symlink_to(tmp_path / "victim")
    kept = opened(tmp_path)
    kept.add("one")
    assert (tmp_path / "victim").read_text() == "" and kept.warning is not None


def test_a_full_disk_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    kept = opened(tmp_path)
    kept.add("one")
    assert kept.browse() == ("one",)
    assert kept.warning is not None and "No space left" in kept.warning


def test_a_huge_prompt_stays_in_this_session(tmp_path: Path) -> None:
    kept = opened(tmp_path)
    kept.add("x" * 200_000)
    assert len(kept.browse()[0]) == 200_000
    assert opened(tmp_path).browse() == ()


def test_a_lone_surrogate_is_replaced(tmp_path: Path) -> None:
    opened(tmp_path).add("a\ud800b")
    assert opened(tmp_path).browse() == ("a\ufffdb",)


def test_browsing_comes_back_to_the_draft_with_the_edits_made_on_the_way() -> None:
    browser = Browser(("new", "old"), "draft")
    assert browser.newer("draft") is None
    assert browser.older("draft") == "new"
    assert browser.older("new, edited") == "old"
    assert browser.older("old") is None
    assert browser.newer("old") == "new, edited"
    assert browser.newer("new, edited") == "draft"
    assert browser.at_draft
