"""A model that plays a readable text file: for tests, demonstrations and pipelines without a model.

One file is a list of assistant turns, divided by a line `---` or `turn:`; each turn is a list of steps::

    # comments and blank lines are ignored between steps
    think: I look at the file first.
    text: Reading it.
    call: read
      path: src/app.py
    ---
    think: |
      More than one line
      goes into a block.
    call: edit
      path: src/app.py
      old_string: |
        def old():
      new_string: |
        def new():
      replace_all: true
    ---
    text: Done.

`think`, `text`   what the model thinks and says; several of a kind are joined by a line break
`call: TOOL`      a tool call; its arguments are the indented `name: value` lines below it. `true`, `false`,
                  numbers, `null`, `[...]` and `{...}` are JSON, all else is a string; quote a string in
                  JSON's way to keep it one (`"true"`). `name: |` takes the deeper indented block below as the
                  string, without its last line break (`|+` keeps it).
`raw: |`          model text as it is, special tokens and all, to play malformed output; no end of turn is
                  added to it
`error: TEXT`     the model fails with this message (as its turn's last step)
`delay: SECONDS`  a pause before what follows

Asking for more turns than the file has is a model error. A syntax error names the line.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dsv4_agent.backends.base import (
    BackendEvent,
    BackendInfo,
    BackendKind,
    Conversation,
    Finished,
    GenerationRequest,
    GenerationUsage,
    ModelError,
    SampledText,
)
from dsv4_agent.backends.text import estimate_tokens
from dsv4_agent.dsml.dialect import END_THINK, EOS, Dialect, Thinking, tags_of
from dsv4_agent.dsml.events import FinishReason
from dsv4_agent.dsml.segments import Segment


class ScriptError(ValueError):
    """A script can't be read; the message names file and line."""


@dataclass(frozen=True, slots=True)
class Think:
    """Reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class Say:
    """Content."""

    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call."""

    tool: str
    arguments: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Raw:
    """Model text, verbatim."""

    text: str


@dataclass(frozen=True, slots=True)
class Fail:
    """A model error."""

    message: str


@dataclass(frozen=True, slots=True)
class Delay:
    """A pause in seconds."""

    seconds: float


Step = Think | Say | Call | Raw | Fail | Delay
Script = tuple[tuple[Step, ...], ...]

_FIELD = re.compile(r"( *)([A-Za-z_][\w.-]*):(?: (.*))?")


def parse_script(text: str, name: str = "script") -> Script:
    """Read a script. Raises `ScriptError`."""
    return _Reader(text, name).script()


class ScriptedBackend:
    """Plays a script, one turn a generation. `requests` holds what it was asked, for tests."""

    def __init__(self, script: Script, *, id: str = "scripted", context_window: int = 1_048_576) -> None:
        self.requests: list[GenerationRequest] = []
        self._script = script
        self._next = 0
        self._info = BackendInfo(id, BackendKind.SCRIPTED, context_window)

    @classmethod
    def from_file(cls, path: Path) -> ScriptedBackend:
        """Read a script file. Raises `ScriptError` (also for a file that can't be read)."""
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise ScriptError(f"the script {path} can't be read: {error}") from error
        return cls(parse_script(text, str(path)), id=f"scripted:{path.name}")

    @property
    def info(self) -> BackendInfo:
        return self._info

    @property
    def vocabulary(self) -> None:
        return None

    def encode(self, segments: Sequence[Segment]) -> None:
        return None

    async def generate(
        self, conversation: Conversation, request: GenerationRequest
    ) -> AsyncIterator[BackendEvent]:
        self.requests.append(request)
        if self._next >= len(self._script):
            raise ModelError(
                f"the script has {len(self._script)} turn(s) and the task needs another: add one after `---`"
            )
        steps = self._script[self._next]
        self._next += 1
        sampled = 0
        for piece in _pieces(steps, request):
            match piece:
                case Delay(seconds):
                    await asyncio.sleep(seconds)
                case Fail(message):
                    raise ModelError(message)
                case str() if piece:
                    room = request.max_tokens - sampled
                    cut = piece[: room * 4] if estimate_tokens(piece) > room else piece
                    sampled += estimate_tokens(cut)
                    yield SampledText(cut)
                    if len(cut) < len(piece):
                        yield Finished(FinishReason.LENGTH, GenerationUsage(output_tokens=sampled))
                        return
        read = sum(estimate_tokens(segment.text) for segment in conversation.segments())
        yield Finished(FinishReason.STOP, GenerationUsage(input_tokens=read, output_tokens=sampled))

    async def close(self) -> None:
        """Nothing to release."""


