"""One assistant turn of a chat: prompt, sampling, reading; the same for every endpoint that speaks of chats.

`open_chat` gives a `ChatTurn`; its `events` are `Thought`, `Spoken` and `Called` as they become certain, then
one `Over`. A call is given whole: what was cut off in the middle of one is not a call, so that nobody runs
half of it.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from dsv4_agent.backends.turn_constraint import calls_opener, thought_is_open
from dsv4_agent.dsml.dialect import END_THINK
from dsv4_agent.dsml.events import CallEnded, FinishReason, ParsedCall, ParseEvent, TextDelta, ThinkingDelta
from dsv4_agent.dsml.parse import StreamParser
from dsv4_agent.dsml.schema import SchemaError, ToolSchema
from dsv4_agent.server.api_errors import bad_request
from dsv4_agent.server.chat_constraint import chat_constraint
from dsv4_agent.server.chat_prompt import prompt_ids
from dsv4_agent.server.chat_render import Marks, normalised, render_chat
from dsv4_agent.server.chat_request import ChatRequest, ChoiceKind
from dsv4_agent.server.replay import Past, Said
from dsv4_agent.server.service import Service
from dsv4_agent.server.stop_strings import StopStrings
from dsv4_agent.server.turns import Begun, Ended, Sampled, TokenOdds, TurnRequest

__all__ = [
    "Called",
    "ChatEvent",
    "ChatTurn",
    "ChatUsage",
    "Over",
    "Spoken",
    "Thought",
    "count_prompt",
    "open_chat",
]


@dataclass(frozen=True, slots=True)
class Thought:
    """More reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class Spoken:
    """More of the answer; `odds` belong to the tokens since the last one, where they were asked for."""

    text: str
    odds: tuple[tuple[int, TokenOdds], ...] = ()


@dataclass(frozen=True, slots=True)
class Called:
    """A whole tool call; `arguments` is valid JSON."""

    index: int
    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ChatUsage:
    """Tokens of a turn."""

    prompt: int
    cached: int
    sampled: int
    reasoning: int


@dataclass(frozen=True, slots=True)
class Over:
    """The end: `finish` is `stop`, `tool_calls` or `length`; `warnings` say what could not be read."""

    finish: str
    usage: ChatUsage
    begun: Begun
    stop: str | None = None
    warnings: tuple[str, ...] = ()


ChatEvent = Thought | Spoken | Called | Over


async def open_chat(service: Service, request: ChatRequest) -> ChatTurn:
    """Render a request and queue its turn. Raises `ApiError`."""
    request.check(service.limits)
    prepared = await asyncio.to_thread(_readable, service, request)
    return ChatTurn(service, request, prepared)


def count_prompt(service: Service, request: ChatRequest) -> int:
    """How many tokens a request's prompt has; nothing is computed. Blocks. Raises `ApiError`."""
    request.check(service.limits)
    return len(_readable(service, request).turn.prompt)


@dataclass(frozen=True, slots=True)
class _Prepared:
    turn: TurnRequest
    opener: tuple[int, ...]
    thinks: bool


def _readable(service: Service, request: ChatRequest) -> _Prepared:
    """As `_prepared`; what is nested too deeply to be written again is the client's mistake."""
    try:
        return _prepared(service, request)
    except RecursionError:
        raise bad_request("The request is nested too deeply.") from None


def _prepared(service: Service, request: ChatRequest) -> _Prepared:
    model, preset = service.model, service.model.preset
    messages, marks = normalised(request.messages), Marks()
    segments = render_chat(request, messages, model, marks)
    ids = prompt_ids(segments, messages, marks, model.codec, service.memory)
    thinks = thought_is_open(ids, model.codec)
    required = request.choice.kind is ChoiceKind.REQUIRED
    opener = tuple(model.codec.encode(calls_opener(model.dialect), True)) if required else ()
    constraint = chat_constraint(request, model, opener, thinks=thinks)
    budget = preset.thinking_budget if request.thinking_budget is None else request.thinking_budget
    sampling = service.sampling(
        ids,
        max_tokens=request.max_tokens or preset.max_tokens_per_turn,
        temperature=request.temperature,
        top_p=request.top_p,
        min_p=request.min_p,
        top_k=request.top_k,
        seed=request.seed,
        thinking_budget=budget,
    )
    turn = TurnRequest(
        ids,
        sampling,
        constraint=constraint,
        logprobs=request.logprobs,
        client=request.client,
        marks=service.marks(ids),
    )
    return _Prepared(turn, opener, thinks)


