"""V4-Nano's tokenizer, conversations, and servers that imitate the kinds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from dsv4_agent.dsml.segments import Segment
from tests.backends.http.conftest import serve

__all__ = ["serve"]

tokenizer_module = pytest.importorskip("dsv4_model.tokenizer")


@pytest.fixture(scope="session")
def tokenizer() -> object:
    from dsv4_model.nano import WEIGHTS

    return tokenizer_module.Tokenizer.from_file(WEIGHTS / "tokenizer.json")


@dataclass
class Talk:
    """A conversation that grows; `ids` is None where some part has none."""

    parts: list[Segment] = field(default_factory=list)
    ids: list[int] | None = None

    def segments(self) -> Sequence[Segment]:
        return list(self.parts)

    def tokens(self) -> Sequence[int]:
        if self.ids is None:
            raise ValueError("no ids")
        return list(self.ids)

    def messages(self) -> list[dict[str, object]]:
        return []

    def last_results(self) -> tuple[str, ...]:
        return ()
