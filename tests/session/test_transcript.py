"""The transcript: append-only, exact, and its projections."""

from __future__ import annotations

import pytest

from dsv4_agent.dsml.segments import Segment
from dsv4_agent.session.transcript import Entry, EntryKind, Transcript, TranscriptError


def entry(kind: EntryKind, text: str, ids: tuple[int, ...] | None, turn: int = 0, **more: object) -> Entry:
    return Entry(kind, turn, (Segment(text, True),), ids, **more)  # type: ignore[arg-type]


def example() -> Transcript:
    hello = ({"role": "user", "content": "hello"},)
    return Transcript(
        [
            entry(EntryKind.PROMPT, "system", (1, 2), messages=({"role": "system", "content": "s"},)),
            entry(EntryKind.USER, "hello", (3,), messages=hello, closed=False),
            entry(EntryKind.SAMPLED, "hi", (4, 5), 1, messages=({"role": "assistant", "content": "hi"},)),
        ]
    )


def test_tokens_are_the_entries_ids_in_order() -> None:
    assert example().tokens() == [1, 2, 3, 4, 5]
    assert [segment.text for segment in example().segments()] == ["system", "hello", "hi"]


def test_projections_are_copies() -> None:
    transcript = example()
    transcript.tokens().append(99)
    transcript.segments().clear()
    transcript.messages()[0]["content"] = "changed"
    assert transcript.tokens() == [1, 2, 3, 4, 5]
    assert transcript.messages()[0] == {"role": "system", "content": "s"}


def test_training_spans_mark_what_was_sampled() -> None:
    assert example().training_spans() == [([1, 2], False), ([3], False), ([4, 5], True)]


def test_training_spans_of_text_need_an_encoder() -> None:
    transcript = Transcript([entry(EntryKind.PROMPT, "ab", None)])
    with pytest.raises(TranscriptError, match="pass encode"):
        transcript.training_spans()
    assert transcript.training_spans(lambda parts: [ord(c) for part in parts for c in part.text]) == [
        ([97, 98], False)
    ]


def test_one_entry_without_ids_makes_tokens_unavailable() -> None:
    transcript = example()
    transcript.append(entry(EntryKind.USER, "more", None, 1))
    assert not transcript.has_tokens
    with pytest.raises(TranscriptError, match="without token ids"):
        transcript.tokens()


def test_the_prompt_entry_is_first_and_only_once() -> None:
    with pytest.raises(TranscriptError):
        Transcript([entry(EntryKind.USER, "x", None)])
    transcript = example()
    with pytest.raises(TranscriptError):
        transcript.append(entry(EntryKind.PROMPT, "again", (9,)))


def test_last_results_only_right_after_results() -> None:
    transcript = example()
    results = (
        {"role": "tool", "content": "a"},
        {"role": "tool", "content": "b"},
        {"role": "user", "content": "n"},
    )
    transcript.append(entry(EntryKind.TOOL_RESULTS, "r", (6,), 1, messages=results))
    assert transcript.last_results() == ("a", "b")
    transcript.append(entry(EntryKind.SAMPLED, "s", (7,), 2))
    assert transcript.last_results() == ()


@pytest.mark.parametrize("ids", [None, (), (1, 2, 3)])
def test_json_round_trip_is_exact(ids: tuple[int, ...] | None) -> None:
    before = Entry(
        EntryKind.SAMPLED,
        7,
        (Segment("a\ud800\n｜", True), Segment("<｜User｜>", False)),
        ids,
        ({"role": "assistant", "tool_calls": [{"name": "x", "arguments": {"a": [1, None]}}]},),
        closed=False,
        reasoning_tokens=3,
    )
    assert Entry.from_json(before.to_json()) == before


def test_a_foreign_record_is_named() -> None:
    with pytest.raises(TranscriptError, match="not a transcript entry"):
        Entry.from_json({"kind": "user"})
