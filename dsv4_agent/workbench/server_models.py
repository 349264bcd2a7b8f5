"""A model behind a server: the key is found, the server asked what it is, the matching backend made."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from dsv4_agent.backends.base import Backend, ModelError
from dsv4_agent.backends.completions.tokens import OwnTokens
from dsv4_agent.backends.facts import ServerFacts, ServerKind
from dsv4_agent.backends.http.client import ServerClient
from dsv4_agent.backends.probe.agreement import tokenizer_of
from dsv4_agent.backends.probe.light import Probed, probe, protocol_of
from dsv4_agent.backends.profile import ServerProfile, ServerProtocol
from dsv4_agent.dsml.dialect import Thinking, effort_prefix
from dsv4_agent.dsml.errors import InvalidEffortError
from dsv4_agent.loop.events import Subtype
from dsv4_agent.loop.preset import Preset, default_preset, nano_preset
from dsv4_agent.workbench.failures import RunFailure
from dsv4_agent.workbench.keys import KeyRefused, find_key
from dsv4_agent.workbench.model_options import NANO, Effort, ModelOptions
from dsv4_agent.workbench.model_profiles import KnownProfile, Origin
from dsv4_agent.workbench.opened_model import OpenedModel, with_options
from dsv4_agent.workbench.processes import hide_memory
from dsv4_agent.workbench.recalled_backend import RecalledBackend
from dsv4_agent.workbench.remembered_facts import recall, remember

_LEAST_WINDOW: Final = {NANO: 2_048}
_USUAL_LEAST: Final = 8_192
"""Tokens: the system prompt and the tools take half of it."""
_MAX_EFFORT_WINDOW: Final = 393_216
_NO_SWITCH: Final = frozenset({ServerKind.TRANSFORMERS, ServerKind.OPENAI})
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ServerModel:
    """A server as it is to be used: the profile with its key and what the server added to it."""

    profile: ServerProfile
    probed: Probed

    @property
    def facts(self) -> ServerFacts:
        return self.probed.facts

    @property
    def protocol(self) -> ServerProtocol:
        return protocol_of(self.profile, self.facts)


def open_server(known: KnownProfile, options: ModelOptions) -> OpenedModel:
    """Find out what the server is and make the backend for it; no token is sampled.

    Raises `RunFailure`: 41 where it can't be reached or refuses the key, 52 where it doesn't fit the profile.
    """
    profile = with_key(known)
    if (facts := recall(profile)) is None:
        return open_probed(ServerModel(profile, _asked(profile)), options)
    opened = open_probed(ServerModel(profile, Probed(facts)), options)
    return replace(opened, backend=RecalledBackend(opened.backend, profile))


def open_probed(server: ServerModel, options: ModelOptions) -> OpenedModel:
    """The backend and preset for a server whose facts are known. Raises `RunFailure` (52)."""
    facts, profile = server.facts, server.profile
    preset = _preset(server)
    window = min((size for size in (facts.context, profile.context) if size is not None), default=None)
    least = _LEAST_WINDOW.get(preset.name, _USUAL_LEAST)
    if window is not None and window < least:
        cause = f"model {profile.name} has a window of {window:,} tokens, and the agent needs {least:,}"
        raise RunFailure(Subtype.CONFIG, cause, "Start the server with a larger context.")
    # What the command line may override stands in the preset alone.
    bare = replace(profile, context=window, temperature=None, top_p=None, min_p=None, max_tokens=None)
    try:
        backend = _backend(replace(server, profile=replace(bare, effort=None)))
    except ModelError as error:
        raise RunFailure(Subtype.CONFIG, str(error)) from error
    opened = with_options(backend, preset, options)
    notes = (*facts.problems, *_effort_notes(server, opened.preset, window), *opened.notes)
    return replace(opened, notes=notes)


def with_key(known: KnownProfile) -> ServerProfile:
    """The profile with its key, if there is one. Raises `RunFailure` (41) for one that can't be used."""
    try:
        found = find_key(known.profile.name, known.key_env, os.environ)
    except KeyRefused as error:
        raise RunFailure(Subtype.AUTH, str(error)) from error
    if found is None:
        if known.key_env is not None and known.origin is not Origin.ENVIRONMENT:
            cause = f"model {known.profile.name} has no key: {known.key_env} isn't set, and none is kept"
            raise RunFailure(Subtype.AUTH, cause, f"Set {known.key_env}.")
        return known.profile
    hide_memory()
    return replace(known.profile, key=found.secret)


