"""Which model was asked for; light, for command lines."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from dsv4_agent.dsml.dialect import GrammarMode

NANO: Final = "nano"
"""Name of the built-in model."""


class Effort(StrEnum):
    """How long the model may think; off means chat mode."""

    OFF = "off"
    HIGH = "high"
    MAX = "max"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """Which model, and how it is sampled. `None` means: the model's own default."""

    name: str = NANO
    effort: Effort | None = None
    temperature: float | None = None
    top_p: float | None = None
    grammar: GrammarMode = GrammarMode.ON
    tools: tuple[str, ...] | None = None
