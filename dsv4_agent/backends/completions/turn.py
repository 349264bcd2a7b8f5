"""One assistant turn as a server sends it, over all the attempts that it takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from dsv4_agent.backends.base import (
    BackendEvent,
    BackendNotice,
    GenerationUsage,
    GrammarUse,
    ModelError,
    SampledIds,
    SampledText,
)
from dsv4_agent.backends.completions.forms import Chunk
from dsv4_agent.backends.completions.tokens import SegmentTokens
from dsv4_agent.backends.http.errors import BrokenStreamError, ServerError
from dsv4_agent.backends.pricing import cost_of
from dsv4_agent.backends.profile import Prices
from dsv4_agent.backends.text import CHARACTERS_PER_TOKEN
from dsv4_agent.dsml.dialect import EOS
from dsv4_agent.dsml.events import FinishReason

_LONGEST_TOKEN: Final = 128
"""Characters; more than so many times `max_tokens` isn't an answer to what was asked."""


@dataclass(slots=True)
class SampledTurn:
    """What was sampled so far. `where` names the server, `most` bounds the turn's tokens.

    The first piece decides whether the turn is ids or text. `finish` is set once nothing more can follow.
    """

    where: str
    tokens: SegmentTokens
    most: int
    ids: list[int] = field(default_factory=list)
    finish: FinishReason | None = None
    _parts: list[str] = field(default_factory=list)
    _characters: int = 0
    _carried: int = 0
    _counts: Chunk = field(default_factory=Chunk)
    _synced: bool = False

    @property
    def text(self) -> str:
        """The turn, where it came as text."""
        return "".join(self._parts)

    @property
    def sampled(self) -> int:
        """Tokens sampled so far, estimated where there are no ids."""
        return len(self.ids) or -(-self._characters // CHARACTERS_PER_TOKEN)

    def begin(self) -> None:
        """Another attempt goes on from here."""
        self._carried = self.sampled
        self._counts = Chunk()
        if self.sampled >= self.most:
            self.finish = FinishReason.LENGTH

    def take(self, chunk: Chunk) -> Iterator[BackendEvent]:
        """What one event of the stream adds. Raises `ServerError`, `ModelError`."""
        self._counts = self._counts.followed_by(chunk)
        if chunk.synced is not None and not self._synced:
            self._synced = True
            yield chunk.synced
        if chunk.notice is not None:
            yield BackendNotice(chunk.notice)
        if self.finish is not None:
            return
        if chunk.ids and self.tokens.vocabulary is not None and not self._parts:
            yield self._take_ids(chunk.ids)
        elif chunk.text and not self.ids:
            yield self._take_text(chunk.text)
        elif chunk.text and chunk.ids is None:
            raise BrokenStreamError(f"{self.where} left out token ids; try again", reason="ids_missing")
        if self.finish is not None:
            return
        if chunk.finish is FinishReason.INTERRUPTED:
            raise BrokenStreamError(f"{self.where} gave the answer up; try again", reason="aborted")
        self.finish = chunk.finish

    def close(self) -> Iterator[BackendEvent]:
        """The end-of-turn token, which most servers leave out, where the model has sampled it."""
        if self.finish is not FinishReason.STOP:
            return
        vocabulary = self.tokens.vocabulary
        eos = None if vocabulary is None else vocabulary.id_of(EOS)
        if self.ids and eos is not None and self.ids[-1] != eos:
            self.ids.append(eos)
            yield SampledIds((eos,))
        elif not self.ids and not self.text.endswith(EOS):
            self._parts.append(EOS)
            yield SampledText(EOS)

    def usage(self, prompt: int | None, prices: Prices | None) -> GenerationUsage:
        """What the turn took. `prompt` are the prompt's tokens as we count them, None where we can't.

        A price is that of the last attempt's prompt and of all that was sampled.
        """
        told = self._counts
        billed = told.prompt_tokens if told.prompt_tokens is not None else (prompt or 0) + self._carried
        cached = min(told.cached_tokens or 0, billed)
        output = self.sampled
        if not self.ids and told.output_tokens is not None:
            output = self._carried + told.output_tokens
        # What an earlier attempt had sampled was part of the last one's prompt.
        own = max(0, billed - self._carried)
        return GenerationUsage(
            own,
            min(cached, own),
            output,
            cost=cost_of(prices, prompt=billed, cached=cached, output=output),
            currency=None if prices is None else prices.currency,
            counted=(told.prompt_tokens is not None or prompt is not None)
            and (bool(self.ids) or told.output_tokens is not None),
        )

    @property
    def grammar(self) -> GrammarUse | None:
        """What the server counted of the grammar of calls."""
        return self._counts.grammar

    @property
    def kv_bytes(self) -> dict[str, int]:
        """What the server says of its KV state."""
        return dict(self._counts.kv_bytes)

    def _take_ids(self, ids: tuple[int, ...]) -> SampledIds:
        if not self.tokens.knows(ids):
            raise ModelError(
                f"{self.where} samples ids that our tokenizer doesn't know: set the profile's tokenizer to "
                "the checkpoint's folder"
            )
        vocabulary = self.tokens.vocabulary
        eos = None if vocabulary is None else vocabulary.id_of(EOS)
        ids = ids[: self.most - len(self.ids)]
        if eos in ids:
            ids = ids[: ids.index(eos) + 1]
            self.finish = FinishReason.STOP
        self.ids += ids
        if self.finish is None and len(self.ids) >= self.most:
            self.finish = FinishReason.LENGTH
        return SampledIds(ids)

    def _take_text(self, text: str) -> SampledText:
        before, end, _ = text.partition(EOS)
        if end:
            text, self.finish = before + end, FinishReason.STOP
        self._parts.append(text)
        self._characters += len(text)
        if self._characters > self.most * _LONGEST_TOKEN:
            message = f"{self.where} goes on beyond max_tokens; see the server's log"
            raise ServerError(message, reason="endless")
        return SampledText(text)
