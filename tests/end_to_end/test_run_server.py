"""`dsv4 run` with a model behind a server: what the server sees, and what a tool can't."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.imitated_server import ImitatedServer, vllm

KEY = "sk-the-key-of-this-test"
OTHER = "another-secret-of-this-test"
LOOK = "env; tr '\\0' '\\n' < /proc/$PPID/environ; cat /proc/[0-9]*/environ | tr '\\0' '\\n'"


def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
    data = {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
    return f"data: {json.dumps(data)}\n\n".encode()


def answer(body: Any) -> tuple[int, Any]:
    """First a look around by the shell, then an end."""
    if any(message["role"] == "tool" for message in body["messages"]):
        return 200, chunk({"role": "assistant", "content": "Done."}, "stop") + b"data: [DONE]\n\n"
    function = {"name": "shell", "arguments": json.dumps({"command": LOOK})}
    call = {"index": 0, "id": "call_1", "type": "function", "function": function}
    first = chunk({"role": "assistant", "reasoning": "I look.", "tool_calls": [call]})
    return 200, first + chunk({}, "tool_calls") + b"data: [DONE]\n\n"


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    places = {"DSV4_CONFIG_DIR": str(folder / "config"), "DSV4_STATE_DIR": str(folder / "state")}
    program = "import sys; from dsv4_agent.cli.main import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **places, **environment},
    )


def everything_under(folder: Path) -> str:
    files = [path for path in folder.rglob("*") if path.is_file() and "keys" not in path.parts]
    return "".join(path.read_text(encoding="utf-8", errors="replace") for path in files)


@pytest.mark.parametrize("settings", [(), ("--ignore-user-config",)], ids=["settings", "without"])
def test_no_tool_sees_a_key(tmp_path: Path, settings: tuple[str, ...]) -> None:
    (tmp_path / "config").mkdir(mode=0o700)
    with ImitatedServer({**vllm(), "POST /v1/chat/completions": answer}, key=KEY) as server:
        (tmp_path / "config" / "config.toml").write_text(
            f'[models.flash]\nbase_url = "{server.url}"\nprotocol = "chat"\nkey_env = "FLASH_CRED"\n'
            '[models.other]\nbase_url = "http://127.0.0.1:1"\nkey_env = "OTHER_CRED"\n'
        )
        done = run(
            tmp_path,
            *(
                "run",
                "--model",
                "server" if settings else "flash",
                "--skip-git-repo-check",
                "--sandbox",
                "off",
            ),
            *("--permission-mode", "auto", "--json", *settings, "Look around."),
            FLASH_CRED=KEY,
            OTHER_CRED=OTHER,
            DEEPSEEK_API_KEY=OTHER,
            HF_TOKEN=OTHER,
            DSV4_BASE_URL=server.url,
            DSV4_API_KEY=KEY,
            DSV4_SERVER_PROTOCOL="chat",
        )
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[0]["model"] == {
        "id": "deepseek-ai/DeepSeek-V4-Flash-0731",
        "backend": "server",
        "context_window": 131_072,
    }
    (seen,) = [m["content"] for m in server.bodies[-1]["messages"] if m["role"] == "tool"]
    assert "PATH=" in seen, "the shell has run"
    for secret in (KEY, OTHER):
        assert secret not in seen
        assert secret not in done.stdout + done.stderr + everything_under(tmp_path)


def test_a_server_that_refuses_the_key_is_41_and_the_key_is_not_shown(tmp_path: Path) -> None:
    with ImitatedServer(vllm(), key=KEY) as server:
        done = run(
            tmp_path,
            *("run", "--model", "server", "--skip-git-repo-check", "--json", "x"),
            DSV4_BASE_URL=server.url,
            DSV4_API_KEY="sk-wrong-key",
        )
    assert done.returncode == 41
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["subtype"], result["exit_code"]) == ("error_auth", 41)
    assert "refuses the key" in result["error"] and "sk-wrong-key" not in done.stdout + done.stderr
