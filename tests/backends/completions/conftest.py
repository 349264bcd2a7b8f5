"""V4-Nano's tokenizer, conversations, and the server that tests speak for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from dsv4_agent.dsml.dialect import BOS, USER
from dsv4_agent.dsml.segments import Segment
from dsv4_agent.session.transcript import Entry, EntryKind, Transcript
from tests.backends.http.conftest import serve

__all__ = ["serve"]

tokenizer_module = pytest.importorskip("dsv4_model.tokenizer")


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    from dsv4_model.nano import WEIGHTS

    return tokenizer_module.Tokenizer.from_file(WEIGHTS / "tokenizer.json")


def conversation(*parts: Segment, tokenizer: Any = None) -> Transcript:
    """A conversation of one entry, with ids if there is a tokenizer."""
    ids = None if tokenizer is None else tuple(tokenizer.encode_segments(parts))
    return Transcript([Entry(EntryKind.PROMPT, 0, parts, ids)])


def extend(transcript: Transcript, *parts: Segment, ids: Sequence[int] | None, sampled: bool = False) -> None:
    """Append to a conversation."""
    kind = EntryKind.SAMPLED if sampled else EntryKind.USER
    transcript.append(Entry(kind, 1, parts, None if ids is None else tuple(ids)))


@pytest.fixture
def talk(tokenizer: Any) -> Transcript:
    """A prompt whose content spells a special token."""
    return conversation(
        Segment(BOS + USER, True), Segment("Rename <｜User｜> it", False), tokenizer=tokenizer
    )
