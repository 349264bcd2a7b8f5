"""The append-only transcript: tokens are the truth, everything else is a projection of them.

An `Entry` is a stretch of the conversation exactly as the model saw or sampled it. Entries are added at the
end and, when a person goes back, cut off there; nothing is rendered a second time, so a KV state that holds a
transcript holds every later one's prefix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from dsv4_agent.dsml.segments import Segment

Message = Mapping[str, object]


class EntryKind(StrEnum):
    """Who wrote an entry."""

    PROMPT = "prompt"
    USER = "user"
    TOOL_RESULTS = "tool_results"
    SAMPLED = "sampled"


class TranscriptError(ValueError):
    """The transcript can't give what was asked for; the message says why."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One appended stretch.

    `segments` and `ids` are the same text twice; `ids` is None where no tokenizer was at hand. `messages`
    are what a reader is shown of it. `closed` is False for a sampled turn that lacks its end-of-turn token
    (cut or interrupted): whoever appends next begins with the closing structure. `reasoning_tokens` counts
    the part of a sampled turn before `</think>`.
    """

    kind: EntryKind
    turn: int
    segments: tuple[Segment, ...]
    ids: tuple[int, ...] | None = None
    messages: tuple[Message, ...] = ()
    closed: bool = True
    reasoning_tokens: int = 0

    @property
    def sampled(self) -> bool:
        """Whether the model wrote it."""
        return self.kind is EntryKind.SAMPLED

    @property
    def text(self) -> str:
        """The entry as plain text, special tokens spelt out."""
        return "".join(segment.text for segment in self.segments)

    def to_json(self) -> dict[str, object]:
        """The journal's form; `from_json` is its exact inverse."""
        return {
            "kind": self.kind.value,
            "turn": self.turn,
            "segments": [[segment.text, segment.structure] for segment in self.segments],
            "ids": None if self.ids is None else list(self.ids),
            "messages": [dict(message) for message in self.messages],
            "closed": self.closed,
            "reasoning_tokens": self.reasoning_tokens,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Entry:
        """Read an entry back. Raises `TranscriptError` for a record of another shape."""
        match data:
            case {
                "kind": str(kind),
                "turn": int(turn),
                "segments": list(segments),
                "ids": None | list() as ids,
                "messages": list(messages),
                "closed": bool(closed),
                "reasoning_tokens": int(reasoning_tokens),
            }:
                return cls(
                    EntryKind(kind),
                    turn,
                    tuple(Segment(text, structure) for text, structure in segments),
                    None if ids is None else tuple(ids),
                    tuple(messages),
                    closed,
                    reasoning_tokens,
                )
        raise TranscriptError(f"not a transcript entry: {sorted(data)}")


class Transcript:
    """A growing conversation, changed by `append` and `cut` only."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._entries: list[Entry] = []
        self._segments: list[Segment] = []
        self._ids: list[int] | None = []
        self._turns: list[int] = []
        for entry in entries:
            self.append(entry)

    def append(self, entry: Entry) -> None:
        """Add an entry at the end. Raises `TranscriptError` if it can't follow what is there."""
        if (entry.kind is EntryKind.PROMPT) is not (not self._entries):
            raise TranscriptError("the prompt entry comes first and only once")
        self._entries.append(entry)
        self._segments.extend(entry.segments)
        self._turns.append(max(self.turn, entry.turn))
        if self._ids is not None and entry.ids is not None:
            self._ids.extend(entry.ids)
        else:
            self._ids = None

    def cut(self, count: int) -> None:
        """Forget all but the first `count` entries. Raises `TranscriptError` where there are fewer."""
        if not 0 <= count <= len(self._entries):
            raise TranscriptError(f"there is no entry {count} to go back to")
        kept = self._entries[:count]
        self._entries, self._segments, self._ids, self._turns = [], [], [], []
        for entry in kept:
            self.append(entry)

    def replace_prompt(self, entry: Entry) -> None:
        """Put another opening in front of the same conversation; the whole prefix is lost by that."""
        if entry.kind is not EntryKind.PROMPT or not self._entries:
            raise TranscriptError("only a prompt entry can take the place of the first one")
        rest = self._entries[1:]
        self.cut(0)
        for following in (entry, *rest):
            self.append(following)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All entries in order."""
        return tuple(self._entries)

    @property
    def last(self) -> Entry | None:
        """The newest entry, or None at the very start."""
        return self._entries[-1] if self._entries else None

    @property
    def turn(self) -> int:
        """The highest turn number so far; 0 before the first."""
        return self._turns[-1] if self._turns else 0

    def segments(self) -> list[Segment]:
        """Everything so far as segments, in order."""
        return list(self._segments)

    def tokens(self) -> list[int]:
        """The exact ids so far. Raises `TranscriptError` where an entry was appended without ids."""
        if self._ids is None:
            raise TranscriptError(
                "this transcript has entries without token ids: its backend has no tokenizer"
            )
        return list(self._ids)

    @property
    def has_tokens(self) -> bool:
        """Whether `tokens` works."""
        return self._ids is not None

    def messages(self) -> list[dict[str, object]]:
        """Chat messages for display, for chat endpoints and for oracles."""
        return [dict(message) for entry in self._entries for message in entry.messages]

    def messages_by_entry(self) -> list[tuple[Message, ...]]:
        """The chat messages of each entry; the tuples are the entries' own."""
        return [entry.messages for entry in self._entries]

    def last_results(self) -> tuple[str, ...]:
        """Texts of the tool results at the end; empty unless the newest entry holds results."""
        if not self._entries or self._entries[-1].kind is not EntryKind.TOOL_RESULTS:
            return ()
        return tuple(
            str(message.get("content", ""))
            for message in self._entries[-1].messages
            if message.get("role") == "tool"
        )

    def training_segments(self) -> list[tuple[tuple[Segment, ...], bool]]:
        """A training example without a tokenizer: (segments, sampled) an entry."""
        return [(entry.segments, entry.sampled) for entry in self._entries]

    def training_spans(
        self, encode: Callable[[Sequence[Segment]], Sequence[int]] | None = None
    ) -> list[tuple[list[int], bool]]:
        """A training example: (ids, sampled) an entry; the loss belongs on the sampled ones.

        `encode` serves entries without ids. Raises `TranscriptError` where both are missing.
        """
        spans: list[tuple[list[int], bool]] = []
        for entry in self._entries:
            ids = entry.ids
            if ids is None:
                if encode is None:
                    raise TranscriptError("an entry has no token ids: pass encode")
                ids = tuple(encode(entry.segments))
            spans.append((list(ids), entry.sampled))
        return spans