@dataclass(slots=True)
class _Tally:
    """What has been sampled and shown so far."""

    ids: list[int] = field(default_factory=list)
    reasoning: int = 0
    odds: list[tuple[int, TokenOdds]] = field(default_factory=list)
    thought: list[str] = field(default_factory=list)
    spoken: list[str] = field(default_factory=list)
    calls: list[Called] = field(default_factory=list)
    unread: list[ParsedCall] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class ChatTurn:
    """A turn that is queued. Iterate `events` once, and `cancel` however it ends."""

    def __init__(self, service: Service, request: ChatRequest, prepared: _Prepared) -> None:
        self._service = service
        self._prepared = prepared
        codec = service.model.codec
        schemas = map(ToolSchema.from_function, request.callable)
        self._tools = {schema.name: schema for schema in schemas}
        self._parser = StreamParser(self._tools, thinking=prepared.thinks, vocabulary=codec)
        self._parser.feed_ids(prepared.opener)
        self._stops = StopStrings(request.stop)
        self._thinking = prepared.thinks
        self._end_think = codec.id_of(END_THINK)
        self._begun = Begun()
        self._so_far = _Tally()
        self._turn = service.start(prepared.turn)

    def cancel(self) -> None:
        """Stop computing; harmless when the turn is over."""
        self._turn.cancel()

    @property
    def prompt(self) -> tuple[int, ...]:
        """The ids of the prompt."""
        return self._prepared.turn.prompt

    async def events(self) -> AsyncGenerator[ChatEvent, None]:
        """The turn as it comes. Raises `ApiError`."""
        try:
            async for event in self._turn:
                match event:
                    case Begun():
                        self._begun = event
                    case Sampled(id, odds):
                        for shown in self._sampled(id, odds):
                            yield shown
                        if self._stops.hit is not None:
                            yield self._over("stop")
                            return
                    case Ended(reason):
                        for shown in self._ended(reason):
                            yield shown
        finally:
            self.cancel()

    def _sampled(self, token: int, odds: TokenOdds | None) -> list[ChatEvent]:
        so_far = self._so_far
        so_far.ids.append(token)
        if self._thinking:
            so_far.reasoning += 1
            self._thinking = token != self._end_think
        elif odds is not None and token != self._service.model.codec.eos_id:
            so_far.odds.append((token, odds))
        return self._read(self._parser.feed_ids((token,)))

    def _read(self, events: list[ParseEvent] | tuple[ParseEvent, ...]) -> list[ChatEvent]:
        shown: list[ChatEvent] = []
        for event in events:
            match event:
                case ThinkingDelta(text):
                    self._so_far.thought.append(text)
                    shown.append(Thought(text))
                case TextDelta(text):
                    shown += self._say(self._stops.feed(text))
                case CallEnded(_, call) if call.error is not None:
                    self._so_far.unread.append(call)
                case CallEnded(_, call) if not call.from_reasoning:
                    shown += self._say(self._stops.finish())
                    shown.append(self._call(call))
        return shown

    def _say(self, text: str) -> list[ChatEvent]:
        so_far = self._so_far
        if not text:
            return []
        so_far.spoken.append(text)
        odds, so_far.odds = tuple(so_far.odds), []
        return [Spoken(text, odds)]

    def _call(self, call: ParsedCall) -> Called:
        calls = self._so_far.calls
        arguments = json.dumps(call.arguments, ensure_ascii=False)
        called = Called(len(calls), f"call_{secrets.token_hex(12)}", call.name, arguments)
        calls.append(called)
        return called

    def _ended(self, reason: FinishReason) -> list[ChatEvent]:
        """What only the end could decide, and the end."""
        so_far = self._so_far
        message = self._parser.finish(reason)
        shown = self._read(self._parser.final_events)
        shown += self._say(self._stops.feed("") + self._stops.finish())
        # Those of the reasoning count only if no others came.
        shown += [self._call(call) for call in message.calls if call.from_reasoning and call.error is None]
        for call in so_far.unread:
            so_far.warnings.append(str(call.error))
            if call in message.calls and self._fits_form(call):
                shown.append(self._call(call))
            elif reason is FinishReason.STOP:
                shown += self._say(self._stops.feed(call.raw) + self._stops.finish())
        so_far.warnings.extend(message.errors)
        finish = "length" if reason is not FinishReason.STOP else "tool_calls" if so_far.calls else "stop"
        if so_far.odds:
            shown.append(Spoken("", tuple(so_far.odds)))
        self._remember()
        shown.append(self._over(finish))
        return shown

    def _fits_form(self, call: ParsedCall) -> bool:
        """Whether all that is wrong with a call is that its arguments don't fit the tool's schema.

        Then the client gets it: it checks arguments itself, and its answer helps the model more than ours.
        """
        schema = self._tools.get(call.name)
        if schema is None:
            return False
        try:
            schema.coerce(call.arguments)
        except SchemaError:
            return True
        return False

    def _remember(self) -> None:
        """Keep the turn's tokens for the day when a client sends it back."""
        codec, so_far, prompt = self._service.model.codec, self._so_far, self.prompt
        if not so_far.ids or codec.assistant_id not in prompt:
            return
        start = len(prompt) - prompt[::-1].index(codec.assistant_id)
        closers: list[int] = []
        if so_far.ids[-1] != codec.eos_id:
            unfinished = [self._end_think] if self._thinking and self._end_think is not None else []
            closers = [*unfinished, codec.eos_id]
        calls = tuple((call.id, call.name, call.arguments) for call in so_far.calls)
        said = Said("".join(so_far.spoken), "".join(so_far.thought), calls)
        ids = [*prompt[start:], *so_far.ids, *closers]
        self._service.memory.remember(Past(prompt[:start]), said, ids)

    def _over(self, finish: str) -> Over:
        so_far = self._so_far
        usage = ChatUsage(len(self.prompt), self._begun.reused, len(so_far.ids), so_far.reasoning)
        return Over(finish, usage, self._begun, self._stops.hit, tuple(dict.fromkeys(so_far.warnings)))
