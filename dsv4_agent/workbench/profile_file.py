"""Changes to the models in config.toml. Comments, order and everything else stay as the user wrote them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dsv4_agent.workbench.config_file import change_config
from dsv4_agent.workbench.keys import is_kept
from dsv4_agent.workbench.model_profiles import check_name, read_profiles
from dsv4_agent.workbench.settings import FILE, SettingsError, config_directory, load_settings


def add_profile(name: str, table: Mapping[str, object], *, replaces: bool = False) -> Path:
    """Write `[models.NAME]`; returns the file. Raises `SettingsError`, also for a name that is taken."""
    path = config_directory() / FILE
    check_profile(name, table, replaces=replaces)

    def edit(document: Any) -> None:
        import tomlkit
        from tomlkit.items import InlineTable

        if "models" not in document:
            document["models"] = tomlkit.table(is_super_table=True)
        models = document["models"]
        # Within models = {...} there are no tables but such.
        written = tomlkit.inline_table() if isinstance(models, InlineTable) else tomlkit.table()
        for key, value in table.items():
            written[key] = value
        models[name] = written

    change_config(path, edit)
    return path


def check_profile(name: str, table: Mapping[str, object], *, replaces: bool = False) -> None:
    """Raises `SettingsError` where `add_profile` would, but for a file that can't be written."""
    check_name(name)
    path = config_directory() / FILE
    if name in load_settings(path).models and not replaces:
        raise SettingsError(
            f"there is a model {name} already: choose another name, or replace it with --force"
        )
    read_profiles({name: table}, path)


def would_go_elsewhere(name: str, base_url: str) -> bool:
    """Whether a key that is kept under a name was meant for another address. Raises `SettingsError`.

    So after a profile was replaced, or removed by hand: its key lies there still.
    """
    check_name(name)
    if not is_kept(name):
        return False
    known = load_settings(config_directory() / FILE).models.get(name)
    return known is None or _origin(known.profile.base_url) != _origin(base_url)


def _origin(base_url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(base_url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname, port


def remove_profile(name: str) -> bool:
    """Remove `[models.NAME]`, and the default if it was that; whether it was. Raises `SettingsError`."""
    path = config_directory() / FILE
    settings = load_settings(path)
    if name not in settings.models:
        known = ", ".join(sorted(settings.models)) or "none"
        raise SettingsError(f"{path} has no model {name!r}: there is {known}")

    def edit(document: Any) -> None:
        del document["models"][name]
        if not document["models"]:
            del document["models"]
        if settings.model == name:
            del document["model"]
        if settings.chat_model == name:
            del document["chat"]["model"]

    change_config(path, edit)
    return name in (settings.model, settings.chat_model)


def use_model(name: str) -> Path:
    """Make a model the default of chat and run alike. Raises `SettingsError`."""
    path = config_directory() / FILE
    load_settings(path)

    def edit(document: Any) -> None:
        document["model"] = name
        if "chat" in document and "model" in document["chat"]:
            del document["chat"]["model"]  # or the chat would go on with another one

    change_config(path, edit)
    return path
