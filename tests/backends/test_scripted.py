"""The scripted model: its language, its errors, its text."""

from __future__ import annotations

from pathlib import Path

import pytest

from dsv4_agent.backends.base import Finished, GenerationRequest, ModelError, SampledText
from dsv4_agent.backends.scripted import (
    Call,
    Delay,
    Fail,
    Raw,
    Say,
    ScriptedBackend,
    ScriptError,
    Think,
    parse_script,
)
from dsv4_agent.dsml.dialect import Dialect, Thinking
from dsv4_agent.dsml.events import FinishReason, ParsedMessage
from dsv4_agent.dsml.parse import StreamParser
from dsv4_agent.dsml.schema import ToolSchema
from dsv4_agent.session.transcript import Transcript

EXAMPLE = """\
# a comment
think: one
think: |
  two
    indented
  three

text: Hello: there
call: edit
  path: a.py
  old_string: |
    def f():
        return 1
  new_string: |+
    def g():
  replace_all: true
  note: "true"
  count: 3
call: git_status
delay: 0.01
---
raw: |
  <｜DSML｜tool_calls>
    broken
turn:
error: no more
"""


def request(max_tokens: int = 10_000, thinking: Thinking = Thinking.THINKING) -> GenerationRequest:
    return GenerationRequest(max_tokens, thinking, Dialect.V4)


async def sampled(backend: ScriptedBackend, **options: object) -> tuple[str, Finished]:
    text, finished = "", None
    async for event in backend.generate(Transcript(), request(**options)):  # type: ignore[arg-type]
        match event:
            case SampledText(piece):
                text += piece
            case Finished():
                finished = event
    assert finished is not None
    return text, finished


def parsed(text: str) -> ParsedMessage:
    names = ("edit", "git_status", "read")
    tools = {name: ToolSchema.from_function({"name": name, "parameters": {}}) for name in names}
    parser = StreamParser(tools, thinking=True)
    parser.feed_text(text)
    return parser.finish(FinishReason.STOP)


def test_the_language() -> None:
    first, second, third = parse_script(EXAMPLE)
    arguments = {
        "path": "a.py",
        "old_string": "def f():\n    return 1",
        "new_string": "def g():\n",
        "replace_all": True,
        "note": "true",
        "count": 3,
    }
    assert first == (
        Think("one"),
        Think("two\n  indented\nthree"),
        Say("Hello: there"),
        Call("edit", arguments),
        Call("git_status"),
        Delay(0.01),
    )
    assert second == (Raw("<｜DSML｜tool_calls>\n  broken"),)
    assert third == (Fail("no more"),)


@pytest.mark.parametrize(
    ("script", "line", "message"),
    [
        ("text: a\nspeak: b", 2, "unknown step 'speak'"),
        ("text: a\n  b: c", 2, "indented"),
        ("delay: soon", 1, "number of seconds"),
        ("call: x\n  a: 1\n  a: 2", 3, "given twice"),
        ("text: a\n---\nno colon here", 3, "name: value"),
        ("call: x\n  nonsense", 2, "name: value"),
        ("call:", 1, "unknown step"),
        ("text: |\ntext: b", 1, "empty"),
    ],
)
def test_a_syntax_error_names_the_line(script: str, line: int, message: str) -> None:
    with pytest.raises(ScriptError, match=message) as error:
        parse_script(script, "file.txt")
    assert str(error.value).startswith(f"file.txt:{line}: ")


async def test_what_it_samples_is_what_the_parser_reads_without_repair() -> None:
    text, finished = await sampled(ScriptedBackend(parse_script(EXAMPLE)))
    message = parsed(text)
    assert finished.reason is FinishReason.STOP
    assert message.reasoning == "one\ntwo\n  indented\nthree"
    assert message.content == "Hello: there"
    assert [call.name for call in message.calls] == ["edit", "git_status"]
    assert message.calls[0].arguments["new_string"] == "def g():\n"
    assert message.calls[0].arguments["replace_all"] is True
    assert message.repairs == ()
    assert message.errors == ()


async def test_chat_mode_has_no_think_tag() -> None:
    text, _ = await sampled(ScriptedBackend(parse_script("text: hi")), thinking=Thinking.CHAT)
    assert text == "hi<｜end▁of▁sentence｜>"


async def test_raw_text_is_left_as_it_is() -> None:
    text, _ = await sampled(ScriptedBackend(parse_script("raw: |\n  <｜DSML｜x")))
    assert text == "<｜DSML｜x"


async def test_running_out_of_turns_is_a_model_error() -> None:
    backend = ScriptedBackend(parse_script("text: only"))
    await sampled(backend)
    with pytest.raises(ModelError, match=r"1 turn\(s\).*add one"):
        await sampled(backend)


async def test_an_error_step_fails_with_its_message() -> None:
    with pytest.raises(ModelError, match="overloaded"):
        await sampled(ScriptedBackend(parse_script("think: hm\nerror: overloaded")))


async def test_the_token_limit_cuts() -> None:
    text, finished = await sampled(ScriptedBackend(parse_script("think: " + "word " * 100)), max_tokens=10)
    assert finished.reason is FinishReason.LENGTH
    assert text == ("word " * 100)[:40]


def test_a_missing_or_binary_file_is_a_script_error(tmp_path: Path) -> None:
    with pytest.raises(ScriptError, match="can't be read"):
        ScriptedBackend.from_file(tmp_path / "none")
    (tmp_path / "b").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ScriptError, match="can't be read"):
        ScriptedBackend.from_file(tmp_path / "b")


def test_an_argument_that_is_nested_beyond_reading_stays_a_text() -> None:
    deep = "[" * 100_000
    (steps,) = parse_script(f"call: read\n  path: {deep}\n")
    assert tuple(steps) == (Call("read", {"path": deep}),)
