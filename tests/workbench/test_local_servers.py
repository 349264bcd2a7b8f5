"""Servers of this user: announced, found, and not confused with what dead ones left."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from dsv4_agent.workbench.local_servers import (
    LocalServer,
    announced,
    find_server,
    identity_of,
    living_servers,
    runtime_directory,
    stop_server,
)


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DSV4_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("DSV4_NO_SERVER", raising=False)
    return tmp_path


def server(**changes: object) -> LocalServer:
    given: dict[str, object] = {
        "url": "http://127.0.0.1:1/v1",
        "token": "secret-token-secret",
        "pid": os.getpid(),
        "model": "nano",
        "identity": "nano",
        "preset": "nano",
        "dialect": "v4",
        "context_window": 8192,
        "tokenizer": "abc",
        "cache_format": "fp32",
        "started": 1.0,
    }
    return LocalServer(**{**given, **changes})  # type: ignore[arg-type]


def test_a_server_is_found_while_it_lives_and_privately() -> None:
    assert living_servers() == []
    with announced(server()):
        assert living_servers() == [server()]
        assert find_server("nano", "fp32") == server()
        [path] = runtime_directory().iterdir()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert living_servers() == []
    assert list(runtime_directory().iterdir()) == []


def test_the_right_one_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    with announced(server(identity=identity_of(str(folder)), started=1.0)):
        assert find_server("nano", "fp32") is None
        assert find_server(str(folder / ".." / "weights"), "fp32") is not None
        with announced(server(identity=identity_of(str(folder)), started=2.0, cache_format="bf16")):
            other = find_server(str(folder), "fp32")
            assert other is not None and other.started == 1.0
            assert find_server(str(folder), "fp8") is None
            assert find_server(str(folder)) is None
            monkeypatch.setenv("DSV4_NO_SERVER", "1")
            assert find_server(str(folder), "fp32") is None


def test_what_a_killed_server_left_is_removed() -> None:
    folder = runtime_directory()
    folder.mkdir(parents=True)
    left = folder / "serve-1-2.json"
    left.write_text(json.dumps({"pid": os.getpid(), "url": "http://x"}))
    left.chmod(0o600)
    assert living_servers() == []
    assert not left.exists()


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o602])
def test_what_others_may_have_written_is_not_believed(mode: int) -> None:
    with announced(server()):
        [path] = runtime_directory().iterdir()
        path.chmod(mode)
        assert living_servers() == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x"}', '{"pid": 1, "url": "http://x"}', "null"])
def test_nonsense_is_passed_over(text: str) -> None:
    with announced(server()):
        [path] = runtime_directory().iterdir()
        path.write_text(text)
        assert living_servers() == []


def test_a_link_is_no_announcement(tmp_path: Path) -> None:
    folder = runtime_directory()
    folder.mkdir(parents=True)
    target = tmp_path / "target.json"
    target.write_text("{}")
    (folder / "serve-1-1.json").symlink_to(target)
    assert living_servers() == []
    assert target.exists()


def test_a_server_is_stopped() -> None:
    code = (
        "import os, signal, sys, time\n"
        "from tests.workbench.test_local_servers import server\n"
        "from dsv4_agent.workbench.local_servers import announced\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"
        "with announced(server(pid=os.getpid())):\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
    )
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}:{os.environ.get('PYTHONPATH', '')}"}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment, cwd=root
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            [found] = living_servers()
            assert found.pid == process.pid
            assert stop_server(found, 20)
            assert process.wait(10) == 0
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
