"""`dsv4 serve` as a process: what it prints, what it answers, how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

pytest.importorskip("uvicorn", reason="the server needs its packages")

TOKEN = "an-example-token-of-this-test"
Start = Callable[..., tuple[subprocess.Popen[str], str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    running: list[subprocess.Popen[str]] = []

    def run(*arguments: str) -> tuple[subprocess.Popen[str], str]:
        command = [sys.executable, "-m", "dsv4_agent.cli.main", "serve", "--port", "0", *arguments]
        environment = {
            **os.environ,
            "DSV4_CONFIG_DIR": str(tmp_path / "config"),
            "DSV4_KV_DIR": str(tmp_path / "kv"),
            "DSV4_STATE_DIR": str(tmp_path / "state"),
        }
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        running.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.fullmatch(r"dsv4 serves (\S+) at (http://127\.0\.0\.1:\d+/v1)\n", line)
        return process, found[2] if found else line

    yield run
    for process in running:
        process.kill()
        process.communicate()


def client(url: str, token: str | None = TOKEN) -> httpx.Client:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_it_serves_drains_keeps_its_states_and_ends(start: Start, tmp_path: Path) -> None:
    process, url = start("--token", TOKEN)
    with client(url, None) as stranger:
        assert stranger.get("models").status_code == 401
    body = {"prompt": [5, *range(20, 320)], "max_tokens": 300, "temperature": 1, "seed": 1, "stream": True}
    with client(url) as http, http.stream("POST", "completions", json=body) as response:
        lines = response.iter_lines()
        next(lines)
        process.send_signal(signal.SIGTERM)
        chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert chunks[-1]["choices"][0]["finish_reason"] in ("stop", "length")
    code, out, err = ended(process)
    assert (code, out, err) == (0, "", "")
    assert list((tmp_path / "kv").iterdir())


def test_ephemeral_leaves_nothing_and_no_token_is_warned_of(start: Start, tmp_path: Path) -> None:
    process, url = start("--no-token", "--ephemeral")
    with client(url, None) as http:
        http.post("completions", json={"prompt": [5, *range(20, 400)], "max_tokens": 4}).raise_for_status()
    process.send_signal(signal.SIGINT)
    code, _, err = ended(process)
    assert code == 0 and "without a token every program" in err
    assert not (tmp_path / "kv").exists()


def test_a_script_is_served_without_a_model(start: Start, tmp_path: Path) -> None:
    script = tmp_path / "turns.txt"
    script.write_text("text: Hello.\n", encoding="utf-8")
    _, url = start("--model", f"scripted:{script}", "--token", TOKEN)
    with client(url) as http:
        body = {"messages": [{"role": "user", "content": "hi"}]}
        answer = http.post("chat/completions", json=body).json()
    assert answer["choices"][0]["message"]["content"] == "Hello."


@pytest.mark.parametrize(
    ("module", "announced"), [("dsv4_agent.cli.main", 1), ("dsv4_agent.batch.served_model", 0)]
)
def test_only_servers_of_the_user_are_announced(module: str, announced: int, tmp_path: Path) -> None:
    script = tmp_path / "turns.txt"
    script.write_text("text: Hello.\n", encoding="utf-8")
    own = [f"scripted:{script}", "1"]
    arguments = own if not announced else ["serve", "--port", "0", "--model", own[0]]
    environment = {**os.environ, "DSV4_STATE_DIR": str(tmp_path / "state"), "DSV4_SERVE_TOKEN": TOKEN}
    command = [sys.executable, "-m", module, *arguments]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, env=environment) as process:
        try:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(f"{TOKEN}\n")  # the batch's own server takes it from here
            process.stdin.close()
            assert "serves" in process.stdout.readline()
            found = list((tmp_path / "state").glob("run/*"))
            assert len(found) == announced
            assert all(path.stat().st_mode & 0o777 == 0o600 for path in found)
        finally:
            process.terminate()
    assert list((tmp_path / "state").glob("run/*")) == []


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--model", "/nowhere"), 52, "there is no model"),
        (("--model", "scripted:/nowhere"), 52, "can't be read"),
        (("--no-token", "--host", "0.0.0.0"), 42, "without a token anyone"),
        (("--token", "short"), 42, "at least 16"),
        (("--host", "host.invalid"), 52, "Choose another --host"),
        (("--host", "192.0.2.1"), 52, "Choose another --host"),
        (("--host", "a..b"), 52, "Choose another --host"),
        (("--host", ""), 52, "an empty --host"),
    ],
)
def test_what_can_not_be_served_is_one_line(
    start: Start, arguments: tuple[str, ...], code: int, words: str
) -> None:
    process, _ = start(*arguments)
    found, out, err = ended(process)
    assert (found, out) == (code, "") and words in err and err.count("\n") == 1
    assert err.startswith("dsv4: error: ")


@pytest.mark.parametrize(("target", "code"), [("/dev/full", 54), ("a closed pipe", 141)])
def test_an_address_that_nobody_can_read_ends_it_in_a_line(target: str, code: int, tmp_path: Path) -> None:
    if target != "a closed pipe" and not Path(target).exists():
        pytest.skip("needs a device that is always full")
    script = tmp_path / "turns.txt"
    script.write_text("text: Hello.\n", encoding="utf-8")
    if target == "a closed pipe":
        reader, out = os.pipe()
        os.close(reader)
    else:
        out = os.open(target, os.O_WRONLY)
    command = [sys.executable, "-m", "dsv4_agent.cli.main", "serve", "--port", "0"]
    environment = {**os.environ, "DSV4_STATE_DIR": str(tmp_path / "state"), "DSV4_SERVE_TOKEN": TOKEN}
    done = subprocess.run(
        [*command, "--model", f"scripted:{script}"],
        stdout=out,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        timeout=60,
    )
    os.close(out)
    assert (done.returncode, done.stderr.count("\n")) == (code, int(code == 54)), done.stderr
    assert list((tmp_path / "state").glob("run/*")) == []


PAUSES = "text: Hello.\ndelay: 600\ntext: End.\n---\ntext: Hello.\ndelay: 600\ntext: End.\n"
ASKED = {"messages": [{"role": "user", "content": "hi"}], "stream": True}


@pytest.mark.parametrize("signals", [1, 2], ids=["the patience ends", "a second signal"])
def test_streams_that_the_end_cuts_off_are_told(start: Start, tmp_path: Path, signals: int) -> None:
    script = tmp_path / "turns.txt"
    script.write_text(PAUSES, encoding="utf-8")
    drain = "0.2" if signals == 1 else "inf"
    process, url = start("--model", f"scripted:{script}", "--token", TOKEN, "--drain", drain)
    with client(url) as http, http.stream("POST", "chat/completions", json=ASKED) as response:
        lines = response.iter_lines()
        while "Hello" not in next(lines):
            pass
        for _ in range(signals):
            process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
        told = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert told[-1]["error"]["code"] == "shutting_down"
    assert ended(process) == (0, "", "")


def test_a_body_that_never_ends_does_not_end_in_a_traceback(start: Start, tmp_path: Path) -> None:
    script = tmp_path / "turns.txt"
    script.write_text(PAUSES, encoding="utf-8")
    process, url = start("--model", f"scripted:{script}", "--token", TOKEN, "--drain", "0")
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port or 0)) as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
        connection.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        with client(url) as http:
            http.get("models").raise_for_status()
        process.send_signal(signal.SIGTERM)
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert ended(process) == (0, "", "")


def test_nohup_keeps_it_beyond_its_terminal(tmp_path: Path) -> None:
    script = tmp_path / "turns.txt"
    script.write_text(PAUSES, encoding="utf-8")
    command = [sys.executable, "-m", "dsv4_agent.cli.main", "serve", "--port", "0"]
    command += ["--model", f"scripted:{script}", "--token", TOKEN]
    environment = {**os.environ, "DSV4_STATE_DIR": str(tmp_path / "state")}
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    finally:
        signal.signal(signal.SIGHUP, previous)
    with process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1]
            process.send_signal(signal.SIGHUP)
            for _ in range(3):
                with client(url) as http:
                    http.get("models").raise_for_status()
                time.sleep(0.2)
        finally:
            process.terminate()
