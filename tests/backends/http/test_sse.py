"""Event streams: the same events whatever pieces the bytes come in."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsv4_agent.backends.http import sse
from dsv4_agent.backends.http.sse import EventStream, TooLongError


def events(*chunks: bytes) -> list[str]:
    stream = EventStream()
    found = [event for chunk in chunks for event in stream.feed(chunk)]
    return found + stream.end()


@pytest.mark.parametrize(
    ("data", "want"),
    [
        (b"data: a\n\ndata: b\n\n", ["a", "b"]),
        (b"data:a\r\n\r\ndata:  b\r\n\r\n", ["a", " b"]),
        (b"data: a\r\rdata: b\r\r", ["a", "b"]),
        (b"data: a\ndata: b\n\n", ["a\nb"]),
        (b": keep alive\n\nevent: x\nid: 3\nretry: 5\ndata: a\n\n", ["a"]),
        (b"data\n\n", [""]),
        (b"data:\n\n", [""]),
        (b"\xef\xbb\xbfdata: a\n\n", ["a"]),
        (b"data: a\xff\xfeb\n\n", ["a\ufffd\ufffdb"]),
        (b"data: unfinished", ["unfinished"]),
        (b"data: no blank line\n", ["no blank line"]),
        (b"dat: a\n\nnonsense\n\n", []),
        (b"", []),
    ],
)
def test_events(data: bytes, want: list[str]) -> None:
    assert events(data) == want
    assert events(*(data[i : i + 1] for i in range(len(data)))) == want


@given(
    st.lists(st.text(st.characters(exclude_characters="\r\n\ufeff", exclude_categories=["Cs"])), max_size=4),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.lists(st.integers(0, 200), max_size=8),
)
def test_any_pieces_give_the_same(texts: list[str], end: str, cuts: list[int]) -> None:
    data = "".join(f"data: {text}{end}{end}" for text in texts).encode()
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    chunks = [data[a:b] for a, b in itertools.pairwise(places)]
    assert events(*chunks) == texts


@given(st.lists(st.binary(max_size=40), max_size=6))
def test_nothing_is_too_broken(chunks: list[bytes]) -> None:
    events(*chunks)


def test_a_line_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "LINE_LIMIT", 1000)
    stream = EventStream()
    with pytest.raises(TooLongError):
        for _ in range(100):
            stream.feed(b"data: " + b"x" * 100)
    stream = EventStream()
    with pytest.raises(TooLongError):
        for _ in range(100):
            stream.feed(b"data: " + b"x" * 100 + b"\n")
