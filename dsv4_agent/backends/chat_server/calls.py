"""Tool calls put together from the pieces in which servers send them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from dsv4_agent.backends.base import SampledCall

_MOST_CALLS: Final = 256


@dataclass(slots=True)
class _Call:
    index: int | None
    id: str = ""
    name: str = ""
    pieces: list[str] = field(default_factory=list)

    @property
    def arguments(self) -> str:
        return "".join(self.pieces)

    @property
    def whole(self) -> bool:
        """Whether the arguments are a JSON object; nothing at all is one."""
        text = self.arguments.strip()
        if not text:
            return True
        if not text.endswith(("}", '"')):
            return False
        try:
            return isinstance(json.loads(text, strict=False), dict | str)
        except (ValueError, RecursionError):
            return False


class TooManyCallsError(ValueError):
    """A server sends calls without end."""


class CallAssembler:
    """Calls by the pieces' `index`, by `id`, or, where a server gives neither, by their order."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []

    def __bool__(self) -> bool:
        return bool(self._calls)

    def add(self, piece: object) -> int:
        """Take one element of a `tool_calls` delta; the characters that it brought.

        Raises `TooManyCallsError`.
        """
        if not isinstance(piece, Mapping):
            return 0
        function = piece.get("function")
        given = function if isinstance(function, Mapping) else piece
        index = piece.get("index")
        index = index if isinstance(index, int) else None
        id, name, arguments = _string(piece.get("id")), _string(given.get("name")), _arguments(given)
        call = self._find(index, id, name, arguments)
        if call is None:
            if len(self._calls) >= _MOST_CALLS:
                raise TooManyCallsError(f"more than {_MOST_CALLS} tool calls in one answer")
            call = _Call(index)
            self._calls.append(call)
        call.id = call.id or id
        if name != call.name:
            call.name += name
        if arguments:
            call.pieces.append(arguments)
        return len(name) + len(arguments)

    def add_whole(self, calls: object) -> int:
        """Take the `tool_calls` of a message that came in one piece."""
        pieces = calls if isinstance(calls, list) else []
        base = len(self._calls)
        return sum(
            self.add({**piece, "index": base + number})
            for number, piece in enumerate(pieces)
            if isinstance(piece, Mapping)
        )

    def finished(self, *, cut: bool) -> list[SampledCall]:
        """The calls in order; with `cut` those are left out that the end came into."""
        return [
            SampledCall(call.id, call.name, call.arguments)
            for call in self._calls
            if call.name and (call.whole or not cut)
        ]

    def _find(self, index: int | None, id: str, name: str, arguments: str) -> _Call | None:
        """The call that a piece continues; None where it begins one."""
        if index is not None:
            known = next((call for call in reversed(self._calls) if call.index == index), None)
            if known is None and not name and self._calls and self._calls[-1].index is None:
                # The piece that began the call had no index, this one has.
                return self._calls[-1]
            return None if known is None or _begins_another(known, id, name, arguments) else known
        if id and (same := next((call for call in self._calls if call.id == id), None)):
            return same
        last = self._calls[-1] if self._calls else None
        return None if last is None or (name and last.name) else last


def _begins_another(known: _Call, id: str, name: str, arguments: str) -> bool:
    """Whether a piece is a new call although its index was used: some servers count all calls 0."""
    if not name or not known.name:
        return False
    if id and known.id:
        return id != known.id
    return bool(arguments and known.pieces and known.whole)


def _arguments(given: Mapping[str, object]) -> str:
    value = given.get("arguments")
    if isinstance(value, Mapping | list):
        return json.dumps(value, ensure_ascii=False)
    return _string(value)


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""
