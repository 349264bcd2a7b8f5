"""What a session is frozen with at its start: system prompt, tools, thinking.

Everything here is part of the prefix, so it never changes within a session. The `nano` preset is what the
built-in model was trained on; changing a byte of it costs a new training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from dsv4_agent.dsml.dialect import Dialect, GrammarMode, Thinking


@dataclass(frozen=True, slots=True)
class Preset:
    """A frozen prefix and the sampling that belongs to it.

    `tools` are shown to the model in this order; `only` cuts a tool's parameters down to those named.
    `descriptions` chooses the set of tool descriptions. `environment_block` puts clock, folder and git status
    in front of the first prompt; without it the user text is exactly the prompt.
    `max_tokens_per_turn` ends a turn that goes on and on, `thinking_budget` (tokens) a thought; `grammar` is
    that of tool calls, for backends that sample themselves.
    """

    name: str
    system_prompt: str
    tools: tuple[str, ...]
    only: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    descriptions: Literal["default", "nano"] = "default"
    environment_block: bool = True
    thinking: Thinking = Thinking.THINKING
    effort: str | None = None
    dialect: Dialect = Dialect.V4
    temperature: float = 1.0
    top_p: float = 0.95
    min_p: float = 0.0
    max_tokens_per_turn: int = 65_536
    thinking_budget: int | None = None
    grammar: GrammarMode = GrammarMode.ON


DEFAULT_TOOLS = (
    "shell",
    "read",
    "write",
    "edit",
    "grep",
    "glob",
    "outline",
    "symbols",
    "git_status",
    "git_diff",
    "git_log",
    "git_show",
    "git_commit",
)

_NANO_PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "read": ("path",),
    "grep": ("pattern",),
    "glob": ("pattern",),
    "edit": ("path", "old_string", "new_string", "replace_all"),
    "write": ("path", "content"),
    "shell": ("command",),
    "git_status": (),
    "git_diff": (),
    "git_commit": ("message",),
}


def default_preset(
    *,
    thinking: Thinking = Thinking.THINKING,
    effort: str | None = None,
    dialect: Dialect = Dialect.V4,
) -> Preset:
    """The preset for real V4 models."""
    from dsv4_prompts import prompt

    return Preset(
        "default", prompt("system"), DEFAULT_TOOLS, thinking=thinking, effort=effort, dialect=dialect
    )


def nano_preset() -> Preset:
    """The preset of V4-Nano, the built-in model. Greedy: its tasks have one right answer."""
    from dsv4_prompts import prompt

    return Preset(
        "nano",
        prompt("nano"),
        tuple(_NANO_PARAMETERS),
        only=_NANO_PARAMETERS,
        descriptions="nano",
        environment_block=False,
        temperature=0.0,
        top_p=1.0,
        max_tokens_per_turn=512,
        thinking_budget=192,
    )
