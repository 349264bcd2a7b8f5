"""The streaming parser: any chunking of a completion gives the same events and the same message.

What the official parser accepts goes through unchanged. Where it would give up, the malformations of the
catalogue are mended for declared tools and reported; a block inside fenced code or inside a sentence is a
quotation and stays text; arguments are never made up. Events are for display: only the calls of the message
that `finish` returns may run, and of these only those without an `error`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum, auto

from dsv4_agent.dsml import patterns
from dsv4_agent.dsml.block import BlockReader, Place
from dsv4_agent.dsml.calls import Tools
from dsv4_agent.dsml.events import (
    FinishReason,
    ParsedMessage,
    ParseEvent,
    Repair,
    RepairKind,
    TextDelta,
    ThinkingDelta,
    TurnEnded,
)
from dsv4_agent.dsml.lexer import IdLexer, TextLexer
from dsv4_agent.dsml.patterns import MARK_DSML, MARK_END_THINK, MARK_EOS, MARK_THINK, Outcome, spelled
from dsv4_agent.dsml.plain_xml import read_plain_xml
from dsv4_agent.dsml.prose import LineTracker
from dsv4_agent.dsml.vocabulary import Vocabulary

__all__ = ["StreamParser", "parse_text"]

# A `<` matters only where a tag may begin; all others are text, found by the thousand in code.
_INTERESTING = re.compile(f"{patterns.TAG_START}|[\ud800-\ud803]")
_CUT_HEAD = re.compile("<[ \\t｜|]{0,4}(?:\ud801|DSML)")
_NEXT_TO_BLOCK = "\n\n"
_WHY = {
    FinishReason.LENGTH: "was cut off by the token limit before it was complete",
    FinishReason.INTERRUPTED: "was interrupted before it was complete",
    FinishReason.STOP: "ended before it was complete",
}


class _State(Enum):
    THINKING = auto()
    CONTENT = auto()
    BLOCK = auto()
    AFTER = auto()
    SKIPPING = auto()
    ENDED = auto()


class StreamParser:
    """Feed text or ids as they come, then `finish`; one parser reads one completion.

    `thinking` says that the prompt ended with `<think>`. With `tools=None` every name is accepted and nothing
    is checked against a schema (for looking at foreign text).
    """

    def __init__(self, tools: Tools | None, *, thinking: bool, vocabulary: Vocabulary | None = None) -> None:
        self._tools = tools
        self._text_lexer = TextLexer()
        self._id_lexer = IdLexer(vocabulary) if vocabulary is not None else None
        self._state = _State.THINKING if thinking else _State.CONTENT
        self._unread = ""
        self._events: list[ParseEvent] = []
        self._repairs: list[Repair] = []
        self._errors: list[str] = []
        self._block = BlockReader(tools, self._events, self._repairs)
        self._lines = LineTracker()
        self._newlines = ""
        self._reasoning: list[str] = []
        self._content: list[str] = []
        self._unreadable_block = False
        self._cut_head = False
        self._quoting = False
        self._message: ParsedMessage | None = None
        self.final_events: tuple[ParseEvent, ...] = ()

    def feed_text(self, chunk: str) -> list[ParseEvent]:
        """Events of more text, in which the special tokens are spelt out."""
        return self._feed(self._text_lexer.feed(chunk))

    def feed_reasoning(self, text: str) -> list[ParseEvent]:
        """Events of reasoning that somebody else has told apart: no mark in it counts.

        Text that is fed afterwards is the answer, also where the reasoning is empty.
        """
        if self._state is _State.THINKING:
            self._state = _State.CONTENT
        if text:
            self._reasoning.append(text)
            self._events.append(ThinkingDelta(text))
        return self._drain()

    def feed_ids(self, ids: Iterable[int]) -> list[ParseEvent]:
        """Events of more token ids; needs the vocabulary. Ids after a stop id are ignored."""
        if self._id_lexer is None:
            raise ValueError("StreamParser needs a vocabulary to read token ids")
        return self._feed(self._id_lexer.feed(ids))

    def finish(self, reason: FinishReason) -> ParsedMessage:
        """The whole message. Events that only the end could decide are in `final_events` afterwards."""
        if self._message is not None:
            return self._message
        held = self._id_lexer.finish() if self._id_lexer is not None else ""
        self._unread += held + self._text_lexer.finish()
        self._run(final=True)
        self._say(self._take_newlines(), hold=False)
        if self._cut_head:
            self._errors.append(
                f"A tool call {_WHY[reason]} at its very beginning. Send the whole call again."
            )
        self._block_end(reason)
        self._read_whole_answer()
        if self._state is _State.THINKING and reason is FinishReason.STOP and not self._block.calls:
            self._errors.append("The turn ended inside the reasoning: no </think>, no answer, no tool call.")
        if self._unreadable_block and not self._block.calls:
            self._errors.append(
                "The tool_calls block could not be read, so nothing was run. Write the block again,"
                " exactly in the format of the system prompt."
            )
        self._events.append(TurnEnded(reason))
        self.final_events = tuple(self._drain())
        self._message = ParsedMessage(
            reasoning="".join(self._reasoning),
            content="".join(self._content),
            calls=tuple(self._block.calls),
            repairs=tuple(self._repairs),
            errors=tuple(self._errors),
            truncated=reason is not FinishReason.STOP,
        )
        return self._message

    def _feed(self, text: str) -> list[ParseEvent]:
        if self._message is not None:
            raise ValueError("this parser has finished; use a new one for the next completion")
        if text:
            self._unread += text
            self._run(final=False)
        return self._drain()

    def _drain(self) -> list[ParseEvent]:
        events = list(self._events)
        self._events.clear()
        return events

    def _run(self, final: bool) -> None:
        text, position = self._unread, 0
        while position < len(text):
            match self._state:
                case _State.THINKING | _State.CONTENT:
                    used = self._prose(text, position, final)
                case _State.BLOCK:
                    used = self._in_block(text, position, final)
                case _State.AFTER:
                    used = self._after(text, position, final)
                case _State.SKIPPING:
                    used = self._skip(text, position)
                case _State.ENDED:
                    self._repair(RepairKind.TEXT_AFTER_END, "text after the end of the turn dropped")
                    used = len(text)
            if used is None:
                break
            position = used
        self._unread = text[position:]

    # -- reasoning and answer ----------------------------------------------------------------------------

    def _prose(self, text: str, start: int, final: bool) -> int | None:
        found = _INTERESTING.search(text, start)
        end = found.start() if found is not None else len(text)
        if end > start:
            self._say(text[start:end])
            return end
        match text[start]:
            case "<":
                if self._lines.at_line_start and not self._lines.fenced:
                    used = self._block_begin(text, start, final)
                    if used != start:
                        return used
                return self._quoted_wrapper(text, start, final)
            case mark if mark == MARK_END_THINK:
                self._end_think()
            case mark if mark == MARK_THINK and not self._reasoning and not self._content:
                self._repair(RepairKind.STRAY_THINK_TAG, "<think> repeated at the start")
            case mark if mark == MARK_EOS:
                self._say(self._take_newlines(), hold=False)
                self._state = _State.ENDED
            case mark:
                self._say(spelled(mark))
        return start + 1

    def _quoted_wrapper(self, text: str, start: int, final: bool) -> int | None:
        """Say a `<` that begins no block; a wrapper in a sentence makes the calls behind it a quotation."""
        for pattern, opens in ((patterns.CALLS_OPEN, True), (patterns.CALLS_CLOSE, False)):
            match pattern.match(text, start, final):
                case Outcome.MORE:
                    return None
                case re.Match() as found:
                    self._quoting = opens
                    self._say(spelled(found.group()))
                    return found.end()
        self._say("<")
        return start + 1

    def _end_think(self) -> None:
        if self._state is _State.THINKING:
            self._say(self._take_newlines(), hold=False)
            self._state = _State.CONTENT
            self._lines = LineTracker()
            self._quoting = False
        elif self._id_lexer is None and (self._lines.fenced or self._lines.last == "`"):
            self._say(spelled(MARK_END_THINK))  # text alone can't tell a quotation from the token
        else:
            self._repair(RepairKind.STRAY_THINK_TAG, "</think> in the answer dropped")

    def _say(self, text: str, hold: bool = True) -> None:
        """Emit prose, except for up to two line breaks at its end that may belong to a block."""
        if not text:
            return
        if hold:
            self._lines.advance(text)
            text = self._newlines + text
            kept = text.rstrip("\n")
            kept = text[: max(len(kept), len(text) - len(_NEXT_TO_BLOCK))]
            self._newlines = text[len(kept) :]
            text = kept
        if not text:
            return
        if self._state is _State.THINKING:
            self._reasoning.append(text)
            self._events.append(ThinkingDelta(text))
        else:
            self._content.append(text)
            self._events.append(TextDelta(text))

    def _take_newlines(self) -> str:
        newlines, self._newlines = self._newlines, ""
        return newlines

    # -- blocks ------------------------------------------------------------------------------------------

    def _block_begin(self, text: str, start: int, final: bool) -> int | None:
        """Position behind a block's head; `start` when there is none; None to wait for more."""
        wrapped = patterns.WRAPPED_BLOCK.match(text, start, final)
        bare = patterns.INVOKE_OPEN.match(text, start, final)
        found = wrapped if isinstance(wrapped, re.Match) else bare
        if isinstance(found, re.Match):
            return self._enter(found, is_wrapped=found is wrapped) or start
        if Outcome.MORE in (wrapped, bare):
            return None
        if final and self._is_cut(text, start):
            self._cut_head = True
            self._newlines = ""
            return len(text)
        opened = patterns.CALLS_OPEN.match(text, start, True)
        if isinstance(opened, re.Match) and text[opened.end() : opened.end() + 1] == "\n":
            meant = self._state is _State.CONTENT and MARK_DSML in opened.group()
            self._unreadable_block = self._unreadable_block or meant
        return start

    def _is_cut(self, text: str, start: int) -> bool:
        """Whether the completion ends inside the head of a block."""
        heads = (patterns.WRAPPED_BLOCK, patterns.INVOKE_OPEN)
        unfinished = any(head.match(text, start, False) is Outcome.MORE for head in heads)
        return unfinished and _CUT_HEAD.match(text, start) is not None

    def _enter(self, found: re.Match[str], *, is_wrapped: bool) -> int | None:
        name = found["name"]
        thinking = self._state is _State.THINKING
        known = self._tools is None or name in self._tools
        led = self._newlines == _NEXT_TO_BLOCK
        if self._quoting and not is_wrapped and not led:
            return None
        written_well = is_wrapped and led and MARK_DSML in found.group() and not name.startswith("$")
        if not known and (thinking or not written_well):
            return None
        if thinking:
            self._repair(RepairKind.REASONING_NOT_CLOSED, "a call inside the reasoning")
        if not led:
            self._repair(RepairKind.WHITESPACE, f"{self._newlines!r} before the block")
        if self._block.calls and self._block.from_reasoning and not thinking:
            self._repair(RepairKind.DRAFT_IN_REASONING, "calls drafted in the reasoning dropped")
            self._block.calls.clear()
        self._newlines = ""
        self._quoting = False
        self._state = _State.BLOCK
        self._block.begin(
            found.group(),
            name,
            wrapped=is_wrapped,
            closed=bool(found["closed"]),
            from_reasoning=thinking,
        )
        return found.end()

    def _in_block(self, text: str, start: int, final: bool) -> int | None:
        used = self._block.read(text, start, final)
        if self._block.place is Place.OVER:
            self._state = _State.AFTER
            return used
        return used if used > start else None

    def _after(self, text: str, start: int, final: bool) -> int | None:
        match text[start]:
            case " " | "\t" | "\r" | "\n":
                self._repair(RepairKind.WHITESPACE, "white space after the block")
                return start + 1
            case mark if mark == MARK_EOS:
                self._state = _State.ENDED
                return start + 1
            case "<":
                found = patterns.WRAPPED_BLOCK.match(text, start, final)
                if found is Outcome.MORE:
                    return None
                known = isinstance(found, re.Match) and (self._tools is None or found["name"] in self._tools)
                if isinstance(found, re.Match) and known:
                    self._repair(RepairKind.SECOND_BLOCK, "a second block of calls")
                    self._state = _State.BLOCK
                    self._block.begin(
                        found.group(),
                        found["name"],
                        wrapped=True,
                        closed=bool(found["closed"]),
                        from_reasoning=self._block.from_reasoning,
                    )
                    return found.end()
        self._state = _State.SKIPPING
        return self._skip(text, start)

    def _skip(self, text: str, start: int) -> int:
        """Drop what follows the calls; if they came from the reasoning, its end opens the answer."""
        wanted = MARK_END_THINK if self._block.from_reasoning else MARK_EOS
        found = _INTERESTING.search(text, start)
        while found is not None and found.group() not in (wanted, MARK_EOS):
            found = _INTERESTING.search(text, found.end())
        end = found.start() if found is not None else len(text)
        if text[start:end].strip():
            self._repair(RepairKind.TEXT_AFTER_CALLS, "text after the calls dropped")
        if found is None:
            return end
        if found.group() == MARK_EOS:
            self._state = _State.ENDED
        else:
            self._state = _State.CONTENT
            self._lines = LineTracker()
        return found.end()

    # -- the end -----------------------------------------------------------------------------------------

    def _block_end(self, reason: FinishReason) -> None:
        block = self._block
        if block.call is None:
            if block.wrapped:
                self._repair(RepairKind.WRAPPER_NOT_CLOSED, "the block was not closed")
            return
        name = block.call.name
        if block.place is not Place.VALUE and reason is FinishReason.STOP and not block.call.stray:
            self._repair(RepairKind.CALL_NOT_CLOSED, f"the call of {name} was not closed")
            block.close_call()
            return
        error = f"The call of {name} {_WHY[reason]} and was not run. Send the whole call again."
        self._errors.append(error)
        block.abandon_call(error)

    def _read_whole_answer(self) -> None:
        if self._block.calls or self._errors or self._tools is None:
            return
        raw_calls = read_plain_xml("".join(self._content), self._tools)
        for raw in raw_calls:
            self._block.adopt(raw)
        if raw_calls:
            self._repair(RepairKind.PLAIN_XML, "calls written as plain XML")
            self._content.clear()

    def _repair(self, kind: RepairKind, detail: str) -> None:
        repair = Repair(kind, detail)
        if repair not in self._repairs[-8:]:
            self._repairs.append(repair)


def parse_text(
    text: str, tools: Tools | None, *, thinking: bool, reason: FinishReason = FinishReason.STOP
) -> ParsedMessage:
    """A whole completion at once, special tokens spelt out."""
    parser = StreamParser(tools, thinking=thinking)
    parser.feed_text(text)
    return parser.finish(reason)
