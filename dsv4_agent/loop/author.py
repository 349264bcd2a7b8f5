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
class Author:
    """Appends to a session's transcript. Every method raises `JournalError`."""

    session: Session
    backend: Backend
    preset: Preset
    functions: Sequence[Mapping[str, object]]
    facts: RunFacts

    def open(self, prompt: str) -> None:
        """Append a prompt; on a new session the frozen prefix first. Owed results go before it."""
        text = prompt
        if self.session.transcript.last is None:
            self._opening()
            if self.preset.environment_block:
                text = f"{environment_block(self.facts)}\n\n{prompt}"
        self._say(EntryKind.USER, self._owed_results(), text)

    def answer(self, results: Sequence[str], note: str | None) -> None:
        """Append the results of a turn's calls, in their order, and what a guard wants to say."""
        self._say(EntryKind.TOOL_RESULTS if results else EntryKind.USER, results, note)

    def _opening(self) -> None:
        preset = self.preset
        segments = opening(
            preset.system_prompt,
            self.functions,
            thinking=preset.thinking,
            effort=preset.effort,
            dialect=preset.dialect,
        )
        shown = {"role": "system", "content": preset.system_prompt, "tools": list(self.functions)}
        self._append(EntryKind.PROMPT, segments, (shown,))

    def _say(self, kind: EntryKind, results: Sequence[str], text: str | None) -> None:
        blocks: list[UserText | ToolResultText] = [ToolResultText(result) for result in results]
        shown: list[Message] = [{"role": "tool", "content": result} for result in results]
        if text is not None:
            blocks.append(UserText(text))
            shown.append({"role": "user", "content": text})
        segments = user_turn(blocks, thinking=self.preset.thinking, dialect=self.preset.dialect)
        self._append(kind, [*self._closers(), *segments], tuple(shown))

    def _append(self, kind: EntryKind, segments: Sequence[Segment], messages: tuple[Message, ...]) -> None:
        ids = self.backend.encode(segments)
        # What precedes an answer ends in an open assistant header; only the prefix does not.
        closed = kind is EntryKind.PROMPT
        turn = self.session.transcript.turn
        self.session.append(Entry(kind, turn, tuple(segments), ids, messages, closed), sync=True)

    def _closers(self) -> list[Segment]:
        """The structure that a cut, interrupted or never begun assistant turn lacks."""
        last = self.session.transcript.last
        if last is None or last.closed:
            return []
        thinking = self.preset.thinking is Thinking.THINKING
        unfinished = thinking and (not last.sampled or END_THINK not in last.text)
        return [Segment((END_THINK if unfinished else "") + EOS, True)]

    def _owed_results(self) -> list[str]:
        """Recorded results of calls that an interrupted run left unanswered; nothing runs twice."""
        last = self.session.transcript.last
        if last is None or not last.sampled or not last.messages:
            return []
        calls = last.messages[0].get("tool_calls")
        texts: list[str] = []
        for index in range(len(calls) if isinstance(calls, list) else 0):
            record = self.session.recorded_calls.get((last.turn, index))
            if record is None:
                texts.append(NOT_RUN)
            else:
                texts.append(INTERRUPTED if record.result is None else record.result)
        return texts
