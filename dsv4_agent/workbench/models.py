"""From `--model` to a backend and the preset that goes with it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from dsv4_agent.backends.base import Backend
from dsv4_agent.backends.inprocess import InProcessBackend
from dsv4_agent.dsml.dialect import Thinking
from dsv4_agent.loop.events import Subtype
from dsv4_agent.loop.preset import Preset, default_preset, nano_preset
from dsv4_agent.permissions.rules import RuleError, parse_rule
from dsv4_agent.workbench.engine_settings import resolved
from dsv4_agent.workbench.failures import RunFailure
from dsv4_agent.workbench.model_options import NANO, Effort, ModelOptions

_SCRIPTED: Final = "scripted:"
_LOCAL_PACKAGES: Final = frozenset({"torch", "safetensors", "tokenizers", "numpy"})
_RELEASED_VOCABULARY: Final = 129_280  # a smaller one can only be V4-Nano's: see dsv4_model.nano


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
    choice = resolved(options.engine)
    try:
        from dsv4_model.checkpoint_reader import CheckpointError
        from dsv4_model.config import ConfigError
        from dsv4_model.engine import CacheMemoryError, Engine, EngineError, EngineOptions
        from dsv4_model.expert_store import ExpertBudgetError
        from dsv4_model.prefix_store import PrefixStore
        from dsv4_model.stored_states import kv_folder
        from dsv4_model.tokenizer import TokenizerError
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in _LOCAL_PACKAGES:
            raise
        cause = f"running a model here needs the package {error.name}, which is not installed"
        raise RunFailure(Subtype.CONFIG, cause, "Run: pip install 'dsv4-agent[local]'") from error
    # What a user must know comes as notes and errors; a line of a log would be drawn across the screen.
    logging.getLogger("dsv4_model").addHandler(logging.NullHandler())
    engine_options = EngineOptions(
        threads=choice.threads,
        cache_format=choice.cache_format,
        store=PrefixStore(kv_folder(), choice.cache_limit) if choice.cache_limit else None,
        memory_budget=choice.memory_budget,
        device=choice.device,
    )
    try:
        engine = Engine.load(
            options.name if options.name == NANO else Path(options.name), options=engine_options
        )
        backend = InProcessBackend(engine, keeps=choice.keep_conversations)
    except (CheckpointError, CacheMemoryError) as error:
        raise RunFailure(Subtype.MODEL, str(error)) from error
    except (ConfigError, TokenizerError, EngineError, ExpertBudgetError) as error:
        raise RunFailure(Subtype.CONFIG, str(error)) from error
    except MemoryError as error:
        cause = f"the model {options.name} does not fit into memory"
        raise RunFailure(Subtype.MODEL, cause, "Use a smaller model or a larger machine.") from error
    is_nano = options.name == NANO or engine.config.vocab_size < _RELEASED_VOCABULARY
    return backend, is_nano
