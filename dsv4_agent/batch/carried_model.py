"""A model behind a server as workers on other machines open it: its profile as a file, its key apart."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from dsv4_agent.backends.profile import Secret, ServerProfile
from dsv4_agent.batch.job import ModelChoice
from dsv4_agent.loop.events import Subtype
from dsv4_agent.workbench.failures import RunFailure
from dsv4_agent.workbench.model_options import ENVIRONMENT, ModelOptions
from dsv4_agent.workbench.model_profiles import API_KEY
from dsv4_agent.workbench.models import choose_model
from dsv4_agent.workbench.private_file import write_private
from dsv4_agent.workbench.server_models import with_key
from dsv4_agent.workbench.settings import FILE
from dsv4_tools.environment import is_secret_name

_SERVED: Final = "served"
"""What the server of DSV4_BASE_URL is called elsewhere, where that variable isn't set."""


@dataclass(frozen=True, slots=True)
class CarriedModel:
    """`configuration` is a config.toml that holds the profile of `choice` and no key.

    `secrets` names the variables that hold keys here: where this environment was inherited they are removed.
    """

    choice: ModelChoice
    base_url: str
    configuration: str
    key: Secret | None = field(repr=False)
    secrets: frozenset[str] = frozenset()

    @classmethod
    def of(cls, choice: ModelChoice) -> CarriedModel:
        """Look the profile and its key up.

        Raises `RunFailure`: 52 for a model that is not behind a server, 41 without the key that it needs.
        """
        name, known = choose_model(ModelOptions(name=choice.name))
        if known is None:
            cause = f"--executor ray needs a model behind a server, and {name} is loaded by each process"
            remedy = (
                "Serve it (dsv4 serve, vLLM, SGLang) where all machines reach it, and name it: "
                "dsv4 model add NAME URL, or DSV4_BASE_URL and --model server."
            )
            raise RunFailure(Subtype.CONFIG, cause, remedy)
        profile = with_key(known)
        name = _SERVED if name == ENVIRONMENT else name
        return cls(
            choice.model_copy(update={"name": name}),
            profile.base_url,
            _configuration(name, profile),
            profile.key,
            frozenset(v for v in os.environ if is_secret_name(v) and not v.startswith("RAY_")),
        )

    @property
    def is_of_this_machine(self) -> bool:
        """Whether its address means another machine on each machine."""
        return is_loopback(urlsplit(self.base_url).hostname or "")

    def unpack(self, folder: Path) -> Mapping[str, str]:
        """Write the configuration into a folder; the variables with which a process finds model and key."""
        write_private(folder / FILE, self.configuration, durable=False)
        key = {} if self.key is None else {API_KEY: self.key.reveal()}
        return {"DSV4_CONFIG_DIR": str(folder), **key}


def is_loopback(host: str) -> bool:
    """Whether a host's name or address means the machine that says it."""
    return host in ("localhost", "::1") or host.startswith("127.")


def _configuration(name: str, profile: ServerProfile) -> str:
    import tomlkit

    given = {f.name: getattr(profile, f.name) for f in fields(profile) if f.name not in ("name", "key")}
    for part in ("timeouts", "prices"):
        given[part] = None if given[part] is None else asdict(given[part])
    key = {} if profile.key is None else {"key_env": API_KEY}
    table = {field: _plain(value) for field, value in given.items() if value is not None}
    return tomlkit.dumps({"models": {name: {**table, **key}}})


def _plain(value: Any) -> Any:
    match value:
        case StrEnum():
            return value.value
        case Path():
            return str(value)
        case Mapping():
            return dict(value)
        case _:
            return value
