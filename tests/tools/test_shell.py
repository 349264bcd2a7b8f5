from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest

from dsv4_tools import processes
from dsv4_tools.base import Status, ToolContext
from dsv4_tools.environment import find_program, is_secret_name, scrubbed
from dsv4_tools.shell import Shell, ShellArgs
from tests.tools.conftest import Call


def running(marker: str) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if marker in line and "pytest" not in line:
                found.append(line)
    return found


async def test_texts(call: Call) -> None:
    assert (await call("shell", command="true")).text == "[exit 0]"
    failed = await call("shell", command="echo out; echo err >&2; exit 3")
    assert (failed.text, failed.exit_code, failed.status) == ("out\nerr\n[exit 3]", 3, Status.FAILED)
    assert (await call("shell", command="printf 'a\\n\\n'")).text == "a\n[exit 0]"
    assert (await call("shell", command="kill -9 $$")).text == "[exit 137]"
    assert (await call("shell", command=" ")).text == "Error: command is empty."


async def test_timeout_keeps_what_was_said(call: Call) -> None:
    started = time.monotonic()
    late = await call("shell", command="echo begun; sleep 4711", timeout=1)
    assert (late.text, late.status, late.exit_code) == (
        "begun\n[timed out after 1 s]",
        Status.TIMED_OUT,
        None,
    )
    assert time.monotonic() - started < 4
    assert not running("4711")


async def test_a_command_that_ignores_sigterm_is_killed(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "GRACE", 0.3)
    await call("shell", command="trap '' TERM; for i in 1 2 3 4 5 6 7 8; do sleep 4712; done", timeout=1)
    assert not running("4712")


async def test_daemons_neither_hang_nor_survive(call: Call) -> None:
    started = time.monotonic()
    result = await call("shell", command="sleep 4713 & setsid sleep 4713 & (setsid sleep 4713 &) ; echo up")
    assert result.text == "up\n[exit 0]"
    assert time.monotonic() - started < 5
    assert not running("4713")


async def test_cancellation_kills_the_group(context: ToolContext) -> None:
    task = asyncio.create_task(Shell().run(ShellArgs(command="sleep 4714 & sleep 4714"), context))
    while not running("4714"):
        await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not running("4714")


async def test_flood_is_stopped(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "BYTE_LIMIT", 1_000_000)
    result = await call("shell", command="yes")
    assert result.status is Status.FAILED
    assert result.text.split("\n")[-1].startswith("[stopped: more than")
    assert len(result.text) < 31_000
    assert result.output_path is not None


async def test_nothing_waits_for_input(call: Call) -> None:
    result = await call("shell", command='read x; echo "got $?"; cat; tty', timeout=10)
    assert result.text == "got 1\nnot a tty\n[exit 1]"


async def test_no_terminal_control_reaches_the_model(call: Call) -> None:
    result = await call("shell", command=r"printf '\033[31mred\033[0m \033]52;c;eA==\a\xff\n'")
    assert result.text == "red \ufffd\n[exit 0]"


async def test_secrets_and_hooks_stay_out_of_the_environment(context: ToolContext) -> None:
    environment = {
        **context.environment,
        "OPENAI_API_KEY": "s",
        "GH_TOKEN": "s",
        "MY_SECRET_X": "s",
        "DB_PASSWORD": "s",
        "GIT_DIR": "/x",
        "DSV4_API": "s",
        "BASH_ENV": "/nowhere/evil",
        "KEYBOARD": "kept",
    }
    result = await Shell().run(ShellArgs(command="env"), replace(context, environment=environment))
    seen = dict(line.split("=", 1) for line in result.text.split("\n") if "=" in line)
    leaked = {"OPENAI_API_KEY", "GH_TOKEN", "MY_SECRET_X", "DB_PASSWORD", "GIT_DIR", "DSV4_API", "BASH_ENV"}
    assert not leaked & set(seen)
    assert seen["KEYBOARD"] == "kept"
    assert (seen["TERM"], seen["PAGER"], seen["GIT_TERMINAL_PROMPT"], seen["NO_COLOR"]) == (
        "dumb",
        "cat",
        "0",
        "1",
    )


def test_secret_names() -> None:
    assert all(map(is_secret_name, ["AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "api_key", "PGPASSWORD", "TOKEN"]))
    more = [
        "OPENAI_API_KEY_2",
        "STRIPE_KEY_LIVE",
        "MYSQL_PWD",
        "REDISCLI_AUTH",
        "NGROK_AUTHTOKEN",
        "CI_JOB_JWT",
    ]
    more += ["CI_JOB_JWT_V2", "DOCKER_AUTH_CONFIG", "AZURE_STORAGE_CONNECTION_STRING", "npm_config__auth"]
    more += ["PRIVATE_KEY_PEM", "ACCESSKEY", "API_TOKEN_PROD", "BW_SESSION", "SLACK_WEBHOOK_URL"]
    assert [name for name in more if not is_secret_name(name)] == []
    assert not any(map(is_secret_name, ["PATH", "HOME", "TOKENIZERS_PARALLELISM", "MONKEY", "PWD", "OLDPWD"]))
    others = [
        "XDG_SESSION_ID",
        "SSH_AUTH_SOCK",
        "XAUTHORITY",
        "KEYBOARD",
        "COMPASS",
        "PATHEXT",
        "AUTHOR",
        "PAGER",
    ]
    assert not any(map(is_secret_name, [*others, "DESKTOP_SESSION", "PYTHONPATH", "GIT_AUTHOR_NAME"]))
    assert "PATH" in scrubbed({"PATH": "/bin"})


def test_programs_of_the_workspace_are_never_taken(root: Path) -> None:
    (root / "bin").mkdir()
    (root / "bin" / "rg").write_text("#!/bin/sh\n")
    (root / "bin" / "rg").chmod(0o755)
    for path in (str(root / "bin"), "bin", "", "."):
        assert find_program("rg", {"PATH": path}, root) is None


async def test_shell_state_does_not_carry_over(call: Call) -> None:
    await call("shell", command="export X=1; cd /; alias ls=false")
    assert (await call("shell", command='echo "[$X]"; test "$PWD" = /; echo $?')).text == "[]\n1\n[exit 0]"
