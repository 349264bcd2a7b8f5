"""What `dsv4 run` prints and writes, by format and option."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from pathlib import Path
from typing import Any

import pytest

RENAME = """\
think: First I look.
text: I read it.
call: read
  path: a.py
---
think: Now the edits.
call: edit
  path: a.py
  old_string: old
  new_string: new
call: edit
  path: b.py
  old_string: old
  new_string: new
  replace_all: true
---
text: Renamed old to new.
"""
ANSWER = "think: easy\ntext: All is well.\n"
HOSTILE = "text: |\n  hi \x1b]0;owned\x07 [bold]x[/bold] \u202eabc\u202c\x9b2J\n"


def test_text_mode_answers_on_stdout_and_shows_progress_on_stderr(dsv4: Any) -> None:
    done = dsv4.run(RENAME)
    assert done.returncode == 0
    assert done.stdout == b"Renamed old to new.\n"
    shown = done.stderr.decode()
    assert "First I look." in shown and "I read it." in shown and "read a.py" in shown
    assert "-def old():" in shown and "+def new():" in shown
    assert "\x1b" not in shown
    assert "Renamed old" not in shown
    assert (dsv4.repository / "b.py").read_text() == "from a import new\n\nprint(new())\n"


def test_stream_json_tells_everything_in_order(dsv4: Any, helpers: Any) -> None:
    code, events = dsv4.stream(RENAME)
    assert code == 0
    init, result = events[0], events[-1]
    assert init["model"] == {"id": "scripted:script-1.txt", "backend": "scripted", "context_window": 1048576}
    assert init["git"]["branch"] == "main" and init["git"]["head"] == helpers.git(
        dsv4.repository, "rev-parse", "HEAD"
    )
    assert [e["turn"] for e in events if e["type"] == "turn.completed"] == [1, 2, 3]
    items = [e["item"] for e in events if e["type"] == "item.completed"]
    assert [i["type"] for i in items] == [
        "reasoning", "agent_message", "tool_call", "reasoning", "file_change", "file_change", "agent_message",
    ]  # fmt: skip
    assert all(i["text"] == "" for i in items if i["type"] == "reasoning")
    assert not [e for e in events if e["type"] == "item.delta"]
    assert result["subtype"] == "success" and result["result"] == "Renamed old to new."
    assert result["files_changed"] == ["a.py", "b.py"]
    assert result["git"]["diffstat"] == {"files": 2, "insertions": 3, "deletions": 3}
    assert result["num_turns"] == 3 and result["usage"]["output_tokens"] > 0


def test_include_reasoning_and_partial(dsv4: Any) -> None:
    _, events = dsv4.stream(RENAME, "--include-reasoning", "--include-partial")
    whole = {
        e["item"]["id"]: e["item"]["text"]
        for e in events
        if e["type"] == "item.completed" and "text" in e["item"]
    }
    parts: dict[str, str] = {}
    for event in events:
        if event["type"] == "item.delta":
            parts[event["id"]] = parts.get(event["id"], "") + event["text"]
    assert "First I look." in whole.values()
    assert {key: text.strip() for key, text in parts.items()} == {
        key: text.strip() for key, text in whole.items()
    }


def test_partial_without_reasoning_keeps_thinking_private(dsv4: Any) -> None:
    done = dsv4.run("think: secret thought\ntext: open answer\n", "--json", "--include-partial")
    assert b"secret" not in done.stdout and b'"item.delta"' in done.stdout


def test_json_is_the_result_alone(dsv4: Any, helpers: Any) -> None:
    done = dsv4.run(ANSWER, "--output-format", "json")
    (result,) = helpers.check_stream(done.stdout)
    assert result["result"] == "All is well." and result["exit_code"] == done.returncode == 0
    assert done.stderr == b""


@pytest.mark.parametrize("format", ["text", "json", "stream-json"])
def test_hostile_text_can_t_steer_a_terminal(dsv4: Any, format: str) -> None:
    done = dsv4.run(HOSTILE + "---\n" + ANSWER, "--output-format", format)
    everything = (done.stdout + done.stderr).decode()
    assert not set(everything) & set("\x1b\x07\x9b\u202e\u202c")
    assert "[bold]x[/bold]" in everything


def test_colour_only_on_a_terminal(dsv4: Any) -> None:
    master, slave = pty.openpty()
    model = dsv4.script(RENAME)
    process = dsv4.start("run", "x", "--model", model, stderr=slave, stdout=subprocess.PIPE)
    os.close(slave)
    shown = b""
    while True:
        try:
            block = os.read(master, 4096)
        except OSError:  # the terminal's other side is closed
            break
        shown += block
    process.communicate()
    os.close(master)
    assert b"\x1b[32m  +def new():" in shown and b"\x1b[2m" in shown
    assert process.returncode == 0


def test_report_files(dsv4: Any, tmp_path: Path, helpers: Any) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    options = ("-o", str(tmp_path / "last"), "--patch", str(tmp_path / "p.diff"), "--summary", str(summary))
    script = RENAME.replace(
        "text: Renamed", "call: write\n  path: new/file.txt\n  content: x\n---\ntext: Renamed"
    )
    assert dsv4.run(script, *options).returncode == 0
    assert (tmp_path / "last").read_text() == "Renamed old to new."
    assert summary.read_text().startswith("before\n### dsv4: finished (exit 0)")
    helpers.git(dsv4.repository, "stash", "-q", "-u")
    subprocess.run(["git", "apply", str(tmp_path / "p.diff")], cwd=dsv4.repository, check=True)
    assert (dsv4.repository / "new" / "file.txt").read_text() == "x"
    assert "def new" in (dsv4.repository / "a.py").read_text()


def test_report_files_don_t_touch_the_answer_of_a_failed_run(dsv4: Any, tmp_path: Path) -> None:
    done = dsv4.run("error: broken\n", "--patch", str(tmp_path / "p"), "--summary", str(tmp_path / "s"))
    assert done.returncode == 1
    assert (tmp_path / "p").read_bytes() == b""
    assert "broken" in (tmp_path / "s").read_text()


def test_ephemeral_leaves_no_journal(dsv4: Any, tmp_path: Path) -> None:
    dsv4.environment["TMPDIR"] = str(tmp_path / "tmp")
    (tmp_path / "tmp").mkdir()
    assert dsv4.run(ANSWER, "--ephemeral").returncode == 0
    assert not dsv4.journals() and not list((tmp_path / "tmp").iterdir())
    assert dsv4.run(ANSWER, "--session-id", "mine").returncode == 0
    assert [path.parent.name for path in dsv4.journals()] == ["mine"]
    assert not list((tmp_path / "tmp").iterdir())


def test_output_schema(dsv4: Any) -> None:
    schema = json.dumps({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]})
    code, events = dsv4.stream('text: {"n": 3}\n', "--output-schema", schema)
    assert code == 0 and events[-1]["structured_output"] == {"n": 3}
    code, events = dsv4.stream('text: no json\n---\ntext: {"n": 4}\n', "--output-schema", schema)
    assert code == 0 and events[-1]["structured_output"] == {"n": 4} and events[-1]["num_turns"] == 2
    code, events = dsv4.stream('text: no\n---\ntext: {"n": "x"}\n', "--output-schema", schema)
    assert (
        code == 56
        and events[-1]["subtype"] == "error_schema"
        and "not of type 'integer'" in events[-1]["error"]
    )
    code, events = dsv4.stream("text: no\n---\ntext: no\n", "--output-schema", schema, "--max-turns", "1")
    assert code == 53


def test_a_run_that_can_not_begin_is_in_the_summary(dsv4: Any, tmp_path: Path) -> None:
    summary = tmp_path / "s.md"
    code, _ = dsv4.stream("text: x\n", "--output-schema", "{", "--summary", str(summary))
    assert code == 42 and "`error_input` (exit 42)" in summary.read_text()


def test_a_report_that_can_not_be_written_neither_hides_nor_stops_another(dsv4: Any, tmp_path: Path) -> None:
    last = tmp_path / "last"
    reports = ("--patch", "/dev/full", "-o", str(last), "--summary", "/dev/full")
    write = "call: write\n  path: new{}.txt\n  content: x\n---\n"
    done = dsv4.run(write.format(1) + "text: Done.\n", *reports)
    assert done.returncode == 54 and last.read_text() and done.stderr.count(b"No space left") == 2
    done = dsv4.run(write.format(2) + "error: broken\n", *reports)
    assert done.returncode == 1 and b"broken" in done.stderr and done.stderr.count(b"No space left") == 2


def test_a_file_too_large_for_the_patch_is_a_change_and_is_named(dsv4: Any, tmp_path: Path) -> None:
    script = tmp_path / "large.txt"
    script.write_text("call: shell\n  command: truncate -s 17M made.bin\n---\ntext: Done.\n")
    patch = tmp_path / "made.patch"
    done = dsv4(
        "run", "x", "--model", f"scripted:{script}", "--permission-mode", "auto",
        "--patch", str(patch), "--fail-if-no-changes",
    )  # fmt: skip
    assert done.returncode == 0 and patch.read_bytes() == b""
    assert b"not in the patch" in done.stderr and b"made.bin" in done.stderr


def test_an_edit_in_a_submodule_is_a_change_and_is_named(dsv4: Any, tmp_path: Path) -> None:
    inner = dsv4.repository / "sub"
    inner.mkdir()
    (inner / "b.txt").write_text("old\n")
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.invalid", "-c", "commit.gpgsign=false")
    for place in (inner, dsv4.repository):
        for words in (("init", "-q"), ("add", "-A"), ("commit", "-q", "-m", "x")):
            subprocess.run(["git", *identity, *words], cwd=place, check=True, capture_output=True)
    script = "call: read\n  path: sub/b.txt\n---\n"
    script += "call: edit\n  path: sub/b.txt\n  old_string: old\n  new_string: new\n---\ntext: Done.\n"
    code, events = dsv4.stream(script, "--fail-if-no-changes")
    assert code == 0 and events[-1]["files_changed"] == ["sub/b.txt"]


def test_a_schema_that_fails_at_the_end_hides_nothing_that_was_done(dsv4: Any, tmp_path: Path) -> None:
    """It leads back to itself, which shows only when it is applied."""
    script = 'call: write\n  path: new.txt\n  content: x\n---\ntext: {"n": 1}\n'
    patch = tmp_path / "made.patch"
    code, events = dsv4.stream(script, "--output-schema", '{"$ref": "#"}', "--patch", str(patch))
    assert code == 42 and events[-1]["files_changed"] == ["new.txt"] and events[-1]["num_turns"] == 2
    assert b"new.txt" in patch.read_bytes()


def test_the_schema_is_checked_before_the_model_is_asked(dsv4: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text('{"type": "nonsense"}')
    for schema in (str(tmp_path / "bad.json"), "{not json", str(tmp_path / "missing"), '{"$ref": "a.json"}'):
        code, events = dsv4.stream("error: must not be asked\n", "--output-schema", schema)
        assert code == 42 and len(events) == 1


def test_the_script_page_and_other_topics(dsv4: Any) -> None:
    for topic, word in {
        "exit-codes": "141",
        "events": "turn.completed",
        "scripted": "think:",
        "schema": "$defs",
    }.items():
        done = dsv4("help", topic)
        assert done.returncode == 0 and word in done.stdout.decode()
    assert dsv4("help", "nonsense").returncode == 2


def test_piped_to_jq_like_readers(dsv4: Any) -> None:
    """Every line is one object, with no blank or torn lines in between."""
    done = dsv4.run(RENAME, "--json")
    assert done.stdout.endswith(b"}\n")
    assert all(line.startswith(b'{"type":') for line in done.stdout.splitlines())
