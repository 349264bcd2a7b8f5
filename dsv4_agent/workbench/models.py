"""From `--model` to a backend and the preset that goes with it: one way for each kind of model."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dsv4_agent.backends.inprocess import InProcessBackend
from dsv4_agent.loop.events import Subtype
from dsv4_agent.loop.preset import default_preset, nano_preset
from dsv4_agent.workbench.engines import open_engine
from dsv4_agent.workbench.failures import RunFailure
from dsv4_agent.workbench.model_options import ENVIRONMENT, NANO, SCRIPTED, ModelOptions, is_folder
from dsv4_agent.workbench.opened_model import OpenedModel, effort_of, with_effort, with_options
from dsv4_agent.workbench.processes import blot_out
from dsv4_agent.workbench.settings import Settings, SettingsError, load_settings
from dsv4_tools.environment import is_secret_name, withhold

if TYPE_CHECKING:
    from dsv4_agent.workbench.model_profiles import KnownProfile

__all__ = ["OpenedModel", "choose_model", "effort_of", "hide_keys", "open_model", "with_effort"]


def open_model(options: ModelOptions) -> OpenedModel:
    """Load the model, or find the server that has it.

    Raises `RunFailure`: 52 for one that isn't there, 41 for a server that can't be reached or refuses the
    key, 1 for a damaged checkpoint.
    """
    name, profile = choose_model(options)
    if name.startswith(SCRIPTED):
        return _scripted(Path(name.removeprefix(SCRIPTED)), options)
    if profile is not None:
        from dsv4_agent.workbench.server_models import open_server

        return open_server(profile, options)
    from dsv4_agent.workbench.warm_models import open_warm

    return open_warm(name, options) or _in_process(name, options)


def choose_model(options: ModelOptions) -> tuple[str, KnownProfile | None]:
    """The model's name, the user's own where none was given, and its profile if it is behind a server.

    Nothing is loaded. Raises `RunFailure` (52) for a name that stands for nothing.
    """
    settings = _settings(options)
    name = options.name or settings.model or NANO
    if name.startswith(SCRIPTED):
        hide_keys()
        return name, None
    profiles = _profiles(settings)
    if (known := profiles.get(name)) is not None:
        return name, known
    if name != NANO and not is_folder(name):
        raise _unknown(name, profiles)
    return name, None


def hide_keys() -> None:
    """From here on no command sees a variable that holds a key, whichever model is chosen, if any."""
    with contextlib.suppress(RunFailure):  # bad settings are told of where a model is opened
        _profiles(_settings(ModelOptions()))


def _settings(options: ModelOptions) -> Settings:
    try:
        return load_settings() if options.engine.user_settings else Settings()
    except SettingsError as error:
        raise RunFailure(Subtype.CONFIG, str(error)) from error


def _profiles(settings: Settings) -> Mapping[str, KnownProfile]:
    """Every profile; from here on no tool sees a variable that holds a key, of these or of anything."""
    from dsv4_agent.workbench.model_profiles import all_profiles, key_variables

    try:
        profiles = all_profiles(settings.models, os.environ)
    except SettingsError as error:
        raise RunFailure(Subtype.CONFIG, str(error)) from error
    keys = key_variables(profiles.values())
    with contextlib.suppress(SettingsError):  # whether or not these settings are to count
        keys |= key_variables(load_settings().models.values())
    withhold(keys)
    blot_out({*keys, *filter(is_secret_name, os.environ)})
    return profiles


def _unknown(name: str, profiles: Mapping[str, KnownProfile]) -> RunFailure:
    if name == ENVIRONMENT:
        cause = "--model server is the server of DSV4_BASE_URL, which isn't set"
        return RunFailure(Subtype.CONFIG, cause, "Set it, or see dsv4 model add.")
    known = ", ".join(sorted(profiles))
    remedy = f"Use nano, a checkpoint folder, scripted:FILE or a server: {known} (dsv4 model add makes more)."
    return RunFailure(Subtype.CONFIG, f"there is no model {name!r}", remedy)


def _scripted(path: Path, options: ModelOptions) -> OpenedModel:
    from dsv4_agent.backends.scripted import ScriptedBackend, ScriptError

    try:
        backend = ScriptedBackend.from_file(path)
    except ScriptError as error:
        raise RunFailure(Subtype.CONFIG, str(error), "See dsv4 help scripted.") from error
    return with_options(backend, default_preset(), options)


def _in_process(name: str, options: ModelOptions) -> OpenedModel:
    opened = open_engine(name, options.engine)
    try:
        backend = InProcessBackend(opened.engine, keeps=opened.choice.keep_conversations)
    except MemoryError as error:
        raise RunFailure(Subtype.MODEL, str(error)) from error
    ready = with_options(backend, nano_preset() if opened.is_nano else default_preset(), options)
    notice = backend.notice
    return ready if notice is None else replace(ready, notes=(notice, *ready.notes))
