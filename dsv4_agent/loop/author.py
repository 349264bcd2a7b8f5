"""What the agent itself puts in front of the model: the frozen opening, prompts, results, notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dsv4_agent.backends.base import Backend
from dsv4_agent.dsml.dialect import END_THINK, EOS, Thinking
from dsv4_agent.dsml.segments import Segment
from dsv4_agent.dsml.turn import ToolResultText, UserText, opening, user_turn
from dsv4_agent.loop.calls import INTERRUPTED, NOT_RUN
from dsv4_agent.loop.context import RunFacts, environment_block
from dsv4_agent.loop.preset import Preset
from dsv4_agent.session.session import Session
from dsv4_agent.session.transcript import Entry, EntryKind, Message


@dataclass(frozen=True, slots=True)
class Result:
    """What a call gave back, for the model; `call` is the id of a chat server's call."""

    text: str
    call: str | None = None

    def message(self) -> Message:
        """As a chat message."""
        id = {} if self.call is None else {"tool_call_id": self.call}
        return {"role": "tool", **id, "content": self.text}


@dataclass(frozen=True, slots=True)
class Author:
    """Appends to a session's transcript. Every method raises `JournalError`."""

    session: Session
    backend: Backend
    preset: Preset
    functions: Sequence[Mapping[str, object]]
    facts: RunFacts

    def open(self, prompt: str, note: str | None = None) -> None:
        """Append a prompt; on a new session the frozen prefix first.

        Owed results go before it, and so do the summary of a compacted conversation and `note`.
        """
        before: list[str] = []
        if self.session.transcript.last is None:
            self.session.append(self.opening())  # on disk with the prompt
            if self.preset.environment_block:
                before.append(environment_block(self.facts))
        if (summary := self.session.summary) is not None:
            before.append(f"<summary>\n{summary}\n</summary>")
        if note is not None:
            before.append(note)
        entry = self._user_side(EntryKind.USER, self._owed_results(), "\n\n".join((*before, prompt)))
        self.session.append_prompt(entry, prompt)

    def answer(self, results: Sequence[Result], note: str | None) -> None:
        """Append the results of a turn's calls, in their order, and what a guard wants to say."""
        kind = EntryKind.TOOL_RESULTS if results else EntryKind.USER
        # What ran is on record as begun already; the model doesn't wait for the disk.
        self.session.append(self._user_side(kind, results, note), soon=True)

    def opening(self) -> Entry:
        """The frozen prefix: system prompt and tools."""
        preset = self.preset
        segments = opening(
            preset.system_prompt,
            self.functions,
            thinking=preset.thinking,
            effort=None if self.backend.info.renders else preset.effort,
            dialect=preset.dialect,
        )
        shown = {"role": "system", "content": preset.system_prompt, "tools": list(self.functions)}
        return self._entry(EntryKind.PROMPT, segments, (shown,))

    def _user_side(self, kind: EntryKind, results: Sequence[Result], text: str | None) -> Entry:
        blocks: list[UserText | ToolResultText] = [ToolResultText(result.text) for result in results]
        shown: list[Message] = [result.message() for result in results]
        if text is not None:
            blocks.append(UserText(text))
            shown.append({"role": "user", "content": text})
        segments = user_turn(blocks, thinking=self.preset.thinking, dialect=self.preset.dialect)
        return self._entry(kind, [*self._closers(), *segments], tuple(shown))

    def _entry(self, kind: EntryKind, segments: Sequence[Segment], messages: tuple[Message, ...]) -> Entry:
        ids = self.backend.encode(segments)
        # What precedes an answer ends in an open assistant header; only the prefix does not.
        closed = kind is EntryKind.PROMPT
        return Entry(kind, self.session.transcript.turn, tuple(segments), ids, messages, closed)

    def _closers(self) -> list[Segment]:
        """The structure that a cut, interrupted or never begun assistant turn lacks."""
        last = self.session.transcript.last
        if last is None or last.closed:
            return []
        thinking = self.preset.thinking is Thinking.THINKING
        unfinished = thinking and (not last.sampled or END_THINK not in last.text)
        return [Segment((END_THINK if unfinished else "") + EOS, True)]

    def _owed_results(self) -> list[Result]:
        """Recorded results of calls that an interrupted run left unanswered; nothing runs twice."""
        last = self.session.transcript.last
        if last is None or not last.sampled or not last.messages:
            return []
        calls = last.messages[0].get("tool_calls")
        owed: list[Result] = []
        for index, call in enumerate(calls if isinstance(calls, list) else []):
            record = self.session.recorded_calls.get((last.turn, index))
            ended = INTERRUPTED if record is None or record.result is None else record.result
            text = NOT_RUN if record is None else ended
            owed.append(Result(text, call.get("id")))
        return owed
