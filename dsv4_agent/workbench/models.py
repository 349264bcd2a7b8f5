"""From `--model` to a backend and the preset that goes with it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from dsv4_agent.backends.base import Backend
from dsv4_agent.backends.inprocess import InProcessBackend
from dsv4_agent.dsml.dialect import Thinking
from dsv4_agent.loop.events import Subtype
from dsv4_agent.loop.preset import Preset, default_preset, nano_preset
from dsv4_agent.permissions.rules import RuleError, parse_rule
from dsv4_agent.workbench.engines import open_engine
from dsv4_agent.workbench.failures import RunFailure
from dsv4_agent.workbench.model_options import NANO, Effort, ModelOptions

_SCRIPTED: Final = "scripted:"


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """A model that is ready to answer. `notes` are lines for the user."""

    backend: Backend
    preset: Preset
    notes: tuple[str, ...] = ()


def open_model(options: ModelOptions) -> OpenedModel:
    """Load the model. Raises `RunFailure`: 52 for one that isn't there, 1 for a damaged checkpoint."""
    if options.name.startswith(_SCRIPTED):
        backend = _scripted(Path(options.name.removeprefix(_SCRIPTED)))
        return _with_options(backend, default_preset(), options)
    if options.name != NANO and not Path(options.name).is_dir():
        cause = f"there is no model {options.name!r}"
        raise RunFailure(Subtype.CONFIG, cause, "Use nano, a checkpoint folder, or scripted:FILE.")
    backend, is_nano = _in_process(options)
    opened = _with_options(backend, nano_preset() if is_nano else default_preset(), options)
    notice = backend.notice
    return opened if notice is None else replace(opened, notes=(notice, *opened.notes))


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


def _with_options(backend: Backend, preset: Preset, options: ModelOptions) -> OpenedModel:
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


def _scripted(path: Path) -> Backend:
    from dsv4_agent.backends.scripted import ScriptedBackend, ScriptError

    try:
        return ScriptedBackend.from_file(path)
    except ScriptError as error:
        raise RunFailure(Subtype.CONFIG, str(error), "See dsv4 help scripted.") from error


def _in_process(options: ModelOptions) -> tuple[InProcessBackend, bool]:
    opened = open_engine(options.name, options.engine)
    try:
        backend = InProcessBackend(opened.engine, keeps=opened.choice.keep_conversations)
    except MemoryError as error:
        raise RunFailure(Subtype.MODEL, str(error)) from error
    return backend, opened.is_nano
