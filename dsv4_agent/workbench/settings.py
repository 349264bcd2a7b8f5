"""The user's own settings: one TOML file in the user's configuration folder, never one of a repository.

[tui]
theme = "dsv4-dark"          # dsv4-light, dsv4-contrast
reduced_motion = false
[chat]
model = "nano"
permission_mode = "default"
[keys]
"app.cycle_mode" = "shift+tab"
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import platformdirs

from dsv4_agent.workbench.private_file import write_private

FILE = "config.toml"
T = TypeVar("T", str, bool)


class SettingsError(Exception):
    """The file can't be read or says something unknown; one line with the cause and the remedy."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user prefers. None means: the program's default."""

    theme: str | None = None
    reduced_motion: bool = False
    model: str | None = None
    permission_mode: str | None = None
    keys: Mapping[str, str] = field(default_factory=dict)


def config_directory() -> Path:
    """Where settings live: DSV4_CONFIG_DIR, else the platform's configuration folder."""
    override = os.environ.get("DSV4_CONFIG_DIR")
    return Path(override) if override else Path(platformdirs.user_config_dir("dsv4", appauthor=False))


def load_settings(path: Path | None = None) -> Settings:
    """Read the file; no file means defaults. Raises `SettingsError`."""
    path = config_directory() / FILE if path is None else path
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Settings()
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} can't be read: {error}; mend or remove it") from error
    tui, chat = _table(path, data, "tui"), _table(path, data, "chat")
    keys = _table(path, data, "keys")
    _only(path, data, {"tui", "chat", "keys"})
    _only(path, tui, {"theme", "reduced_motion"}, "tui")
    _only(path, chat, {"model", "permission_mode"}, "chat")
    return Settings(
        theme=_value(path, tui, "theme", str),
        reduced_motion=_value(path, tui, "reduced_motion", bool) or False,
        model=_value(path, chat, "model", str),
        permission_mode=_value(path, chat, "permission_mode", str),
        keys={name: key for name in keys if (key := _value(path, keys, name, str)) is not None},
    )


def save_theme(theme: str, path: Path | None = None) -> Settings:
    """Remember the theme, leaving the rest of the file, comments included, as it is.

    Raises `SettingsError`.
    """
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    path = config_directory() / FILE if path is None else path
    settings = load_settings(path)
    try:
        document = tomlkit.parse(path.read_text(encoding="utf-8")) if path.exists() else tomlkit.document()
        table = document.setdefault("tui", tomlkit.table())
        table["theme"] = theme
        write_private(path, tomlkit.dumps(document))
    except (OSError, ValueError, TOMLKitError) as error:
        raise SettingsError(f"{path} can't be written: {error}") from error
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


def _value(path: Path, table: Mapping[str, object], key: str, kind: type[T]) -> T | None:
    value = table.get(key)
    if value is not None and not isinstance(value, kind):
        raise SettingsError(f"{path}: {key} must be a {'text' if kind is str else 'true or false'}")
    return value
