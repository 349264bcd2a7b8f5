"""Every exit code that can be provoked, each with one line of cause and remedy and a valid result."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures_path import SHARED

ANSWER = "text: fine\n"
EDIT = "call: edit\n  path: a.py\n  old_string: old\n  new_string: new\n---\n" + ANSWER
SHELL = "call: shell\n  command: echo hi\n---\n" + ANSWER


def failing(dsv4: Any, helpers: Any, *arguments: str, **options: Any) -> dict[str, Any]:
    """Run in json mode; the result, which agrees with the exit code and the one line on stderr."""
    done = dsv4("run", *arguments, "--output-format", "json", **options)
    (result,) = helpers.check_stream(done.stdout)
    assert result["exit_code"] == done.returncode != 0
    lines = done.stderr.decode().splitlines()
    assert [line for line in lines if line.startswith("dsv4: error: ")] == lines[-1:]
    assert result["error"] and "\n" not in result["error"]
    return dict(result)


@pytest.mark.parametrize(
    ("arguments", "code", "subtype", "words"),
    [
        (["", "--model", "scripted:/none"], 42, "error_input", "empty"),
        (["x", "--model", "scripted:/none"], 52, "error_config", "dsv4 help scripted"),
        (["x", "--model", "/no/such/model"], 52, "error_config", "checkpoint folder"),
        (["x", "-C", "/no/such/directory"], 42, "error_input", "-C"),
        (["x", "-C", "/"], 42, "error_input", "git init"),
        (["--prompt-file", "/no/such/file"], 42, "error_input", "can't be read"),
        (["x", "--patch", "/no/such/dir/p"], 42, "error_input", "--patch"),
    ],
)
def test_bad_input(
    dsv4: Any, helpers: Any, arguments: list[str], code: int, subtype: str, words: str
) -> None:
    result = failing(dsv4, helpers, *arguments)
    assert (result["exit_code"], result["subtype"]) == (code, subtype)
    assert words in result["error"]
    assert not dsv4.journals()


def test_a_script_with_a_syntax_error_names_the_line(dsv4: Any, helpers: Any) -> None:
    result = failing(dsv4, helpers, "x", "--model", dsv4.script("text: a\nnonsense\n"))
    assert result["exit_code"] == 52 and ":2:" in result["error"]


@pytest.mark.parametrize(
    ("script", "options", "code", "subtype"),
    [
        ("error: the GPU is on fire\n", [], 1, "error_model"),
        (EDIT, ["--max-turns", "1"], 53, "error_max_turns"),
        (EDIT, ["--max-tokens", "5"], 53, "error_max_tokens"),
        (EDIT, ["--max-tool-calls", "0"], 53, "error_max_tool_calls"),
        ("delay: 30\n" + ANSWER, ["--max-time", "0.3"], 53, "error_max_time"),
        (SHELL, ["--fail-on-denied"], 57, "error_denied"),
        (ANSWER, ["--fail-if-no-changes"], 58, "error_no_changes"),
        (ANSWER, ["--session-id", "../escape"], 42, "error_input"),
        (ANSWER, ["--tools", "read,nonsense"], 42, "error_input"),
        ("call: grep\n  pattern: x\n---\n" * 6, [], 1, "error_loop"),
    ],
)
def test_failing_runs(dsv4: Any, script: str, options: list[str], code: int, subtype: str) -> None:
    got, events = dsv4.stream(script, *options)
    assert (got, events[-1]["subtype"]) == (code, subtype)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--nonsense"],
        ["x", "--max-turns", "0"],
        ["x", "--max-time", "soon"],
        ["x", "--permission-mode", "yolo"],
        ["x", "--allowed-tools", "shell("],
        ["x", "--grammar", "maybe"],
        ["x", "--continue"],
    ],
)
def test_a_wrong_command_line_is_2(dsv4: Any, arguments: list[str]) -> None:
    done = dsv4("run", *arguments)
    assert done.returncode == 2 and done.stdout == b"" and b"Error" in done.stderr


def test_a_denial_is_told_to_the_model_and_recorded(dsv4: Any) -> None:
    code, events = dsv4.stream(SHELL)
    assert code == 0
    (denied,) = events[-1]["permission_denials"]
    assert denied["tool"] == "shell" and denied in events
    assert dsv4.stream(SHELL, "--allowed-tools", "shell(echo:*)")[1][-1]["permission_denials"] == []
    assert dsv4.stream(SHELL, "--permission-mode", "auto")[1][-1]["permission_denials"] == []


def test_plan_and_read_only_change_nothing(dsv4: Any) -> None:
    for option in (["--permission-mode", "plan"], ["--sandbox", "read-only"]):
        code, events = dsv4.stream(EDIT, *option)
        assert code == 0 and len(events[-1]["permission_denials"]) == 1 and not events[-1]["files_changed"]


@pytest.mark.skipif(shutil.which("bwrap") is not None, reason="this machine has a sandbox")
def test_a_sandbox_that_is_not_there_is_44_only_when_asked_for(dsv4: Any, helpers: Any) -> None:
    result = failing(dsv4, helpers, "x", "--model", dsv4.script(ANSWER), "--sandbox", "workspace-write")
    assert result["exit_code"] == 44 and result["subtype"] == "error_sandbox"
    code, events = dsv4.stream(ANSWER)
    assert code == 0 and events[0]["sandbox"]["degraded"] and events[0]["sandbox"]["reason"]


def test_a_dirty_tree_stops_only_with_require_clean(dsv4: Any) -> None:
    (dsv4.repository / "a.py").write_text("changed\n")
    code, events = dsv4.stream(ANSWER, "--require-clean")
    assert code == 58 and events[-1]["subtype"] == "error_dirty_tree" and len(events) == 1
    code, events = dsv4.stream(ANSWER)
    assert code == 0 and events[0]["git"]["dirty"]


def test_outside_a_repository_with_the_check_skipped(dsv4: Any, tmp_path: Path) -> None:
    place = tmp_path / "plain"
    place.mkdir()
    (place / "a.py").write_text("old\n")
    code, events = dsv4.stream(EDIT, "--skip-git-repo-check", "-C", str(place), "--fail-if-no-changes")
    assert code == 0 and events[0]["git"] is None and events[-1]["files_changed"] == ["a.py"]


def test_a_path_outside_the_workspace_and_a_file_of_invalid_utf8_are_told_to_the_model(dsv4: Any) -> None:
    (dsv4.repository / "binary").write_bytes(b"\xff\xfe\x00old\x80")
    (dsv4.repository / "link").symlink_to("/etc")
    script = (
        "call: read\n  path: /etc/passwd\ncall: read\n  path: ../state\n"
        "call: write\n  path: link/x\n  content: y\n"
        "call: read\n  path: binary\n---\n" + ANSWER
    )
    code, events = dsv4.stream(script, "--fail-if-no-changes")
    items = [e["item"] for e in events if e["type"] == "item.completed" and "output" in e["item"]]
    assert code == 58
    assert [i["status"] for i in items[:3]] == ["failed"] * 3
    assert all("outside the workspace" in i["output"] for i in items[:3])
    assert items[3]["output"]


def test_a_session_id_is_taken_once(dsv4: Any, helpers: Any) -> None:
    assert dsv4.run(ANSWER, "--session-id", "one").returncode == 0
    result = failing(dsv4, helpers, "x", "--model", dsv4.script(ANSWER), "--session-id", "one")
    assert result["exit_code"] == 42 and "exists already" in result["error"] and result["session_id"] == "one"


def test_missing_local_packages_name_the_remedy(dsv4: Any, helpers: Any, tmp_path: Path) -> None:
    (tmp_path / "shadow").mkdir()
    (tmp_path / "shadow" / "torch.py").write_text(
        "raise ModuleNotFoundError('No module named torch', name='torch')\n"
    )
    dsv4.environment["PYTHONPATH"] = str(tmp_path / "shadow")
    result = failing(dsv4, helpers, "x", "--model", "nano")
    assert result["exit_code"] == 52 and "pip install 'dsv4-agent[local]'" in result["error"]


@pytest.mark.skipif(SHARED is None, reason="the shared fixtures are not on this machine")
def test_a_truncated_checkpoint_is_a_model_error(dsv4: Any, helpers: Any, tmp_path: Path) -> None:
    assert SHARED is not None
    shutil.copytree(SHARED / "golden_tiny" / "fp32", tmp_path / "model")
    shard = tmp_path / "model" / "model.safetensors"
    os.truncate(shard, shard.stat().st_size // 2)
    result = failing(dsv4, helpers, "x", "--model", str(tmp_path / "model"))
    assert (result["exit_code"], result["subtype"]) == (1, "error_model")
    assert "model.safetensors" in result["error"]


def test_an_internal_error_leaves_a_report_without_secrets(dsv4: Any, helpers: Any, tmp_path: Path) -> None:
    """A broken installation: one of our own modules raises."""
    (tmp_path / "shadow").mkdir()
    (tmp_path / "shadow" / "pathspec.py").write_text(
        "secret = 'hunter2'\nraise ZeroDivisionError('broken')\n"
    )
    dsv4.environment |= {"PYTHONPATH": str(tmp_path / "shadow"), "MY_API_KEY": "hunter3"}
    done = dsv4("run", "x", "--model", dsv4.script(ANSWER), "--json")
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("dsv4: error: internal error (ZeroDivisionError). Report: ")
    report = Path(line.rpartition("Report: ")[2]).read_text()
    assert "ZeroDivisionError: broken" in report and "hunter3" not in report
    assert Path(line.rpartition("Report: ")[2]).stat().st_mode & 0o777 == 0o600
    (result,) = helpers.check_stream(done.stdout)
    assert result["subtype"] == "error_internal"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mount.returncode != 0:
        pytest.skip("a small tmpfs can't be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_for_the_journal_is_54(dsv4: Any, small_disk: Path) -> None:
    dsv4.state = small_disk
    script = "text: |\n  " + "x" * 40_000 + "\ncall: read\n  path: a.py\n---\n"
    code, events = dsv4.stream(script * 6 + EDIT)
    assert (code, events[-1]["subtype"]) == (54, "error_tools")
    assert "No space left" in events[-1]["error"] and "DSV4_STATE_DIR" in events[-1]["error"]
    assert (dsv4.repository / "a.py").read_text() == "def old():\n    return 1\n"


def test_a_full_disk_under_the_work_tree_leaves_files_whole(
    dsv4: Any, small_disk: Path, helpers: Any
) -> None:
    place = small_disk / "r"
    place.mkdir()
    helpers.git(place, "init", "-q", "--template=")
    (place / "keep.txt").write_text("whole\n" * 100)
    helpers.git(place, "add", "-A")
    helpers.git(place, "commit", "-q", "-m", "x")
    script = f"call: write\n  path: keep.txt\n  content: {'y' * 150_000}\n---\n{ANSWER}"
    code, events = dsv4.stream(script, "-C", str(place))
    item = next(
        e["item"] for e in events if e["type"] == "item.completed" and e["item"]["type"] == "file_change"
    )
    assert code == 0 and item["status"] == "failed"
    assert (place / "keep.txt").read_text() == "whole\n" * 100
    assert sorted(path.name for path in place.iterdir()) == [".git", "keep.txt"]


def test_stdout_on_a_full_disk_is_54(dsv4: Any) -> None:
    with Path("/dev/full").open("wb") as full:
        done = dsv4.run(ANSWER, "--json", stdout=full)
    assert done.returncode == 54 and b"No space left" in done.stderr


def test_closed_standard_streams_do_no_harm(dsv4: Any) -> None:
    command = f"exec {shlex.join(_command(dsv4))} <&- >&- 2>&-"
    done = subprocess.run(
        ["bash", "-c", command], cwd=dsv4.repository, env=dsv4.env(), timeout=60, check=False
    )
    assert done.returncode == 0
    assert (dsv4.repository / "a.py").read_text().startswith("def new")


def _command(dsv4: Any) -> list[str]:
    return [sys.executable, "-P", "-m", "dsv4_agent.cli.main", "run", "x", "--model", dsv4.script(EDIT)]


def test_the_stdin_rules(dsv4: Any, helpers: Any) -> None:
    def seen(*arguments: str, stdin: bytes) -> str:
        dsv4(
            "run", *arguments, "--model", dsv4.script(ANSWER), "--session-id", f"s{dsv4.scripts}", stdin=stdin
        )
        journal = (dsv4.state / "sessions" / f"s{dsv4.scripts}" / "journal.jsonl").read_text()
        records = [json.loads(line) for line in journal.splitlines()]
        return "".join(json.dumps(r["data"]) for r in records if r["kind"] == "entry")

    assert "explain\\n\\n<stdin>\\nsome log\\n</stdin>" in seen("-p", "explain", stdin=b"some log")
    assert "task by pipe" in seen("-", stdin=b"task by pipe")
    assert "task by pipe" in seen(stdin=b"task by pipe")
    result = failing(dsv4, helpers, "x", "--model", dsv4.script(ANSWER), stdin=b"a" * 20_000_000)
    assert result["exit_code"] == 42 and "10 MB" in result["error"]
    result = failing(dsv4, helpers, "-", stdin=b"\xff\xfe")
    assert result["exit_code"] == 42 and "UTF-8" in result["error"]


@pytest.mark.slow
def test_an_open_silent_pipe_does_not_hang(dsv4: Any) -> None:
    reader, writer = os.pipe()
    try:
        done = _with_stdin(dsv4, reader)
    finally:
        os.close(writer)
        os.close(reader)
    assert done.returncode == 0 and b"waiting for stdin (use </dev/null)" in done.stderr


def _with_stdin(dsv4: Any, stdin: int) -> subprocess.CompletedProcess[bytes]:
    with dsv4.start("run", "x", "--model", dsv4.script(ANSWER), stdin=stdin) as process:
        stdout, stderr = process.communicate(timeout=40)
    return subprocess.CompletedProcess([], process.returncode, stdout, stderr)


def test_keys_settings_and_sessions_are_closed_to_tools_where_the_workspace_holds_them(
    dsv4: Any, helpers: Any
) -> None:
    """Who keeps their home folder in git works in the folder that holds them."""
    config = dsv4.repository / ".config"
    (config / "keys").mkdir(parents=True, mode=0o700)
    (config / "keys" / "flash").write_text("sk-private\n")
    dsv4.environment |= {"DSV4_CONFIG_DIR": str(config), "DSV4_STATE_DIR": str(dsv4.repository / ".state")}
    calls = (
        "call: read\n  path: .config/keys/flash\n",
        "call: grep\n  pattern: sk-priv\n",
        "call: write\n  path: .config/config.toml\n  content: x\n",
        "call: git_commit\n  message: all\n",
    )
    code, events = dsv4.stream("---\n".join((*calls, ANSWER)))
    assert code == 0
    assert "sk-private" not in json.dumps(events)
    assert not (config / "config.toml").exists()
    assert not helpers.git(dsv4.repository, "ls-files", ".config")
