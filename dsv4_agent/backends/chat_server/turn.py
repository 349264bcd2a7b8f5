"""One answer of a chat server, chunk by chunk, as the events of a turn."""

from __future__ import annotations

from typing import Final

from dsv4_agent.backends.base import (
    BackendEvent,
    Finished,
    GenerationUsage,
    SampledCall,
    SampledReasoning,
)
from dsv4_agent.backends.chat_server.calls import CallAssembler
from dsv4_agent.backends.chat_server.chunks import Chunk
from dsv4_agent.backends.chat_server.inline_thinking import InlineThinking
from dsv4_agent.backends.text import CHARACTERS_PER_TOKEN
from dsv4_agent.dsml.events import FinishReason

_LENGTH: Final = frozenset({"length", "max_tokens", "model_length"})
_BROKEN: Final = frozenset({"insufficient_system_resource", "abort", "error", "content_filter"})
_FREE_CHARACTERS: Final = 1 << 20
_CHARACTERS_A_TOKEN: Final = 64


class BrokenTurnError(Exception):
    """The answer did not come to a good end; `reason` is the server's word for it, or ours."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class EndlessAnswerError(Exception):
    """The server sends far more than the request allows."""


class TurnReader:
    """Reads one attempt. `begun` tells whether anything of an answer has come."""

    def __init__(self, max_tokens: int, *, opened: bool = False) -> None:
        self.reasoning_field: str | None = None
        self._inline = InlineThinking(opened=opened)
        self._calls = CallAssembler()
        self._finish: str | None = None
        self._usage: GenerationUsage | None = None
        self._characters = 0
        self._most = _FREE_CHARACTERS + _CHARACTERS_A_TOKEN * max_tokens

    @property
    def begun(self) -> bool:
        """Whether anything of an answer has come."""
        return self._characters > 0

    @property
    def complete(self) -> bool:
        """Whether the server has said why it stopped: only a count of tokens may follow."""
        return self._finish is not None

    @property
    def unopened(self) -> bool:
        """Whether a thought was closed in the content that was never opened there."""
        return self._inline.unopened

    def read(self, chunk: Chunk) -> list[BackendEvent]:
        """The events of one chunk. Raises `EndlessAnswerError` and `TooManyCallsError`."""
        self._usage = chunk.usage or self._usage
        self._finish = chunk.finish or self._finish
        self._characters += len(chunk.reasoning) + len(chunk.content)
        events: list[BackendEvent] = []
        if chunk.reasoning:
            self.reasoning_field = chunk.reasoning_field or self.reasoning_field
            self._inline.reasoning_came()
            events.append(SampledReasoning(chunk.reasoning))
        if chunk.content:
            events.extend(self._inline.feed(chunk.content))
        if chunk.whole:
            self._characters += self._calls.add_whole(list(chunk.calls))
        else:
            self._characters += sum(self._calls.add(piece) for piece in chunk.calls)
        if self._characters > self._most:
            raise EndlessAnswerError("the server sends far more than it was asked for")
        return events

    def end(self, *, estimated_input: int) -> list[BackendEvent]:
        """The last events, when the stream is over. Raises `BrokenTurnError` for an incomplete answer.

        Only a finish reason makes an answer complete: the end of a stream comes from a dead server as well.
        """
        if self._finish in _BROKEN:
            raise BrokenTurnError(str(self._finish))
        if self._finish is None:
            raise BrokenTurnError("stream_broken" if self.begun else "empty_answer")
        cut = self._finish in _LENGTH
        calls = self._calls.finished(cut=cut)
        usage = self._usage or GenerationUsage(estimated_input, 0, self._characters // CHARACTERS_PER_TOKEN)
        reason = FinishReason.LENGTH if cut else FinishReason.STOP
        return [*self._inline.finish(), *calls, Finished(reason, usage)]

    def leftovers(self) -> list[SampledCall]:
        """The calls as far as they have come, for a turn that is given up."""
        return self._calls.finished(cut=False)
