"""A backend over a server that was not asked again what it is, for it may have become another."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from dsv4_agent.backends.base import (
    Backend,
    BackendEvent,
    BackendInfo,
    Conversation,
    GenerationRequest,
    ModelError,
)
from dsv4_agent.backends.http.errors import ServerError
from dsv4_agent.backends.profile import ServerProfile
from dsv4_agent.dsml.segments import Segment
from dsv4_agent.dsml.vocabulary import Vocabulary
from dsv4_agent.workbench.remembered_facts import forget

_NO_SUCH = 404


class RecalledBackend:
    """As the backend inside; after any failure the next start asks the server of `profile` anew."""

    def __init__(self, inside: Backend, profile: ServerProfile) -> None:
        self._inside = inside
        self._profile = profile

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
            forget(self._profile)
            if not isinstance(error, ServerError) or error.status != _NO_SUCH or self._profile.model:
                raise
            cause, _, _ = str(error).rpartition("; ")
            message = f"{cause}; run the task again: the server, which may have changed, is then asked anew"
            raise ModelError(message, unreachable=error.unreachable) from error
        finally:
            if isinstance(events, AsyncGenerator):
                await events.aclose()

    async def close(self) -> None:
        await self._inside.close()
