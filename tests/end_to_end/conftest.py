"""`dsv4` as users run it: real processes, a real repository, a scripted model."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dsv4_agent.headless.schemas import events_schema

COMMAND = (sys.executable, "-P", "-m", "dsv4_agent.cli.main")


def _closed(schema: Any) -> Any:
    """The published schema without room for unknown fields: our own stream has no undocumented ones."""
    if isinstance(schema, dict):
        closed = {key: _closed(value) for key, value in schema.items()}
        if "properties" in schema:
            closed["additionalProperties"] = False
        return closed
    return [_closed(value) for value in schema] if isinstance(schema, list) else schema


EVENT = jsonschema.Draft202012Validator(_closed(copy.deepcopy(events_schema())))


def check_event(event: dict[str, Any]) -> None:
    """Raise unless the published schema, closed to extra fields, takes the event."""
    kind = EVENT.evolve(schema={"$ref": f"#/$defs/{event['type']}", "$defs": EVENT.schema["$defs"]})
    kind.validate(event)
    EVENT.validate(event)


def check_stream(stdout: bytes) -> list[dict[str, Any]]:
    """The events of a stream-json output that keeps every promise of the format."""
    events = [json.loads(line) for line in stdout.decode("utf-8").splitlines()]
    for event in events:
        check_event(event)
    kinds = [event["type"] for event in events]
    assert kinds.count("result") == 1 and kinds[-1] == "result"
    assert kinds == ["result"] or (kinds[0] == "init" and kinds.count("init") == 1)
    started = [event["item"]["id"] for event in events if event["type"] == "item.started"]
    completed = [event["item"]["id"] for event in events if event["type"] == "item.completed"]
    assert len(set(started)) == len(started) and len(set(completed)) == len(completed)
    if events[-1]["subtype"] == "success":
        assert sorted(started) == sorted(completed)
    return events


@dataclass
class Dsv4:
    """Runs `dsv4` in a repository with its own state folder."""

    repository: Path
    state: Path
    home: Path
    scripts: int = 0
    environment: dict[str, str] = field(default_factory=dict)

    def script(self, text: str) -> str:
        """Write a script; returns the value for --model."""
        self.scripts += 1
        path = self.home / f"script-{self.scripts}.txt"
        path.write_text(text, encoding="utf-8")
        return f"scripted:{path}"

    def env(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "DSV4_"))}
        own = {
            "DSV4_STATE_DIR": str(self.state),
            "DSV4_CONFIG_DIR": str(self.home / "config"),
            "DSV4_KV_DIR": str(self.home / "kv"),
            "OMP_NUM_THREADS": "1",
        }
        shared = {key: value for key, value in os.environ.items() if key == "DSV4_CACHE_DIR"}
        return kept | own | shared | self.environment

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        options = {
            "cwd": self.repository,
            "env": self.env(),
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
        } | options
        return subprocess.Popen([*COMMAND, *arguments], **options)

    def __call__(
        self, *arguments: str, stdin: bytes | None = None, **options: Any
    ) -> subprocess.CompletedProcess[bytes]:
        if stdin is not None:
            options["stdin"] = subprocess.PIPE
        with self.start(*arguments, **options) as process:
            try:
                stdout, stderr = process.communicate(stdin, timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        assert b"Traceback" not in stderr, stderr.decode()
        return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)

    def run(self, script: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
        """`dsv4 run TASK --model scripted:...` in text mode."""
        return self("run", "the task", "--model", self.script(script), *arguments, **options)

    def stream(self, script: str, *arguments: str, **options: Any) -> tuple[int, list[dict[str, Any]]]:
        """The same in stream-json mode, validated: exit code and events."""
        done = self.run(script, "--json", *arguments, **options)
        events = check_stream(done.stdout)
        assert events[-1]["exit_code"] == done.returncode
        assert bool(events[-1]["error"]) == events[-1]["is_error"] == (done.returncode != 0)
        return done.returncode, events

    def journals(self) -> list[Path]:
        return sorted(self.state.glob("sessions/*/journal.jsonl"))


def git(place: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.invalid", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=place, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Poll; fails the test when it never comes true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def running(marker: str) -> bool:
    """Whether a process has `marker` in its command line (ours aside)."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        if marker.encode() in line and b"dsv4_agent" not in line:
            return True
    return False


@pytest.fixture
def dsv4(tmp_path: Path) -> Iterator[Dsv4]:
    repository = tmp_path / "repo"
    repository.mkdir()
    git(repository, "init", "-q", "-b", "main")
    (repository / "a.py").write_text("def old():\n    return 1\n")
    (repository / "b.py").write_text("from a import old\n\nprint(old())\n")
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "-m", "first")
    yield Dsv4(repository, tmp_path / "state", tmp_path)


@pytest.fixture
def helpers() -> Any:
    """The functions above, for tests (test folders are not packages)."""

    class Helpers:
        git = staticmethod(git)
        wait_until = staticmethod(wait_until)
        running = staticmethod(running)
        check_stream = staticmethod(check_stream)
        check_event = staticmethod(check_event)
        SIGINT = signal.SIGINT

    return Helpers