def failure_of(error: ModelError, profile: ServerProfile) -> RunFailure:
    """How a run ends that can't begin because of a server."""
    cause, _, remedy = str(error).rpartition("; ")
    subtype = Subtype.AUTH if error.unreachable else Subtype.CONFIG
    if not cause:
        return RunFailure(subtype, f"model {profile.name}: {error}")
    remedy = f"{remedy[:1].upper()}{remedy[1:]}"
    stop = "" if remedy.endswith(("?", ".")) else "."
    return RunFailure(subtype, f"model {profile.name}: {cause}", f"{remedy}{stop}")


def await_here(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, whether or not an event loop runs in this thread already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1, thread_name_prefix="dsv4-probe") as apart:
        return apart.submit(asyncio.run, work).result()


def _asked(profile: ServerProfile) -> Probed:
    try:
        probed = await_here(_probe(profile))
    except ModelError as error:
        raise failure_of(error, profile) from error
    if probed.lasting:
        remember(profile, probed.facts)
    return probed


async def _probe(profile: ServerProfile) -> Probed:
    client = ServerClient(profile)
    try:
        return await probe(profile, client)
    finally:
        await client.aclose()


def _backend(server: ServerModel) -> Backend:
    facts, profile = server.facts, server.profile
    if server.protocol is ServerProtocol.CHAT:
        from dsv4_agent.backends.chat_server.backend import ChatServerBackend

        return ChatServerBackend(profile, facts)
    from dsv4_agent.backends.completions.backend import CompletionsBackend

    profile = replace(profile, tokenizer=tokenizer_of(profile, facts.preset, facts.model))
    tokens = server.probed.tokens
    return CompletionsBackend(profile, facts, tokens=tokens if isinstance(tokens, OwnTokens) else None)


def _preset(server: ServerModel) -> Preset:
    """The preset that the profile names, else the model's, with the profile's sampling and effort."""
    facts, profile = server.facts, server.profile
    nano = tokenizer_of(replace(profile, tokenizer=None), facts.preset, facts.model) == NANO
    preset = nano_preset() if nano else default_preset()
    preset = replace(
        preset,
        dialect=profile.dialect or facts.dialect or preset.dialect,
        temperature=preset.temperature if profile.temperature is None else profile.temperature,
        top_p=preset.top_p if profile.top_p is None else profile.top_p,
        min_p=preset.min_p if profile.min_p is None else profile.min_p,
        max_tokens_per_turn=profile.max_tokens or preset.max_tokens_per_turn,
    )
    effort = profile.effort
    if effort is None or nano:
        return preset
    if effort == Effort.OFF:
        return replace(preset, thinking=Thinking.CHAT)
    if server.protocol is ServerProtocol.TOKENS:
        try:
            effort_prefix(effort, preset.dialect)
        except InvalidEffortError as error:
            raise RunFailure(Subtype.CONFIG, f"model {profile.name}: {error}", "Correct effort.") from error
    return replace(preset, effort=effort)


def _effort_notes(server: ServerModel, preset: Preset, window: int | None) -> tuple[str, ...]:
    if preset.thinking is Thinking.CHAT:
        fixed = server.protocol is ServerProtocol.CHAT and server.facts.kind in _NO_SWITCH
        note = "this kind of server can't be told whether to think: effort off has no effect"
        return (note,) if fixed else ()
    if preset.effort == Effort.MAX and window is not None and window < _MAX_EFFORT_WINDOW:
        return (f"effort max was trained for windows of {_MAX_EFFORT_WINDOW:,} tokens, here are {window:,}",)
    return ()
