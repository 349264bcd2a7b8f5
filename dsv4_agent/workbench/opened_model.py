"""A model that is ready to answer, and how it is sampled."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dsv4_agent.backends.base import Backend
from dsv4_agent.dsml.dialect import Thinking
from dsv4_agent.loop.events import Subtype
from dsv4_agent.loop.preset import Preset
from dsv4_agent.permissions.rules import RuleError, parse_rule
from dsv4_agent.workbench.failures import RunFailure
from dsv4_agent.workbench.model_options import NANO, Effort, ModelOptions


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """A model that is ready to answer. `notes` are lines for the user."""

    backend: Backend
    preset: Preset
    notes: tuple[str, ...] = ()


def with_effort(preset: Preset, effort: Effort) -> Preset:
    """The preset with another effort. Raises `RunFailure` for a model that has only one."""
    if preset.name == NANO:
        cause = "the built-in model was trained with one way of thinking"
        raise RunFailure(Subtype.CONFIG, cause, "Effort is for real V4 models.")
    if effort is Effort.OFF:
        return replace(preset, thinking=Thinking.CHAT, effort=None)
    return replace(preset, thinking=Thinking.THINKING, effort=effort.value)


def effort_of(preset: Preset) -> str:
    """How hard a preset thinks, in a word for people."""
    return Effort.OFF.value if preset.thinking is Thinking.CHAT else preset.effort or "default"


def with_options(backend: Backend, preset: Preset, options: ModelOptions) -> OpenedModel:
    """Apply what the command line said to what the model would do by itself. Raises `RunFailure`."""
    notes: list[str] = []
    preset = replace(preset, grammar=options.grammar)
    if options.effort is not None and preset.name == NANO:
        notes.append("the built-in model was trained with one way of thinking: --effort has no effect")
    elif options.effort is not None:
        preset = with_effort(preset, options.effort)
    if options.temperature is not None:
        preset = replace(preset, temperature=options.temperature)
    if options.top_p is not None:
        preset = replace(preset, top_p=options.top_p)
    if options.tools is not None:
        preset = replace(preset, tools=_tool_names(options.tools))
    return OpenedModel(backend, preset, tuple(notes))


def _tool_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Our names for tools that may be called by the names other agents use (`Bash`, `Read`)."""
    try:
        return tuple(dict.fromkeys(parse_rule(name).tool for name in names))
    except RuleError as error:
        raise RunFailure(
            Subtype.INPUT, str(error), "Give names to --tools, rules to --allowed-tools."
        ) from error
