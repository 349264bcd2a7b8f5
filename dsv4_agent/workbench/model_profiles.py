"""Profiles of models behind servers: the `[models.NAME]` tables of the user's config.toml, and two more.

`server` is described by environment variables alone, `deepseek` (the hosted API) is built in and used only
when it is named. A profile never holds a key, only the name of the variable that does: see `keys`. Nothing of
a repository can make or change a profile.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from dsv4_agent.backends.profile import Prices, ServerProfile, ServerProtocol
from dsv4_agent.dsml.dialect import Dialect
from dsv4_agent.workbench.model_options import BUILT_IN, ENVIRONMENT, NANO
from dsv4_agent.workbench.profile_table import ProfileTable
from dsv4_agent.workbench.settings_error import SettingsError

BASE_URL: Final = "DSV4_BASE_URL"
API_KEY: Final = "DSV4_API_KEY"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KEYS: Final = frozenset({"key", "api_key", "apikey", "token", "secret", "password", "bearer"})
_KEY_HEADERS: Final = frozenset({"authorization", "proxy-authorization", "x-api-key", "api-key", "cookie"})
_KEY_REMEDY: Final = (
    'a key never stands in this file: name a variable with key_env = "NAME", or run '
    "dsv4 model add NAME URL --key-stdin, which puts it into the keyring or a file of mode 0600"
)
_VARIABLES: Final = {
    "model": "DSV4_SERVER_MODEL",
    "protocol": "DSV4_SERVER_PROTOCOL",
    "dialect": "DSV4_SERVER_DIALECT",
    "preset": "DSV4_SERVER_PRESET",
    "tokenizer": "DSV4_SERVER_TOKENIZER",
    "context": "DSV4_SERVER_CONTEXT",
    "effort": "DSV4_SERVER_EFFORT",
}


class Origin(StrEnum):
    """Where a profile comes from."""

    CONFIG = "config"
    ENVIRONMENT = "environment"
    BUILT_IN = "built-in"


@dataclass(frozen=True, slots=True)
class KnownProfile:
    """A profile without its key, and the variable that may hold one."""

    profile: ServerProfile
    key_env: str | None
    origin: Origin


def check_name(name: str) -> None:
    """Raises `SettingsError` for a name that is taken or could be read as something else."""
    if not _NAME.fullmatch(name):
        raise SettingsError(
            f"{name!r} can't name a model: use letters, digits, dots, dashes and underscores, 64 at most"
        )
    if name.lower() in (NANO, ENVIRONMENT):
        what = "the built-in model" if name.lower() == NANO else f"the server of {BASE_URL}"
        raise SettingsError(f"a model can't be called {name}: that is {what}; choose another name")


def read_profiles(tables: Mapping[str, object], file: Path) -> dict[str, KnownProfile]:
    """The profiles of `[models]`. Raises `SettingsError` naming file, table and key."""
    profiles: dict[str, KnownProfile] = {}
    for name, table in tables.items():
        try:
            check_name(name)
        except SettingsError as error:
            raise SettingsError(f"{file}: [models.{name}]: {error}") from None
        if not isinstance(table, Mapping):
            raise SettingsError(f"{file}: models.{name} must be a table: write [models.{name}]")
        profiles[name] = _profile(name, table, f"{file}: [models.{name}]", Origin.CONFIG)
    return profiles


def environment_profile(environment: Mapping[str, str]) -> KnownProfile | None:
    """The profile of `DSV4_BASE_URL` and its companions; None without it. Raises `SettingsError`."""
    if not environment.get(BASE_URL):
        return None
    table: dict[str, object] = {"base_url": environment[BASE_URL]}
    for key, variable in _VARIABLES.items():
        if value := environment.get(variable, "").strip():
            table[key] = int(value) if key == "context" and value.isdecimal() else value
    place = f"the environment ({BASE_URL}, {', '.join(_VARIABLES.values())})"
    found = _profile(ENVIRONMENT, table, place, Origin.ENVIRONMENT)
    return KnownProfile(found.profile, API_KEY, Origin.ENVIRONMENT)


def built_in_profile() -> KnownProfile:
    """DeepSeek's hosted API. Prices in USD a million tokens, off-peak; peak hours cost twice as much."""
    profile = ServerProfile(
        name=BUILT_IN,
        base_url="https://api.deepseek.com",
        protocol=ServerProtocol.CHAT,
        model="deepseek-v4-pro",
        dialect=Dialect.V4_0731,
        context=1_048_576,
        prices=Prices(hit=0.022, miss=0.66, output=1.98),
    )
    return KnownProfile(profile, "DEEPSEEK_API_KEY", Origin.BUILT_IN)


def all_profiles(
    configured: Mapping[str, KnownProfile], environment: Mapping[str, str]
) -> dict[str, KnownProfile]:
    """Every profile that `--model` knows; the user's own `deepseek` replaces the built-in one.

    Raises `SettingsError`.
    """
    found = environment_profile(environment)
    own = {} if found is None else {ENVIRONMENT: found}
    return {**configured, **own, **({} if BUILT_IN in configured else {BUILT_IN: built_in_profile()})}


def key_variables(profiles: Iterable[KnownProfile]) -> frozenset[str]:
    """Variables that hold keys: no tool may see them."""
    return frozenset(profile.key_env for profile in profiles if profile.key_env is not None)


def _profile(name: str, table: Mapping[str, object], place: str, origin: Origin) -> KnownProfile:
    _refuse_keys(table, place)
    try:
        read = ProfileTable.model_validate(dict(table))
    except ValidationError as error:
        raise SettingsError(f"{place} {_first(error)}") from None
    return KnownProfile(read.profile(name), read.key_env, origin)


def _refuse_keys(table: Mapping[str, object], place: str) -> None:
    for key in table:
        if key.lower().replace("-", "_") in _KEYS:
            raise SettingsError(f"{place} {key}: {_KEY_REMEDY}")
    headers = table.get("headers")
    for header in headers if isinstance(headers, Mapping) else ():
        if str(header).strip().lower() in _KEY_HEADERS:
            raise SettingsError(f"{place} headers.{header}: {_KEY_REMEDY}")


def _first(error: ValidationError) -> str:
    """The first mistake, in the words of the file; its value stays unsaid, for it may be a secret."""
    mistake: Any = error.errors(include_url=False, include_input=False)[0]
    *tables, key = (str(part) for part in mistake["loc"])
    where = ".".join([*tables, key])
    if mistake["type"] == "extra_forbidden":
        return f"{where} is unknown; there are {', '.join(ProfileTable.known(tables))}"
    if mistake["type"] == "missing":
        return f"{where} is missing"
    words = str(mistake["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
    return f"{where} must be {words}"
