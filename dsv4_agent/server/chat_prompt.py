"""From rendered segments to the ids of a prompt: remembered turns as they were sampled, the rest encoded."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from dsv4_agent.dsml.dialect import ASSISTANT, EOS
from dsv4_agent.dsml.segments import Segment
from dsv4_agent.server.chat_render import Marks
from dsv4_agent.server.replay import Past, TurnMemory, said_by
from dsv4_agent.server.turns import Codec

__all__ = ["prompt_ids"]


def prompt_ids(
    segments: Sequence[Segment],
    messages: Sequence[Mapping[str, Any]],
    marks: Marks,
    codec: Codec,
    memory: TurnMemory,
) -> tuple[int, ...]:
    """The ids of a rendered chat (see `render_chat`), whose assistant messages are marked."""
    writer = _Writer(codec)
    rest = deque(segments)
    while rest:
        segment = rest.popleft()
        found = None if segment.structure else marks.find(segment.text)
        if found is None:
            writer.pending.append(segment)
            continue
        index, text = found
        exact = None
        if any(map(_ends_turn, rest)) and writer.settle_header():
            exact = memory.recall(writer.past.reach(writer.ids), said_by(messages[index]))
        if exact is None:
            writer.pending += [Segment(text, False)] if text else []
        else:
            writer.pending.clear()
            writer.ids.extend(exact)
            _skip_turn(rest)
    writer.flush()
    return tuple(writer.ids)


def _ends_turn(segment: Segment) -> bool:
    return segment.structure and EOS in segment.text


def _skip_turn(rest: deque[Segment]) -> None:
    """Drop everything up to the end of the turn at hand."""
    while not _ends_turn(segment := rest.popleft()):
        pass
    if tail := segment.text.partition(EOS)[2]:
        rest.appendleft(Segment(tail, True))


class _Writer:
    """Ids written so far, and segments whose end may still be replaced."""

    def __init__(self, codec: Codec) -> None:
        self.ids: list[int] = []
        self.past = Past()
        self.pending: list[Segment] = []
        self._codec = codec

    def flush(self) -> None:
        """Encode all that is pending."""
        self.ids += self._codec.encode_segments(self.pending)
        self.pending.clear()

    def settle_header(self) -> bool:
        """Encode up to and including the header's ``<｜Assistant｜>``, leaving what follows it pending.

        False where the message at hand has no header of its own.
        """
        for index in range(len(self.pending) - 1, -1, -1):
            segment = self.pending[index]
            if not segment.structure:
                continue
            head = segment.text.rfind(ASSISTANT)
            if segment.text.rfind(EOS) > head:
                return False
            if head >= 0:
                split = head + len(ASSISTANT)
                after = [Segment(segment.text[split:], True), *self.pending[index + 1 :]]
                self.pending[index:] = [Segment(segment.text[:split], True)]
                self.flush()
                self.pending = [part for part in after if part.text]
                return True
        return False
