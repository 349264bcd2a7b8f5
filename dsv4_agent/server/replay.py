"""The exact tokens of turns that this server has sampled, to be put back where clients send them unchanged.

What a client gets is a reading of what was sampled; written out again it would rarely be the same tokens, and
the KV state of all that follows would be lost. A turn with tool calls is known by the id of its first call,
which nobody can guess; one without by its text together with everything before it. Either way it counts only
if the client changed nothing.
"""

from __future__ import annotations

import hashlib
import json
import threading
from array import array
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

__all__ = ["Past", "Said", "TurnMemory", "said_by"]

_MOST_TOKENS = 8 << 20
"""Tokens remembered at most: four bytes each."""


@dataclass(frozen=True, slots=True)
class Said:
    """A turn as a client sees it: calls are (id, name, arguments as JSON text)."""

    content: str
    reasoning: str
    calls: tuple[tuple[str, str, str], ...] = ()

    def is_kept_by(self, other: Said) -> bool:
        """Whether `other`, which a client sent, is this turn; reasoning may have been left away."""
        same_calls = len(self.calls) == len(other.calls) and all(
            mine[:2] == theirs[:2] and _value(mine[2]) == _value(theirs[2])
            for mine, theirs in zip(self.calls, other.calls, strict=True)
        )
        same_reasoning = not other.reasoning or self.reasoning.strip() == other.reasoning.strip()
        return same_calls and same_reasoning and self.content.strip() == other.content.strip()


def said_by(message: Mapping[str, Any]) -> Said:
    """An assistant message of a request (normalised: see `chat_render`)."""
    calls = tuple(
        (call["id"], call["function"]["name"], call["function"]["arguments"])
        for call in message.get("tool_calls") or ()
    )
    return Said(message["content"], message.get("reasoning_content") or "", calls)


class Past:
    """The ids before a turn, as a digest that grows with them: a chat is read once for all its turns."""

    def __init__(self, ids: Sequence[int] = ()) -> None:
        self._digest = hashlib.blake2b(digest_size=16)
        self._length = 0
        self.reach(ids)

    def reach(self, ids: Sequence[int]) -> Self:
        """Go on to the end of `ids`, which begin with all that was read so far."""
        self._digest.update(array("i", ids[self._length :]).tobytes())
        self._length = len(ids)
        return self

    def digest(self) -> hashlib.blake2b:
        """A digest of the ids so far, to which more may be added."""
        return self._digest.copy()


class TurnMemory:
    """Remembers so many turns, the latest used longest. Thread-safe."""

    def __init__(self, limit: int = 2048) -> None:
        self._limit = limit
        self._turns: OrderedDict[bytes, tuple[Said, array[int]]] = OrderedDict()
        self._tokens = 0
        self._lock = threading.Lock()

    def remember(self, before: Past, said: Said, ids: Sequence[int]) -> None:
        """Keep `ids`: all between the header's ``<｜Assistant｜>`` (the last of `before`) and the end."""
        entry = (said, array("i", ids))
        key = _key(before, said)
        with self._lock:
            self._forget(key)
            self._turns[key] = entry
            self._tokens += len(ids)
            while len(self._turns) > self._limit or self._tokens > _MOST_TOKENS:
                self._forget(next(iter(self._turns)))

    def recall(self, before: Past, said: Said) -> array[int] | None:
        """The ids of a turn that a client sent back unchanged."""
        key = _key(before, said)
        with self._lock:
            found = self._turns.get(key)
            if found is None or not found[0].is_kept_by(said):
                return None
            self._turns.move_to_end(key)
            return found[1]

    def _forget(self, key: bytes) -> None:
        gone = self._turns.pop(key, None)
        if gone is not None:
            self._tokens -= len(gone[1])


def _key(before: Past, said: Said) -> bytes:
    if said.calls and said.calls[0][0]:
        return said.calls[0][0].encode("utf-8", "surrogatepass")
    digest = before.digest()
    digest.update(said.content.strip().encode("utf-8", "surrogatepass"))
    return digest.digest()


def _value(arguments: str) -> object:
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
