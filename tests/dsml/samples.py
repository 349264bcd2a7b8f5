"""What several tests of the wire format share: tools, a toy vocabulary, chunked feeding."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from typing import Any

from dsv4_agent.dsml import dialect as wire
from dsv4_agent.dsml.dialect import Dialect
from dsv4_agent.dsml.events import FinishReason, ParsedMessage, ParseEvent, merge_deltas
from dsv4_agent.dsml.parse import StreamParser
from dsv4_agent.dsml.pieces import write_calls
from dsv4_agent.dsml.schema import ToolSchema
from dsv4_agent.dsml.segments import Segment, SegmentBuilder, text_of

D = wire.DSML
FUNCTIONS: list[dict[str, Any]] = [
    {
        "name": "edit",
        "description": "Edit a file",
        "parameters": {
            "type": "object",
            "properties": {
                "path": {"type": "string"},
                "old_string": {"type": "string"},
                "count": {"type": "integer"},
                "replace_all": {"type": "boolean"},
                "tags": {"type": "array", "items": {"type": "string"}},
                "options": {"type": "object"},
                "ratio": {"type": ["number", "null"]},
            },
            "required": ["path"],
        },
    },
    {
        "name": "shell",
        "parameters": {
            "type": "object",
            "properties": {"command": {"type": "string"}},
            "required": ["command"],
        },
    },
    {"name": "status", "parameters": {"type": "object", "properties": {}}},
]
TOOLS = {function["name"]: ToolSchema.from_function(function) for function in FUNCTIONS}


def call(name: str, **arguments: Any) -> dict[str, Any]:
    """A tool call in the OpenAI shape."""
    return {"type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}


def block(*calls: dict[str, Any], dialect: Dialect = Dialect.V4) -> str:
    """The rendered block with its two line breaks, without EOS."""
    return text_of(block_segments(*calls, dialect=dialect))


def block_segments(*calls: dict[str, Any], dialect: Dialect = Dialect.V4) -> list[Segment]:
    """The rendered block as segments."""
    out = SegmentBuilder()
    write_calls(out, calls, dialect)
    return out.segments()


class ToyVocabulary:
    """Every byte, the special tokens, and a few merged pieces as a trained tokenizer would have them."""

    SPECIAL = (wire.BOS, wire.EOS, wire.USER, wire.ASSISTANT, wire.THINK, wire.END_THINK, wire.DSML)
    MERGED = (
        "</",
        ">\n",
        '">',
        '">\n',
        '="',
        "tool",
        "_c",
        "alls",
        " name",
        " string",
        "true",
        "\n\n",
        '"></',
        "</p",
        "é",
    )

    def __init__(self) -> None:
        self._texts = [bytes((byte,)) for byte in range(256)]
        self._texts += [text.encode() for text in (*self.MERGED, *self.SPECIAL)]
        self._ids = {text: 256 + index for index, text in enumerate((*self.MERGED, *self.SPECIAL))}

    @property
    def size(self) -> int:
        return len(self._texts)

    def id_of(self, token: str) -> int | None:
        return self._ids.get(token)

    def token_bytes(self, token_id: int, /) -> bytes:
        return self._texts[token_id]

    def encode(self, segments: Iterable[Segment], rng: random.Random | None = None) -> list[int]:
        """Greedy (or, with `rng`, arbitrary) pieces; special tokens only in structure."""
        ids: list[int] = []
        for segment in segments:
            pieces = [*self.MERGED, *(self.SPECIAL if segment.structure else ())]
            pieces.sort(key=len, reverse=True)
            rest = segment.text
            while rest:
                usable = [piece for piece in pieces if rest.startswith(piece)]
                special = [piece for piece in usable if piece in self.SPECIAL]
                if special or (usable and (rng is None or rng.random() < 0.6)):
                    piece = special[0] if special else usable[0] if rng is None else rng.choice(usable)
                    ids.append(self._ids[piece])
                    rest = rest[len(piece) :]
                else:
                    ids.extend(rest[0].encode())
                    rest = rest[1:]
        return ids


def parse_chunks(
    chunks: Sequence[str],
    *,
    thinking: bool = True,
    reason: FinishReason = FinishReason.STOP,
    tools: Any = TOOLS,
) -> tuple[list[ParseEvent], ParsedMessage]:
    """Feed text chunks; merged events and the message."""
    parser = StreamParser(tools, thinking=thinking)
    events = [event for chunk in chunks for event in parser.feed_text(chunk)]
    message = parser.finish(reason)
    return merge_deltas([*events, *parser.final_events]), message


def parse_ids(
    ids: Sequence[int],
    vocabulary: Any,
    *,
    thinking: bool = True,
    step: int = 1,
    reason: FinishReason = FinishReason.STOP,
) -> tuple[list[ParseEvent], ParsedMessage]:
    """Feed ids `step` at a time; merged events and the message."""
    parser = StreamParser(TOOLS, thinking=thinking, vocabulary=vocabulary)
    events = [
        event for start in range(0, len(ids), step) for event in parser.feed_ids(ids[start : start + step])
    ]
    message = parser.finish(reason)
    return merge_deltas([*events, *parser.final_events]), message


def cut(text: str, rng: random.Random, longest: int = 12) -> list[str]:
    """Random chunks of a text."""
    chunks = []
    while text:
        size = rng.randint(1, longest)
        chunks.append(text[:size])
        text = text[size:]
    return chunks
