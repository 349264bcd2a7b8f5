"""A transcript's messages as a chat endpoint takes them, one entry after the other, never twice.

Whatever a transcript holds (turns of another backend without ids, interrupted turns, a prompt that was never
answered), what comes out is legal: each call has an id and JSON arguments, and its result follows at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Final

from dsv4_agent.backends.chat_server.manners import Manners

Message = Mapping[str, object]

_NO_ANSWER: Final = "(no answer)"
_NOT_RUN: Final = "Error: not run."
_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9_-]")
_NAME_LIMIT: Final = 64


def encode(value: object) -> bytes:
    """Compact JSON in UTF-8; what can't be encoded (half a surrogate pair) becomes `?`."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


class MessageWriter:
    """Writes entries in order. Its memory is only what the next entry depends on."""

    def __init__(self, manners: Manners) -> None:
        self._manners = manners
        self._owed: list[str] = []
        self._last_role = ""
        self._calls = 0

    def write(self, entry: Sequence[Message]) -> list[bytes]:
        """The messages of one entry."""
        return [encode(message) for message in self._legal(entry)]

    def _legal(self, entry: Sequence[Message]) -> list[dict[str, object]]:
        if not entry:
            return []
        written: list[dict[str, object]]
        match entry[0].get("role"):
            case "system":
                written = [{"role": "system", "content": _text(entry[0])}]
            case "assistant":
                written = [self._assistant(entry[0])]
            case _:
                written = self._user_side(entry)
        if written:
            self._last_role = str(written[-1]["role"])
        return written

    def _assistant(self, message: Message) -> dict[str, object]:
        stored = message.get("tool_calls")
        calls = [self._call(call) for call in stored] if isinstance(stored, list) else []
        self._owed = [str(call["id"]) for call in calls]
        content = _text(message) or ("" if calls or not self._manners.strict else _NO_ANSWER)
        written: dict[str, object] = {"role": "assistant", "content": content}
        thought = str(message.get("reasoning_content") or "")
        if thought or (calls and self._manners.owes_reasoning):
            written |= dict.fromkeys(self._manners.reasoning, thought)
        if calls:
            written["tool_calls"] = calls
        return written

    def _call(self, call: Message) -> dict[str, object]:
        self._calls += 1
        text = call.get("sent")
        arguments = text if isinstance(text, str) else json.dumps(call["arguments"], ensure_ascii=False)
        name = _NOT_IN_NAMES.sub("_", str(call["name"]))[:_NAME_LIMIT] or "unknown"
        id = str(call.get("id") or f"call_{self._calls}")
        return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}

    def _user_side(self, entry: Sequence[Message]) -> list[dict[str, object]]:
        results = [message for message in entry if message.get("role") == "tool"]
        said = [_text(message) for message in entry if message.get("role") == "user"]
        answers, errors = self._answers(results)
        written: list[dict[str, object]] = [
            {"role": "tool", "tool_call_id": id, "content": answers.get(id, _NOT_RUN)} for id in self._owed
        ]
        self._owed = []
        if words := "\n\n".join(filter(None, (*errors, *said))):
            if not written and self._last_role == "user" and self._manners.strict:
                written.append({"role": "assistant", "content": _NO_ANSWER})
            written.append({"role": "user", "content": words})
        return written

    def _answers(self, results: Sequence[Message]) -> tuple[dict[str, str], list[str]]:
        """Results by the call they answer. Those that answer none (unreadable calls) come first in a turn."""
        named = {
            str(message["tool_call_id"]): _text(message)
            for message in results
            if message.get("tool_call_id") in self._owed
        }
        others = [_text(message) for message in results if message.get("tool_call_id") not in self._owed]
        open_calls = [id for id in self._owed if id not in named]
        surplus = max(0, len(others) - len(open_calls))
        return named | dict(zip(open_calls, others[surplus:], strict=False)), others[:surplus]


def _text(message: Message) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else ""
