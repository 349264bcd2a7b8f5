"""How the engine in this process is to run: command line, then environment, then the user's settings.

Nothing of a repository is asked: what is kept on disk, and how much, is the user's affair alone.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Final

from dsv4_agent.loop.events import Subtype
from dsv4_agent.workbench.failures import RunFailure
from dsv4_agent.workbench.model_options import EngineChoice
from dsv4_agent.workbench.settings import Settings, SettingsError, load_settings
from dsv4_agent.workbench.sizes import parse_size
from dsv4_model.stored_states import DEFAULT_LIMIT

LIMIT_VARIABLE: Final = "DSV4_KV_CACHE_LIMIT"


def cache_limit(settings: Settings) -> int:
    """Most bytes of stored KV states; 0 switches storing off. Raises `RunFailure`."""
    if text := os.environ.get(LIMIT_VARIABLE):
        try:
            return parse_size(text)
        except ValueError as error:
            remedy = f"Set {LIMIT_VARIABLE} to bytes, 4 GiB, or 0 for none."
            raise RunFailure(Subtype.CONFIG, f"{LIMIT_VARIABLE}: {error}", remedy) from error
    limit = settings.engine.cache_limit
    return DEFAULT_LIMIT if limit is None else limit


def resolved(choice: EngineChoice) -> EngineChoice:
    """What holds where the command line was silent; `cache_limit` is known then. Raises `RunFailure`."""
    try:
        settings = load_settings() if choice.user_settings else Settings()
    except SettingsError as error:
        raise RunFailure(Subtype.CONFIG, str(error)) from error
    own = settings.engine
    return replace(
        choice,
        cache_format=choice.cache_format or own.cache_format,
        memory_budget=own.memory_budget if choice.memory_budget is None else choice.memory_budget,
        device=choice.device or own.device,
        threads=own.threads if choice.threads is None else choice.threads,
        cache_limit=cache_limit(settings) if choice.cache_limit is None else choice.cache_limit,
    )
