"""The growing prompt: what was sent stays as it was sent, byte for byte, and costs nothing the next time."""

from __future__ import annotations

from collections.abc import Sequence

from dsv4_agent.backends.base import Conversation
from dsv4_agent.backends.completions.tokens import SegmentTokens
from dsv4_agent.dsml.segments import Segment


class PromptIds:
    """The ids of a conversation, and the JSON array of them; only what is new is encoded and written.

    A transcript with all its ids gives them as they are. Where some are missing (a server that answered in
    text), its segments are encoded, each once, at the boundaries at which they were appended.
    """

    def __init__(self, tokens: SegmentTokens) -> None:
        self._tokens = tokens
        self._segments: list[Segment] = []
        self._encoded: list[int] = []
        self._written: list[int] = []
        self._json: list[str] = []

    async def of(self, conversation: Conversation) -> list[int]:
        """All ids so far. Raises `ModelError`."""
        try:
            return list(conversation.tokens())
        except ValueError:
            pass
        segments = list(conversation.segments())
        if segments[: len(self._segments)] != self._segments:
            self._segments, self._encoded = [], []
        for segment in segments[len(self._segments) :]:
            self._encoded += await self._tokens.encode([segment])
            self._segments.append(segment)
        return list(self._encoded)

    def json(self, ids: Sequence[int]) -> str:
        """The JSON array; an extension of the one before is not written anew."""
        ids = list(ids)
        count = len(self._written)
        if ids[:count] != self._written:
            self._written, self._json, count = [], [], 0
        if len(ids) > count:
            self._json.append(",".join(map(str, ids[count:])))
            self._written = ids
        if len(self._json) > 1:
            self._json = [",".join(self._json)]
        return f"[{self._json[0] if self._json else ''}]"
