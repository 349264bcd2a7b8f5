"""The inside of a block of tool calls, read tag by tag as it arrives."""

from __future__ import annotations

import re
from enum import Enum, auto

from dsv4_agent.dsml import patterns
from dsv4_agent.dsml.calls import RawCall, RawParameter, Tools, build_call
from dsv4_agent.dsml.dialect import Dialect, tags_of
from dsv4_agent.dsml.events import (
    ArgumentDelta,
    CallEnded,
    CallStarted,
    ParsedCall,
    ParseEvent,
    Repair,
    RepairKind,
)
from dsv4_agent.dsml.patterns import MARK_DSML, MARK_EOS, Outcome, spelled

_TAG = re.compile("</?[ \\t｜|]{0,4}\\Z")
_PARTIAL_TAG = re.compile("</?[ \\t｜|]{0,4}(?:D|DS|DSM)?\\Z")
_LONGEST_TAG_START = 9
_BLANK = re.compile("[ \\t\\r\\n]*")
_SHORT_BLANK = re.compile("[ \\t\\r\\n]{0,64}")
_TAG_START = re.compile(f"{patterns.TAG_START}|<(?=/?\\Z|p)")
_PLAIN = re.compile("(?:[^<\ud800-\ud803]|<(?!/?[ \\t｜|]{0,4}(?:[\ud801D]|\\Z)|p))+")
_TAG_NAME_AHEAD = re.compile(patterns.TAG_NAME_AHEAD)
_WRONG_CLOSER = "</parameter>"
_STRING_ATTRIBUTE = re.compile("string[ \\t]*=[ \\t]*.(true|false).[ \\t]*>\\Z")
_TAGS = tuple(tags_of(dialect) for dialect in (Dialect.V4, Dialect.V41))


class Place(Enum):
    """Where in a block the reader stands."""

    CALL = auto()
    VALUE = auto()
    CALLS = auto()
    OVER = auto()


