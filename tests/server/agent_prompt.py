"""What the agent itself shows V4-Nano."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dsv4_agent.loop.preset import nano_preset
from dsv4_agent.loop.toolbox import Toolbox
from dsv4_tools.registry import default_tools


def nano_functions() -> Sequence[Mapping[str, Any]]:
    """The declared functions, as the agent declares them."""
    return Toolbox(nano_preset(), default_tools(), None).functions  # type: ignore[arg-type]


def nano_tools() -> list[dict[str, Any]]:
    """The same in OpenAI's wrapping."""
    return [{"type": "function", "function": dict(function)} for function in nano_functions()]
