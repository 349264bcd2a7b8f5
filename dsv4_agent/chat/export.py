"""A conversation as a Markdown file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def markdown(title: str, messages: Iterable[Mapping[str, object]]) -> str:
    """Every message but the opening; thinking and tool results are folded."""
    parts = [f"# {title or 'dsv4 session'}"]
    for message in messages:
        content = str(message.get("content") or "")
        match message.get("role"):
            case "user":
                parts += ["## You", content]
            case "assistant":
                parts += ["## dsv4", *_assistant(message, content)]
            case "tool":
                parts.append(_folded("Result", content))
    return "\n\n".join(parts) + "\n"


def _assistant(message: Mapping[str, object], content: str) -> list[str]:
    parts: list[str] = []
    if thinking := str(message.get("reasoning_content") or ""):
        parts.append(_folded("Thinking", thinking))
    if content.strip():
        parts.append(content.strip())
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else []:
        arguments = "\n".join(f"{name}: {value}" for name, value in dict(call["arguments"]).items())
        parts.append(_folded(f"Call: {call['name']}", arguments))
    return parts


def _folded(title: str, text: str) -> str:
    fence = "```"
    while fence in text:
        fence += "`"
    return f"<details><summary>{title}</summary>\n\n{fence}\n{text}\n{fence}\n\n</details>"
