"""Changes to the models in config.toml. Comments, order and everything else stay as the user wrote them."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dsv4_agent.workbench.model_profiles import check_name, read_profiles
from dsv4_agent.workbench.private_file import write_private
from dsv4_agent.workbench.settings import FILE, SettingsError, config_directory, load_settings

Edit = Callable[[Any], None]


def add_profile(name: str, table: Mapping[str, object], *, replaces: bool = False) -> Path:
    """Write `[models.NAME]`; returns the file. Raises `SettingsError`, also for a name that is taken."""
    check_name(name)
    path = config_directory() / FILE
    if name in load_settings(path).models and not replaces:
        raise SettingsError(
            f"there is a model {name} already: choose another name, or replace it with --force"
        )
    read_profiles({name: table}, path)

    def edit(document: Any) -> None:
        import tomlkit

        written = tomlkit.table()
        for key, value in table.items():
            written[key] = value
        if "models" not in document:
            document["models"] = tomlkit.table(is_super_table=True)
        document["models"][name] = written

    return _change(path, edit)


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

    _change(path, edit)
    return name in (settings.model, settings.chat_model)


def use_model(name: str) -> Path:
    """Make a model the default of chat and run alike. Raises `SettingsError`."""
    path = config_directory() / FILE
    load_settings(path)

    def edit(document: Any) -> None:
        document["model"] = name
        if "chat" in document and "model" in document["chat"]:
            del document["chat"]["model"]  # or the chat would go on with another one

    return _change(path, edit)


def _change(path: Path, edit: Edit) -> Path:
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        document = tomlkit.parse(path.read_text(encoding="utf-8")) if path.exists() else tomlkit.document()
        edit(document)
        text = tomlkit.dumps(document)
        tomllib.loads(text)
        write_private(path, text)
    except (OSError, ValueError, TOMLKitError) as error:
        raise SettingsError(f"{path} can't be written: {error}") from error
    return path
