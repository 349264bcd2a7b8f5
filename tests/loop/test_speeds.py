"""How fast a turn was: what a server needs for the prompt doesn't count as sampling."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from dsv4_agent.backends.base import (
    BackendEvent,
    Finished,
    GenerationUsage,
    PrefixSynced,
    SampledIds,
    SampledText,
)
from dsv4_agent.dsml.events import FinishReason
from dsv4_agent.loop import sampling
from dsv4_agent.loop.sampling import Speeds, TurnSampler


class Bytes:
    """A vocabulary of ASCII characters."""

    def id_of(self, token: str) -> int | None:
        return ord(token) if len(token) == 1 else None

    def token_bytes(self, token_id: int, /) -> bytes:
        return bytes([token_id])


END = Finished(FinishReason.STOP, GenerationUsage(5, 0, 4, counted=True))


@pytest.mark.parametrize(
    ("events", "speeds"),
    [
        ([SampledIds((65, 66)), SampledIds((67, 68)), END], Speeds(None, 1.3)),
        ([SampledText("AB"), SampledText("CD"), END], Speeds(None, 1.3)),
        ([PrefixSynced(0, 20), SampledIds((65, 66)), SampledIds((67, 68)), END], Speeds(2.0, 1.0)),
    ],
)
def test_speeds(monkeypatch: pytest.MonkeyPatch, events: Sequence[BackendEvent], speeds: Speeds) -> None:
    now = 0.0
    monkeypatch.setattr(sampling, "monotonic", lambda: now)
    sampler = TurnSampler(1, {}, thinking=False, vocabulary=Bytes(), new_id=lambda: "i")
    now = 10.0  # the prompt was computed
    for event in events:
        sampler.feed(event)
        now += 1.0
    sampler.finish()
    assert sampler.speeds() == speeds
