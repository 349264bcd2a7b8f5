"""Every server that a profile names, asked what it is; all at once, so that one dead server costs no time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

from dsv4_agent.backends.base import ModelError
from dsv4_agent.backends.http.client import ServerClient
from dsv4_agent.backends.probe.light import probe, protocol_of
from dsv4_agent.workbench.doctor import Examined
from dsv4_agent.workbench.failures import RunFailure
from dsv4_agent.workbench.findings import Finding, Grade
from dsv4_agent.workbench.model_profiles import KnownProfile, Origin, all_profiles
from dsv4_agent.workbench.remembered_facts import forget
from dsv4_agent.workbench.server_findings import server_findings
from dsv4_agent.workbench.server_models import failure_of, with_key
from dsv4_agent.workbench.settings import Settings, SettingsError

_PATIENCE = 10.0
"""Seconds to connect and to answer: an examination isn't a task that waits for a sleeping server."""


async def examine_models(
    settings: Settings, environment: Mapping[str, str], only: str | None = None
) -> list[Examined]:
    """The servers of configuration and environment; the built-in one where it is named or has a key."""
    try:
        profiles = all_profiles(settings.models, environment)
    except SettingsError as error:
        return [Examined("server", (Finding("settings", Grade.PROBLEM, str(error)),))]
    if only is not None and only not in profiles:
        remedy = f"There are {', '.join(sorted(profiles))}"
        return [Examined(only, (Finding("model", Grade.PROBLEM, f"there is no server {only!r}", remedy),))]
    wanted = [
        known
        for name, known in profiles.items()
        if (name == only if only is not None else _counts(known, settings, environment))
    ]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_examine(known)) for known in wanted]
    return [task.result() for task in tasks]


def _counts(known: KnownProfile, settings: Settings, environment: Mapping[str, str]) -> bool:
    if known.origin is not Origin.BUILT_IN:
        return True
    named = known.profile.name in (settings.model, settings.chat_model)
    return named or bool(known.key_env and environment.get(known.key_env))


async def _examine(known: KnownProfile) -> Examined:
    name = known.profile.name
    try:
        profile = await asyncio.to_thread(with_key, known)
        forget(profile)  # or the next start would not see what is found here
        patience = min(_PATIENCE, profile.timeouts.connect)
        client = ServerClient(replace(profile, timeouts=replace(profile.timeouts, connect=patience)))
        try:
            facts = (await probe(profile, client)).facts
        finally:
            await client.aclose()
    except ModelError as error:
        return Examined(name, (_failed(failure_of(error, known.profile)),))
    except RunFailure as failure:
        return Examined(name, (_failed(failure),))
    return Examined(name, tuple(server_findings(profile, facts, protocol_of(profile, facts))))


def _failed(failure: RunFailure) -> Finding:
    return Finding("server", Grade.PROBLEM, failure.cause.rstrip("."), failure.remedy.rstrip("."))
