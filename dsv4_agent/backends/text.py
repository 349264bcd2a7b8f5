"""A backend made of a Python function: given the conversation, return the text of the next turn.

For oracles that generate training data, and for tests::

    class Renamer(TextTurnBackend):
        def next_turn(self, conversation: Conversation) -> str:
            return "Nothing to do.</think>There is nothing to rename."
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence

from dsv4_agent.backends.base import (
    BackendEvent,
    BackendInfo,
    BackendKind,
    Conversation,
    Finished,
    GenerationRequest,
    GenerationUsage,
    SampledIds,
    SampledText,
)
from dsv4_agent.dsml.dialect import EOS
from dsv4_agent.dsml.events import FinishReason
from dsv4_agent.dsml.segments import Segment
from dsv4_agent.dsml.vocabulary import Vocabulary

Encode = Callable[[Sequence[Segment]], Sequence[int]]

CHARACTERS_PER_TOKEN = 4
"""The usual rough measure where nothing can count exactly."""


class TextTurnBackend(ABC):
    """Answers with whole turns of text (or segments), one call of `next_turn` each.

    A turn is what the model would have sampled: reasoning, `</think>`, content, a DSML call block. The
    end-of-turn token is added where it is missing. A plain string counts as structure throughout; return
    segments to mark parts (file contents, say) that must be encoded as plain text. With `encode` and
    `vocabulary` (both from the tokenizer) the turns carry ids, otherwise text.
    """

    def __init__(
        self,
        *,
        id: str = "text",
        context_window: int = 1_048_576,
        encode: Encode | None = None,
        vocabulary: Vocabulary | None = None,
    ) -> None:
        if (encode is None) is not (vocabulary is None):
            raise ValueError("encode and vocabulary belong together: give both or neither")
        self._encode = encode
        self._vocabulary = vocabulary
        self._info = BackendInfo(id, BackendKind.SCRIPTED, context_window, tokenizes=encode is not None)

    @abstractmethod
    def next_turn(self, conversation: Conversation) -> str | Sequence[Segment]:
        """The model's next turn; raise `ModelError` to fail."""

    @property
    def info(self) -> BackendInfo:
        return self._info

    @property
    def vocabulary(self) -> Vocabulary | None:
        return self._vocabulary

    def encode(self, segments: Sequence[Segment]) -> tuple[int, ...] | None:
        return None if self._encode is None else tuple(self._encode(segments))

    async def generate(
        self, conversation: Conversation, request: GenerationRequest
    ) -> AsyncIterator[BackendEvent]:
        turn = self.next_turn(conversation)
        segments = [Segment(turn, True)] if isinstance(turn, str) else list(turn)
        text = "".join(segment.text for segment in segments)
        if not text.endswith(EOS):
            segments.append(Segment(EOS, True))
            text += EOS
        ids = self.encode(segments)
        if ids is None:
            yield SampledText(text)
            count = estimate_tokens(text)
            read = sum(estimate_tokens(segment.text) for segment in conversation.segments())
        else:
            yield SampledIds(ids)
            count, read = len(ids), len(conversation.tokens())
        yield Finished(FinishReason.STOP, GenerationUsage(input_tokens=read, output_tokens=count))

    async def close(self) -> None:
        """Nothing to release; a subclass that holds something overrides this."""
        return


def estimate_tokens(text: str) -> int:
    """A rough count of tokens, for backends without a tokenizer."""
    return -(-len(text) // CHARACTERS_PER_TOKEN)
