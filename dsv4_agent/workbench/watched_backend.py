"""A backend whose failures mean more where it is used than where they happen."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence

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


class WatchedBackend(ABC):
    """As the backend inside, but for the errors of its generations."""

    def __init__(self, inside: Backend) -> None:
        self._inside = inside

    @abstractmethod
    def explained(self, error: ModelError) -> ModelError:
        """What to raise instead of a failure: itself, or another error that says what to do."""

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
        events = self._inside.generate(conversation, request)
        try:
            async for event in events:
                yield event
        except ModelError as error:
            told = self.explained(error)
            if told is error:
                raise
            raise told from error
        finally:
            if isinstance(events, AsyncGenerator):
                await events.aclose()

    async def close(self) -> None:
        await self._inside.close()
