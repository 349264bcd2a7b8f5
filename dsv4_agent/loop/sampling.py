"""One sampled turn: the backend's raw events become parsed events, exact ids and a finished message."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from time import monotonic

from dsv4_agent.backends.base import (
    BackendEvent,
    BackendNotice,
    Finished,
    GenerationUsage,
    GrammarUse,
    PrefixSynced,
    Retrying,
    SampledCall,
    SampledIds,
    SampledReasoning,
    SampledText,
)
from dsv4_agent.backends.text import estimate_tokens
from dsv4_agent.dsml.calls import build_json_call
from dsv4_agent.dsml.dialect import DSML, END_THINK, EOS, Dialect
from dsv4_agent.dsml.events import (
    FinishReason,
    ParsedCall,
    ParsedMessage,
    ParseEvent,
    Repair,
    TextDelta,
    ThinkingDelta,
)
from dsv4_agent.dsml.parse import StreamParser
from dsv4_agent.dsml.schema import ToolSchema
from dsv4_agent.dsml.segments import Segment
from dsv4_agent.dsml.vocabulary import Vocabulary
from dsv4_agent.loop.events import (
    AgentMessageItem,
    Event,
    ItemCompleted,
    ItemDelta,
    ItemStarted,
    Notice,
    ReasoningItem,
    Retry,
)
from dsv4_agent.loop.facts import Discarded, Usage
from dsv4_agent.loop.served_turn import assistant_message, turn_segments, with_served
from dsv4_agent.session.transcript import Entry, EntryKind

_WHOLE = 0.2
"""Seconds within which a server's answer has come in one piece, so that its speed is not known."""


@dataclass(frozen=True, slots=True)
class Speeds:
    """Tokens a second; None where nothing was measured."""

    prefill: float | None
    decode: float | None


