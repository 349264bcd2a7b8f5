"""The user's own settings: one TOML file in the user's configuration folder, never one of a repository.

model = "nano"               # what --model is when it isn't given: nano, a folder, or a name of [models]
[models.flash]               # see model_profiles
base_url = "http://127.0.0.1:8000/v1"
[tui]
theme = "dsv4-dark"          # dsv4-light, dsv4-contrast
reduced_motion = false
[chat]
model = "nano"
permission_mode = "default"
[engine]
cache_limit = "4 GiB"        # KV states on disk; 0: none
cache_format = "fp8+fp4"     # fp32, bf16, fp8
memory_budget = "20 GiB"     # experts in memory; the others are read when they are needed
threads = 8
device = "cuda:0,cuda:1"     # layers are split over several
[keys]
"app.cycle_mode" = "shift+tab"
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import platformdirs

from dsv4_agent.workbench.config_file import change_config, read_config
from dsv4_agent.workbench.model_options import EngineChoice
from dsv4_agent.workbench.settings_error import SettingsError
from dsv4_agent.workbench.sizes import parse_size
from dsv4_model.accounting import CacheFormat

if TYPE_CHECKING:
    from dsv4_agent.workbench.model_profiles import KnownProfile

__all__ = ["FILE", "THEMES", "Settings", "SettingsError", "config_directory", "load_settings", "save_theme"]

FILE = "config.toml"
THEMES = ("dsv4-dark", "dsv4-light", "dsv4-contrast")
"""Names of what the screen has; a test holds it to that."""
T = TypeVar("T", str, bool)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user prefers. None means: the program's default. `chat_model` is for the chat alone."""

    theme: str | None = None
    reduced_motion: bool = False
    model: str | None = None
    chat_model: str | None = None
    permission_mode: str | None = None
    models: Mapping[str, KnownProfile] = field(default_factory=dict)
    engine: EngineChoice = field(default_factory=EngineChoice)
    keys: Mapping[str, str] = field(default_factory=dict)


def config_directory() -> Path:
    """Where settings live: DSV4_CONFIG_DIR, else the platform's configuration folder."""
    override = os.environ.get("DSV4_CONFIG_DIR")
    return Path(override) if override else Path(platformdirs.user_config_dir("dsv4", appauthor=False))


def load_settings(path: Path | None = None) -> Settings:
    """Read the file; no file means defaults. Raises `SettingsError`."""
    path = config_directory() / FILE if path is None else path
    try:
        data = tomllib.loads(read_config(path))
    except FileNotFoundError:
        return Settings()
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} can't be read: {error}; mend or remove it") from error
    except RecursionError as error:
        raise SettingsError(f"{path} can't be read: it is nested too deep; mend or remove it") from error
    tui, chat = _table(path, data, "tui"), _table(path, data, "chat")
    keys, engine = _table(path, data, "keys"), _table(path, data, "engine")
    _only(path, data, {"model", "models", "tui", "chat", "engine", "keys"})
    _only(path, tui, {"theme", "reduced_motion"}, "tui")
    _only(path, chat, {"model", "permission_mode"}, "chat")
    return Settings(
        theme=_choice(path, tui, "tui", "theme", THEMES),
        reduced_motion=_value(path, tui, "reduced_motion", bool) or False,
        model=_value(path, data, "model", str),
        chat_model=_value(path, chat, "model", str),
        permission_mode=_permission_mode(path, chat),
        models=_models(path, _table(path, data, "models")),
        engine=_engine(path, engine),
        keys={name: key for name in keys if (key := _value(path, keys, name, str)) is not None},
    )


def _permission_mode(path: Path, table: Mapping[str, object]) -> str | None:
    if "permission_mode" not in table:
        return None
    from dsv4_agent.permissions.decision import PermissionMode  # the rules' parsers: not for who names none

    return _choice(path, table, "chat", "permission_mode", list(PermissionMode))


def _models(path: Path, tables: Mapping[str, object]) -> Mapping[str, KnownProfile]:
    if not tables:
        return {}
    from dsv4_agent.workbench.model_profiles import read_profiles  # pydantic: not for who has no servers

    return read_profiles(tables, path)


def _engine(path: Path, table: Mapping[str, object]) -> EngineChoice:
    _only(path, table, {"cache_limit", "cache_format", "memory_budget", "threads", "device"}, "engine")
    choice = _choice(path, table, "engine", "cache_format", list(CacheFormat))
    threads = table.get("threads")
    if threads is not None and (type(threads) is not int or threads < 1):
        raise SettingsError(f"{path}: [engine] threads must be a number of at least 1")
    return EngineChoice(
        cache_format=None if choice is None else CacheFormat(choice),
        memory_budget=_bytes(path, table, "memory_budget"),
        threads=threads if isinstance(threads, int) else None,
        device=_value(path, table, "device", str),
        cache_limit=_bytes(path, table, "cache_limit"),
    )


def _bytes(path: Path, table: Mapping[str, object], key: str) -> int | None:
    value = table.get(key)
    try:
        if isinstance(value, str):
            return parse_size(value)
        if value is None or (type(value) is int and value >= 0):
            return value
    except ValueError:
        pass
    raise SettingsError(f'{path}: [engine] {key} must be a size: bytes, or as in "500 MB" or "4 GiB"')


def save_theme(theme: str, path: Path | None = None) -> Settings:
    """Remember the theme, leaving the rest of the file, comments included, as it is.

    Raises `SettingsError`.
    """
    path = config_directory() / FILE if path is None else path
    settings = load_settings(path)

    def edit(document: Any) -> None:
        import tomlkit

        document.setdefault("tui", tomlkit.table())["theme"] = theme

    change_config(path, edit)
    return replace(settings, theme=theme)


def _table(path: Path, data: Mapping[str, object], name: str) -> Mapping[str, object]:
    table = data.get(name, {})
    if not isinstance(table, dict):
        raise SettingsError(f"{path}: {name} must be a table: write [{name}]")
    return table


def _only(path: Path, table: Mapping[str, object], known: set[str], name: str = "") -> None:
    for key in table:
        if key not in known:
            place = f"[{name}] " if name else ""
            raise SettingsError(f"{path}: {place}{key} is unknown; there are {', '.join(sorted(known))}")


def _choice(
    path: Path, table: Mapping[str, object], name: str, key: str, choices: Sequence[str]
) -> str | None:
    value = _value(path, table, key, str)
    if value is not None and value not in choices:
        raise SettingsError(f"{path}: [{name}] {key} must be one of {', '.join(choices)}, not {value!r}")
    return value


def _value(path: Path, table: Mapping[str, object], key: str, kind: type[T]) -> T | None:
    value = table.get(key)
    if value is not None and not isinstance(value, kind):
        raise SettingsError(f"{path}: {key} must be a {'text' if kind is str else 'true or false'}")
    return value
