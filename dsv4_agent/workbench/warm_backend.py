"""A backend over a running server of this user, which may end at any time: the error then says what to do."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Protocol

from dsv4_agent.backends.base import (
    Backend,
    BackendEvent,
    BackendInfo,
    Conversation,
    GenerationRequest,
    ModelError,
)
from dsv4_agent.dsml.segments import Segment
from dsv4_agent.dsml.vocabulary import Vocabulary


class StreamingBackend(Backend, Protocol):
    """A backend whose generations can be closed."""

    def generate(
        self, conversation: Conversation, request: GenerationRequest
    ) -> AsyncGenerator[BackendEvent, None]: ...


class WarmBackend:
    """As the backend inside, but for the error when the server at `url` is gone."""

    def __init__(self, inside: StreamingBackend, url: str) -> None:
        self._inside = inside
        self._url = url

    @property
    def info(self) -> BackendInfo:
        return self._inside.info

    @property
    def vocabulary(self) -> Vocabulary | None:
        return self._inside.vocabulary

    def encode(self, segments: Sequence[Segment]) -> tuple[int, ...] | None:
        return self._inside.encode(segments)

    async def generate(
        self, conversation: Conversation, request: GenerationRequest
    ) -> AsyncGenerator[BackendEvent, None]:
        try:
            async with aclosing(self._inside.generate(conversation, request)) as events:
                async for event in events:
                    yield event
        except ModelError as error:
            if not error.unreachable:
                raise
            message = (
                f"the running server at {self._url} has ended or refuses us ({error}): run the task again, "
                "or leave the chat and resume it; the model is then loaded here, or that of a new dsv4 serve"
            )
            raise ModelError(message, unreachable=True) from error

    async def close(self) -> None:
        await self._inside.close()