class BlockReader:
    """Reads from behind the first `<｜DSML｜invoke name="...">` to the end of the block.

    `read` takes the unread text and says how much of it is used up; what it leaves is never longer than a
    tag, which keeps the whole parse linear. All state is visible to `StreamParser`, which owns the reader.
    """

    def __init__(self, tools: Tools | None, events: list[ParseEvent], repairs: list[Repair]) -> None:
        self._tools = tools
        self._events = events
        self._repairs = repairs
        self.calls: list[ParsedCall] = []
        self.started = 0
        self.place = Place.OVER
        self.wrapped = False
        self.from_reasoning = False
        self.call: RawCall | None = None
        self._marker = MARK_DSML
        self._gap = ""
        self._strayed = False
        self._key = ""
        self._string: bool | None = None
        self._value: list[str] = []
        self._value_last = ""

    def begin(self, head: str, name: str, *, wrapped: bool, closed: bool, from_reasoning: bool) -> None:
        """Start a block; `head` is the matched text from the wrapper (or invoke) on."""
        self._marker = MARK_DSML if MARK_DSML in head else "DSML"
        self.wrapped = wrapped
        self.from_reasoning = from_reasoning
        strict = [
            f'<{MARK_DSML}{wrapper}>\n<{MARK_DSML}{invoke} name="{name}">' for wrapper, invoke in _HEADS
        ]
        if not wrapped:
            self._repair(RepairKind.WRAPPER_MISSING, "a call without the block around it")
        elif head not in strict:
            self._repair(*_head_repair(head))
        self._open_call(head[head.rindex("<") :], name, closed)

    def read(self, text: str, start: int, final: bool) -> int:
        """Consume from `start` as much as can be decided; returns the position behind it."""
        position = start
        while position < len(text) and self.place is not Place.OVER:
            step = self._value_step if self.place is Place.VALUE else self._tag_step
            used = step(text, position, final)
            if used is None:
                break
            position = used
        return position

    def close_call(self) -> None:
        """Finish the current call as far as it got; the caller knows that its parameters are complete."""
        assert self.call is not None
        index = self.started - 1
        parsed, repairs = build_call(self.call, self._tools)
        self._repairs.extend(repairs)
        self.calls.append(parsed)
        self._events.append(CallEnded(index, parsed))
        self.call = None
        self.place = Place.CALLS
        self._gap = ""

    def abandon_call(self, error: str) -> None:
        """Give up the current call: it is shown as ended with an error and is not among the calls."""
        assert self.call is not None
        raw = "".join(self.call.raw)
        parsed = ParsedCall(self.call.name, {}, raw, self.call.from_reasoning, error)
        self._events.append(CallEnded(self.started - 1, parsed))
        self.call = None
        self.place = Place.OVER

    def adopt(self, call: RawCall) -> None:
        """Take a call that was read elsewhere."""
        self.call = call
        self.started += 1
        self._events.append(CallStarted(self.started - 1, call.name))
        self.close_call()

    # -- between tags ------------------------------------------------------------------------------------

    def _tag_step(self, text: str, start: int, final: bool) -> int | None:
        blank = _BLANK.match(text, start)
        assert blank is not None
        if blank.end() > start:
            self._gap = (self._gap + blank.group())[:16]
            if self._strayed and self.call is not None:
                self.call.stray.append(blank.group())
            self._keep(blank.group())
            return blank.end()
        if text[start] == MARK_EOS or (text[start] == patterns.MARK_END_THINK and self.call is None):
            self.place = Place.OVER
            return start
        if _TAG_START.match(text, start):
            used = self._tag(text, start, final)
            if used != start:
                return used
            end = start + 1
        else:
            plain = _PLAIN.match(text, start)
            end = plain.end() if plain is not None else start + 1
        stray = spelled(text[start:end])
        if self.call is not None:
            self.call.stray.append(stray)
            self._keep(stray)
        else:
            self._repair(RepairKind.TEXT_AFTER_CALLS, "text between calls dropped")
        self._strayed = True
        return end

    def _tag(self, text: str, start: int, final: bool) -> int | None:
        """Position behind the tag at `start`; `start` itself when there is none; None to wait for more."""
        waiting = False
        expected = _IN_CALL if self.call is not None else _IN_BLOCK
        for pattern in expected:
            match pattern.match(text, start, final):
                case Outcome.MORE:
                    waiting = True
                case Outcome.FAIL:
                    pass
                case found:
                    self._take(pattern, found)
                    if self.place is not Place.VALUE:
                        self._gap = ""
                    self._strayed = False
                    return found.end()
        return None if waiting else start

    def _take(self, pattern: patterns.Pattern, found: re.Match[str]) -> None:
        tag = found.group()
        gap = self._gap
        if pattern is patterns.PARAMETER_OPEN:
            self._check_gap(gap, ("\n",))
            self._open_parameter(tag, found["key"])
        elif pattern is patterns.INVOKE_CLOSE:
            call = self.call
            assert call is not None
            self._check_gap(gap, ("\n",) if call.parameters else ("\n", "\n\n"))
            self._check_tag(tag, [f"</{tags.invoke}>" for tags in _TAGS])
            self._keep(tag)
            self.close_call()
        elif pattern is patterns.INVOKE_OPEN:
            if self.call is not None:
                self._repair(RepairKind.CALL_NOT_CLOSED, "a new call began inside a call")
                self.close_call()
            else:
                self._check_gap(gap, ("\n",))
            self._check_tag(tag, [f'<{tags.invoke} name="{found["name"]}">' for tags in _TAGS])
            self._open_call(tag, found["name"], bool(found["closed"]))
        elif pattern is patterns.CALLS_CLOSE:
            if self.call is not None:
                self._repair(RepairKind.CALL_NOT_CLOSED, "the block ended inside a call")
                self.close_call()
            else:
                self._check_gap(gap, ("\n",))
            if spelled(tag) not in [f"</{tags.calls}>" for tags in _TAGS]:
                self._repair(RepairKind.WRAPPER_SPELLING, f"block closed by {spelled(tag)}")
            self.wrapped = False
            self.place = Place.OVER
        else:
            self._repair(RepairKind.SECOND_BLOCK, "a block was opened inside a block")

    def _open_call(self, tag: str, name: str, closed: bool) -> None:
        self.call = RawCall(name, self.from_reasoning)
        self._keep(tag)
        self.started += 1
        self._events.append(CallStarted(self.started - 1, name))
        self.place = Place.CALL
        self._gap = ""
        if closed:
            self._repair(RepairKind.SELF_CLOSED_CALL, "a call without a body")
            self.close_call()

    def _open_parameter(self, tag: str, key: str) -> None:
        attribute = _STRING_ATTRIBUTE.search(tag)
        self._key = key
        self._string = None if attribute is None else attribute.group(1) == "true"
        self._value = []
        self._value_last = "\n"
        self.place = Place.VALUE
        self._keep(tag)
        if attribute is None:
            self._repair(RepairKind.STRING_ATTRIBUTE_MISSING, f"parameter '{key}' does not say string=")
        elif tag.startswith("<parameter"):
            self._repair(RepairKind.PARAMETER_UNMARKED, f"parameter '{key}' has no marker")
        else:
            flag = attribute.group(1)
            self._check_tag(tag, [f'<{tags.parameter} name="{key}" string="{flag}">' for tags in _TAGS])

    # -- values ------------------------------------------------------------------------------------------

    def _value_step(self, text: str, start: int, final: bool) -> int | None:
        found = text.find(self._marker, start)
        if found < 0:
            tail = _PARTIAL_TAG.search(text, max(start, len(text) - _LONGEST_TAG_START - 3))
            end = len(text) if tail is None or final else tail.start()
            self._extend(text[start:end])
            return end if end > start else None
        after = found + len(self._marker)
        head = _TAG.search(text, max(start, found - _LONGEST_TAG_START), found)
        if head is None or not _TAG_NAME_AHEAD.match(text, after):
            self._extend(text[start:after])
            return after
        tag = head.start()
        self._extend(text[start:tag])
        match self._value_end(text, tag, final):
            case Outcome.MORE:
                return tag if tag > start else None
            case Outcome.FAIL:
                self._extend(text[tag:after])
                return after
            case end:
                return end

    def _value_end(self, text: str, tag: int, final: bool) -> int | Outcome:
        """Position to go on from when the value ends at `tag`."""
        if text[tag + 1] == "/":
            close = patterns.PARAMETER_CLOSE.match(text, tag, final)
            if isinstance(close, re.Match):
                self._check_tag(close.group(), [f"</{tags.parameter}>" for tags in _TAGS])
                self._end_value(close.group())
                return close.end()
            answers = [close, *self._implicit_close(text, tag, final)]
        else:
            if self._value_last != "\n":
                return Outcome.FAIL
            answers = self._implicit_open(text, tag, final)
        if any(isinstance(answer, re.Match) for answer in answers):
            self._repair(RepairKind.PARAMETER_NOT_CLOSED, f"parameter '{self._key}' was not closed")
            self._end_value("", implicit=True)
            return tag
        return Outcome.MORE if Outcome.MORE in answers else Outcome.FAIL

    def _implicit_close(self, text: str, tag: int, final: bool) -> list[re.Match[str] | Outcome]:
        answers: list[re.Match[str] | Outcome] = [patterns.INVOKE_CLOSE_AND_MORE.match(text, tag, final)]
        for pattern in (patterns.INVOKE_CLOSE, patterns.CALLS_CLOSE):
            found = pattern.match(text, tag, final)
            if isinstance(found, re.Match):
                blank = _SHORT_BLANK.match(text, found.end())
                end = blank.end() if blank else found.end()
                rest = text[end : end + 1]
                if rest == "" and not final:
                    answers.append(Outcome.MORE if pattern is patterns.CALLS_CLOSE else Outcome.FAIL)
                elif rest in ("", MARK_EOS):
                    answers.append(found)
            elif pattern is patterns.CALLS_CLOSE:
                answers.append(found)
        return answers

    def _implicit_open(self, text: str, tag: int, final: bool) -> list[re.Match[str] | Outcome]:
        assert self.call is not None
        parameter = patterns.PARAMETER_OPEN.match(text, tag, final)
        if isinstance(parameter, re.Match):
            key = parameter["key"]
            used = key == self._key or any(key == given.key for given in self.call.parameters)
            if used or not _STRING_ATTRIBUTE.search(parameter.group()) or not self._declares(key):
                parameter = Outcome.FAIL
        invoke = patterns.INVOKE_OPEN.match(text, tag, final)
        if isinstance(invoke, re.Match) and self._tools is not None and invoke["name"] not in self._tools:
            invoke = Outcome.FAIL
        return [parameter, invoke]

    def _declares(self, key: str) -> bool:
        if self._tools is None or self.call is None:
            return True
        schema = self._tools.get(self.call.name)
        return schema is None or schema.open_ended or key in schema.properties

    def _extend(self, text: str) -> None:
        if not text:
            return
        shown = spelled(text)
        self._value.append(shown)
        self._value_last = shown[-1]
        self._events.append(ArgumentDelta(self.started - 1, self._key, shown))
        self._keep(shown)

    def _end_value(self, tag: str, implicit: bool = False) -> None:
        assert self.call is not None
        value = "".join(self._value)
        if implicit:
            stripped = value.rstrip("\n")
            closed_wrongly = stripped.endswith(_WRONG_CLOSER)
            value = stripped.removesuffix(_WRONG_CLOSER) if closed_wrongly else value.removesuffix("\n")
        self.call.parameters.append(RawParameter(self._key, self._string, value))
        self._value = []
        self._keep(tag)
        self._gap = "\n" if implicit else ""
        self.place = Place.CALL

    # -- notes -------------------------------------------------------------------------------------------

    def _keep(self, text: str) -> None:
        if self.call is not None and text:
            self.call.raw.append(spelled(text))

    def _repair(self, kind: RepairKind, detail: str) -> None:
        repair = Repair(kind, detail)
        if repair not in self._repairs[-8:]:
            self._repairs.append(repair)

    def _check_gap(self, gap: str, allowed: tuple[str, ...]) -> None:
        if gap not in allowed and not self._strayed:
            self._repair(RepairKind.WHITESPACE, f"{gap!r} between tags")

    def _check_tag(self, tag: str, strict: list[str]) -> None:
        if spelled(tag) in strict and (MARK_DSML in tag):
            return
        kind = RepairKind.TAG_SPELLING
        if MARK_DSML not in tag or re.search("[｜|]", tag):
            kind = RepairKind.MARKER_SPELLING
        self._repair(kind, f"tag written {spelled(tag)[:80]}")


_HEADS = (("tool_calls", "invoke"), (" calls", " invoke"))
_IN_CALL = (
    patterns.PARAMETER_OPEN,
    patterns.INVOKE_CLOSE,
    patterns.INVOKE_OPEN,
    patterns.CALLS_CLOSE,
)
_IN_BLOCK = (patterns.INVOKE_OPEN, patterns.CALLS_CLOSE, patterns.CALLS_OPEN)


def _head_repair(head: str) -> tuple[RepairKind, str]:
    shown = spelled(head)[:120]
    if MARK_DSML not in head or re.search("[｜|]", head):
        return RepairKind.MARKER_SPELLING, f"block opened by {shown!r}"
    if re.match(f"<{MARK_DSML}(?:tool_calls| calls)>\n<", head):
        return RepairKind.TAG_SPELLING, f"block opened by {shown!r}"
    return RepairKind.WRAPPER_SPELLING, f"block opened by {shown!r}"