class TurnSampler:
    """Collects one assistant turn. Feed it the backend's events, then `finish` once, which sets `message`.

    A turn that begins anew (`Retrying.discards`) leaves nothing here of what came before; the `Retry` event
    takes it along.
    """

    def __init__(
        self,
        turn: int,
        tools: Mapping[str, ToolSchema],
        *,
        thinking: bool,
        vocabulary: Vocabulary | None,
        new_id: Callable[[], str],
        dialect: Dialect = Dialect.V4,
    ) -> None:
        self.turn = turn
        self.synced: PrefixSynced | None = None
        self.usage = GenerationUsage()
        self.grammar: GrammarUse | None = None
        self.kv_bytes: Mapping[str, int] = {}
        self.reason = FinishReason.INTERRUPTED
        self.finished = False
        self.message = ParsedMessage("", "")
        self._tools = tools
        self._vocabulary = vocabulary
        self._end_think = vocabulary.id_of(END_THINK) if vocabulary is not None else None
        self._thinks = thinking
        self._dialect = dialect
        self._new_id = new_id
        self._begin = self._first = self._last = monotonic()
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._parser = StreamParser(self._tools, thinking=self._thinks, vocabulary=self._vocabulary)
        self._thinking = self._thinks
        self._ids: list[int] = []
        self._text: list[str] = []
        self._reasoning_ids = 0
        self._served = False
        self._calls: list[ParsedCall] = []
        self._repairs: list[Repair] = []
        self._open: ReasoningItem | AgentMessageItem | None = None
        self._parts: list[str] = []

    def feed(self, event: BackendEvent) -> list[Event]:
        """Take one event of the backend; returns what front ends should see of it."""
        match event:
            case SampledIds(ids):
                if self.synced is None and not self._ids:
                    self._first = monotonic()
                self._count_reasoning(ids)
                self._ids.extend(ids)
                return self._show(self._parser.feed_ids(ids))
            case SampledText(text):
                self._hear(text)
                return self._show(self._parser.feed_text(text))
            case SampledReasoning(text):
                self._served = True
                self._hear(text)
                return self._show(self._parser.feed_reasoning(text))
            case SampledCall(id, name, arguments):
                self._served = True
                call, repairs = build_json_call(id, name, arguments, self._tools)
                self._calls.append(call)
                self._repairs.extend(repairs)
            case PrefixSynced():
                self.synced = event
                self._first = monotonic()
            case Retrying(attempt, maximum, reason, delay_ms, discards):
                events, discarded = self._discard() if discards else ([], None)
                return [*events, Retry(attempt, maximum, reason, delay_ms, discarded)]
            case BackendNotice(text):
                return [Notice("warning", text)]
            case Finished(reason, usage, grammar, kv_bytes):
                self.reason, self.usage, self.finished = reason, usage, True
                self.grammar, self.kv_bytes = grammar, kv_bytes
        return []

    def finish(self) -> list[Event]:
        """End the turn with the reason the backend gave (interrupted if it never did); sets `message`."""
        self._last = monotonic()
        message = self._parser.finish(self.reason)
        if self._served:
            # What broke off in the middle of a stream is not known to be all of a call.
            calls = [] if self.reason is FinishReason.INTERRUPTED else self._calls
            message = with_served(message, calls, self.turn)
            message = replace(message, repairs=(*message.repairs, *self._repairs))
        self.message = message
        events = self._close(message)
        events.extend(Notice("repair", f"{repair.kind}: {repair.detail}") for repair in message.repairs)
        if self.grammar is not None:
            tokens, broken = self.grammar.tokens, self.grammar.violations
            events.append(Notice("grammar", f"{broken} of {tokens} tokens in tool calls break the grammar"))
        if any(call.from_reasoning for call in message.calls):
            events.append(Notice("call_from_reasoning", "a tool call came from inside the reasoning"))
        return events

    def entry(self) -> Entry:
        """The turn as a transcript entry: the sampled ids themselves, never a rendering of `message`.

        Only of a turn that a chat server has taken apart nothing is left but the message.
        """
        text, message = self.text, self.message
        if self._served:
            closed = self.reason is FinishReason.STOP
            return Entry(
                EntryKind.SAMPLED,
                self.turn,
                tuple(turn_segments(message, self._dialect, thinking=self._thinks, closed=closed)),
                messages=(assistant_message(message),),
                closed=closed,
                reasoning_tokens=self._reasoning_tokens(),
            )
        shown: dict[str, object] = {"role": "assistant", "content": message.content}
        if message.reasoning:
            shown["reasoning_content"] = message.reasoning
        if message.calls:
            shown["tool_calls"] = [{"name": call.name, "arguments": call.arguments} for call in message.calls]
        return Entry(
            EntryKind.SAMPLED,
            self.turn,
            (Segment(text, True),) if text else (),
            None if self._text or self._vocabulary is None else tuple(self._ids),
            (shown,),
            closed=text.endswith(EOS),
            reasoning_tokens=self._reasoning_tokens(),
        )

    @property
    def text(self) -> str:
        """What was sampled so far, special tokens spelt out."""
        if self._text or self._vocabulary is None:
            return "".join(self._text)
        return b"".join(self._vocabulary.token_bytes(token) for token in self._ids).decode("utf-8", "replace")

    def _reasoning_tokens(self) -> int:
        """Tokens before `</think>`, counted where there are ids, else estimated."""
        return self._reasoning_ids if self._ids else estimate_tokens(self.message.reasoning)

    def run_usage(self) -> Usage:
        """The turn's usage; an interrupted turn counts what was sampled."""
        usage = self.usage
        output = usage.output_tokens or len(self._ids) or estimate_tokens(self.text)
        cached = self.synced.reused if self.synced else usage.cached_input_tokens
        reasoning = self._reasoning_tokens()
        return Usage(usage.input_tokens, cached, output, reasoning, usage.cost, usage.currency)

    def speeds(self) -> Speeds:
        """Measured speeds; a server tells only how fast its text came."""
        if self.synced is None:
            seconds = self._last - self._first
            told = self.usage.counted and seconds > _WHOLE
            return Speeds(None, _rate(self.usage.output_tokens, seconds) if told else None)
        return Speeds(
            _rate(self.synced.prefilled, self._first - self._begin),
            _rate(len(self._ids), self._last - self._first),
        )

    def _discard(self) -> tuple[list[Event], Discarded | None]:
        """Begin anew; the items that were open are completed as partial, and all that was said comes out."""
        text, calls = self.text, self._calls
        message = self._parser.finish(FinishReason.INTERRUPTED)
        closing = [
            ItemCompleted(replace(event.item, partial=True))
            for event in self._close(message)
            if isinstance(event, ItemCompleted) and isinstance(event.item, ReasoningItem | AgentMessageItem)
        ]
        rest = text.removeprefix(message.reasoning)
        markup = rest[rest.index(f"<{DSML}") :] if f"<{DSML}" in rest else ""
        called = [markup, *(f"{call.name}({call.raw})" for call in calls)]
        self._begin_anew()
        if not text and not calls:
            return [], None
        lost = Discarded(message.reasoning, message.content, "\n".join(filter(None, called)))
        return [*closing], lost

    def _hear(self, text: str) -> None:
        if text and self.synced is None and not any(self._text):
            self._first = monotonic()
        self._text.append(text)

    def _count_reasoning(self, ids: Iterable[int]) -> None:
        for token in ids:
            if self._thinking:
                self._reasoning_ids += 1
                self._thinking = token != self._end_think

    def _show(self, parsed: list[ParseEvent]) -> list[Event]:
        events: list[Event] = []
        for event in parsed:
            match event:
                case ThinkingDelta(text):
                    events += self._delta(ReasoningItem, text)
                case TextDelta(text):
                    events += self._delta(AgentMessageItem, text)
        return events

    def _delta(self, kind: type[ReasoningItem] | type[AgentMessageItem], text: str) -> list[Event]:
        events: list[Event] = []
        if not isinstance(self._open, kind):
            events += self._complete("".join(self._parts))
            self._open = kind(self._new_id())
            events.append(ItemStarted(self._open))
        self._parts.append(text)
        events.append(ItemDelta(self._open.id, text))
        return events

    def _complete(self, text: str) -> list[Event]:
        item, self._open, self._parts = self._open, None, []
        match item:
            case ReasoningItem(id):
                return [ItemCompleted(ReasoningItem(id, text, self._reasoning_ids or estimate_tokens(text)))]
            case AgentMessageItem(id):
                return [ItemCompleted(AgentMessageItem(id, text))]
        return []

    def _close(self, message: ParsedMessage) -> list[Event]:
        """Complete the open item with the parser's final text, which may differ from its deltas."""
        if isinstance(self._open, ReasoningItem):
            return self._complete(message.reasoning)
        return self._complete(message.content)


def _rate(tokens: int, seconds: float) -> float | None:
    return round(tokens / seconds, 1) if tokens and seconds > 0 else None
