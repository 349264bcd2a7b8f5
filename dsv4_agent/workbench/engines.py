"""A name becomes a loaded engine; what may go wrong on the way is told in the user's words."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dsv4_agent.loop.events import Subtype
from dsv4_agent.workbench.engine_settings import resolved
from dsv4_agent.workbench.failures import RunFailure
from dsv4_agent.workbench.model_options import NANO, EngineChoice, is_folder

if TYPE_CHECKING:
    from dsv4_model.engine import Engine

_LOCAL_PACKAGES: Final = frozenset({"torch", "safetensors", "tokenizers", "numpy"})
_RELEASED_VOCABULARY: Final = 129_280  # a smaller one can only be V4-Nano's: see dsv4_model.nano


@dataclass(frozen=True, slots=True)
class OpenedEngine:
    """A loaded engine, whether its model is V4-Nano, and the choice that it was opened by."""

    engine: Engine
    is_nano: bool
    choice: EngineChoice


def missing_package(error: ImportError) -> RunFailure:
    """What to install where a model can't be loaded without it; any other failed import is raised again."""
    if (error.name or "").partition(".")[0] not in _LOCAL_PACKAGES:
        raise error
    cause = f"running a model here needs the package {error.name}, which is not installed"
    return RunFailure(Subtype.CONFIG, cause, "Run: pip install 'dsv4-agent[local]'")


def open_engine(name: str, wanted: EngineChoice) -> OpenedEngine:
    """Load `nano` or a checkpoint folder; takes seconds and blocks.

    Raises `RunFailure`: 52 for a model that isn't there or a missing package, 1 for a damaged checkpoint.
    """
    if name != NANO and not is_folder(name):
        cause = f"there is no model {name!r}"
        raise RunFailure(Subtype.CONFIG, cause, "Use nano, a checkpoint folder, or scripted:FILE.")
    choice = resolved(wanted)
    try:
        from dsv4_model.checkpoint_reader import CheckpointError
        from dsv4_model.config import ConfigError
        from dsv4_model.engine import CacheMemoryError, Engine, EngineError, EngineOptions
        from dsv4_model.expert_store import ExpertBudgetError
        from dsv4_model.prefix_store import PrefixStore
        from dsv4_model.stored_states import kv_folder
        from dsv4_model.tokenizer import TokenizerError
    except ImportError as error:
        raise missing_package(error) from error
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
        engine = Engine.load(name if name == NANO else Path(name), options=engine_options)
    except (CheckpointError, CacheMemoryError) as error:
        raise RunFailure(Subtype.MODEL, str(error)) from error
    except (ConfigError, TokenizerError, EngineError, ExpertBudgetError) as error:
        raise RunFailure(Subtype.CONFIG, str(error)) from error
    except MemoryError as error:
        cause = f"the model {name} does not fit into memory"
        raise RunFailure(Subtype.MODEL, cause, "Use a smaller model or a larger machine.") from error
    is_nano = name == NANO or engine.config.vocab_size < _RELEASED_VOCABULARY
    return OpenedEngine(engine, is_nano, choice)
