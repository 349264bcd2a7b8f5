"""The models that `--model` knows by name: built in, from profiles, and served on this machine already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from dsv4_agent.loop.events import Subtype
from dsv4_agent.workbench.failures import RunFailure
from dsv4_agent.workbench.keys import KeyRefused, find_key
from dsv4_agent.workbench.local_servers import living_servers
from dsv4_agent.workbench.model_options import NANO, SCRIPTED, is_folder
from dsv4_agent.workbench.model_profiles import KnownProfile, Origin, all_profiles
from dsv4_agent.workbench.settings import SettingsError, load_settings


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """One model. `what` is its kind, `where` its address, `key` where its key is; never the key itself."""

    name: str
    what: str
    where: str = ""
    key: str = ""
    default: bool = False

    def as_data(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def catalogue(environment: Mapping[str, str]) -> list[CatalogueEntry]:
    """All of them, V4-Nano first. Raises `SettingsError`."""
    settings = load_settings()
    default = settings.model or NANO
    entries = [CatalogueEntry(NANO, "built in", default=default == NANO)]
    for name, known in all_profiles(settings.models, environment).items():
        model = known.profile.model
        where = known.profile.base_url + (f" ({model})" if model else "")
        what = {Origin.CONFIG: "server", Origin.ENVIRONMENT: "server of DSV4_BASE_URL"}.get(
            known.origin, "server, built in"
        )
        entries.append(CatalogueEntry(name, what, where, key_place(known, environment), default == name))
    for server in living_servers():
        entries.append(CatalogueEntry(server.identity, "served here", server.url))
    if all(not entry.default for entry in entries):
        entries.append(CatalogueEntry(default, "folder" if is_folder(default) else "missing", default=True))
    return entries


def key_place(known: KnownProfile, environment: Mapping[str, str]) -> str:
    """Where the key of a profile is, or what is wrong with it; empty for a server that needs none."""
    try:
        found = find_key(known.profile.name, known.key_env, environment)
    except KeyRefused as error:
        return str(error)
    if found is not None:
        return f"key: {found.place}"
    return (
        f"no key: {known.key_env} isn't set"
        if known.key_env and known.origin is not Origin.ENVIRONMENT
        else ""
    )


def is_known(name: str, environment: Mapping[str, str]) -> bool:
    """Whether `--model` takes a name. Raises `SettingsError`."""
    if name == NANO or name.startswith(SCRIPTED) or is_folder(name):
        return True
    return name in all_profiles(load_settings().models, environment)


def anywhere(name: str, environment: Mapping[str, str]) -> str:
    """A known name as it means the same in every working directory. Raises `SettingsError`."""
    if name == NANO or name in all_profiles(load_settings().models, environment):
        return name
    if name.startswith(SCRIPTED):
        return f"{SCRIPTED}{Path(name.removeprefix(SCRIPTED)).resolve()}"
    return str(Path(name).resolve())


def find_profile(name: str, environment: Mapping[str, str]) -> KnownProfile:
    """The profile of a name. Raises `RunFailure` (52) for what is no server's."""
    try:
        profiles = all_profiles(load_settings().models, environment)
    except SettingsError as error:
        raise RunFailure(Subtype.CONFIG, str(error)) from error
    if name not in profiles:
        known = ", ".join(sorted(profiles))
        raise RunFailure(Subtype.CONFIG, f"there is no server {name!r}", f"There are {known}.")
    return profiles[name]
