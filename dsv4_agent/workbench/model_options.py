"""Which model was asked for; light, for command lines."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from dsv4_agent.dsml.dialect import GrammarMode
from dsv4_model.accounting import CacheFormat

NANO: Final = "nano"
"""Name of the model that is built in."""
SCRIPTED: Final = "scripted:"
"""What the name of a played model begins with; its file follows."""
ENVIRONMENT: Final = "server"
"""Name of the server that `DSV4_BASE_URL` tells of."""
BUILT_IN: Final = "deepseek"
"""Name of the profile of DeepSeek's hosted API."""


def is_folder(name: str) -> bool:
    """Whether a name is a folder's; what is too long to be a path at all is none."""
    try:
        return Path(name).is_dir()
    except OSError:
        return False


class Effort(StrEnum):
    """How long the model may think; off means chat mode."""

    OFF = "off"
    HIGH = "high"
    MAX = "max"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineChoice:
    """How a model in this process runs. `None` means: as the user's settings say, else the engine's default.

    `device` names where the model goes, e.g. "cuda" or "cuda:0,cuda:1" (its layers are split over these).
    `memory_budget` (bytes) bounds the experts in memory, `cache_limit` (bytes, 0: none) the KV states on
    disk. `keep_conversations` says whether such a state may hold more than the system prompt;
    `user_settings` whether the user's settings count.
    """

    cache_format: CacheFormat | None = None
    memory_budget: int | None = None
    threads: int | None = None
    device: str | None = None
    cache_limit: int | None = None
    keep_conversations: bool = True
    user_settings: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """Which model, and how it is sampled. `None` means: the model's own default; as a name, the user's.

    `local_server` allows a `dsv4 serve` that runs already to answer for a model of this machine.
    """

    name: str | None = None
    local_server: bool = True
    effort: Effort | None = None
    temperature: float | None = None
    top_p: float | None = None
    grammar: GrammarMode = GrammarMode.ON
    tools: tuple[str, ...] | None = None
    engine: EngineChoice = field(default_factory=EngineChoice)