def _pieces(steps: Sequence[Step], request: GenerationRequest) -> list[str | Delay | Fail]:
    """A turn as the text that the model would sample, in the order of the wire format."""
    pieces: list[str | Delay | Fail] = []
    thinking = request.thinking is Thinking.THINKING
    said = called = raw = False
    tags = tags_of(request.dialect)
    for position, step in enumerate(steps):
        match step:
            case Delay() | Fail():
                pieces.append(step)
                continue
            case Raw(text):
                raw = True
                pieces.append(text)
                continue
            case Think(text):
                before = any(isinstance(step, Think) for step in steps[:position])
                pieces.append(("\n" if before else "") + text)
                continue
        if thinking:
            pieces.append(END_THINK)
            thinking = False
        if isinstance(step, Say):
            pieces.append(("\n" if said else "") + step.text)
            said = True
        else:
            pieces.append(_call(step, request.dialect, first=not called))
            called = True
    if called:
        pieces.append(f"\n</{tags.calls}>")
    if thinking and not raw:
        pieces.append(END_THINK)
    if not raw:
        pieces.append(EOS)
    return pieces


def _call(call: Call, dialect: Dialect, *, first: bool) -> str:
    tags = tags_of(dialect)
    lines = [f'<{tags.invoke} name="{call.tool}">']
    for name, value in call.arguments.items():
        string = "true" if isinstance(value, str) else "false"
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        lines.append(f'<{tags.parameter} name="{name}" string="{string}">{shown}</{tags.parameter}>')
    lines.append(f"</{tags.invoke}>")
    return ("\n\n" + f"<{tags.calls}>\n" if first else "\n") + "\n".join(lines)


class _Reader:
    """A recursive-descent reader over lines."""

    def __init__(self, text: str, name: str) -> None:
        self._lines = text.split("\n")
        self._name = name
        self._at = 0

    def script(self) -> Script:
        turns: list[list[Step]] = [[]]
        while self._at < len(self._lines):
            line = self._lines[self._at].rstrip()
            if not line or line.lstrip().startswith("#"):
                self._at += 1
            elif line in {"---", "turn:"}:
                turns.append([])
                self._at += 1
            else:
                turns[-1].append(self._step())
        return tuple(tuple(turn) for turn in turns if turn)

    def _step(self) -> Step:
        indent, key, value = self._field()
        if indent:
            raise self._error("an indented line belongs to nothing above it")
        number = self._at
        self._at += 1
        match key:
            case "think":
                return Think(self._value(value, indent))
            case "text":
                return Say(self._value(value, indent))
            case "raw":
                return Raw(self._value(value, indent))
            case "error":
                return Fail(self._value(value, indent))
            case "call" if value.strip():
                return Call(value.strip(), self._arguments())
            case "delay":
                try:
                    return Delay(float(value))
                except ValueError:
                    raise self._error(f"delay needs a number of seconds, not {value!r}", number) from None
        raise self._error(f"unknown step {key!r}: use think, text, call, raw, error, delay or ---", number)

    def _arguments(self) -> dict[str, object]:
        arguments: dict[str, object] = {}
        while self._at < len(self._lines):
            line = self._lines[self._at]
            if not line.startswith(" "):
                break
            if not line.strip():
                self._at += 1
                continue
            indent, key, value = self._field()
            if key in arguments:
                raise self._error(f"the argument {key!r} is given twice")
            self._at += 1
            block = value.strip() in {"|", "|+"}
            arguments[key] = self._value(value, indent) if block else _scalar(value)
        return arguments

    def _field(self) -> tuple[int, str, str]:
        found = _FIELD.fullmatch(self._lines[self._at].rstrip("\r"))
        if not found:
            raise self._error("expected `name: value`")
        return len(found[1]), found[2], found[3] or ""

    def _value(self, value: str, indent: int) -> str:
        if value.strip() not in {"|", "|+"}:
            return value
        lines: list[str] = []
        while self._at < len(self._lines):
            line = self._lines[self._at]
            if line.strip() and len(line) - len(line.lstrip(" ")) <= indent:
                break
            lines.append(line)
            self._at += 1
        while lines and not lines[-1].strip():
            lines.pop()
        if not lines:
            raise self._error("the block after `|` is empty", self._at - 1)
        depth = min(len(line) - len(line.lstrip(" ")) for line in lines if line.strip())
        text = "\n".join(line[depth:] for line in lines)
        return text + "\n" if value.strip() == "|+" else text

    def _error(self, message: str, number: int | None = None) -> ScriptError:
        at = min(self._at if number is None else number, len(self._lines) - 1)
        return ScriptError(f"{self._name}:{at + 1}: {message}")


def _scalar(value: str) -> object:
    text = value.strip()
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # what Python can't nest so deeply stays a text
        return value
