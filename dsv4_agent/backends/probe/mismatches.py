"""Where a profile and its server don't fit: told before the first turn, or refused where it is hopeless."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from dsv4_agent.backends.base import ModelError
from dsv4_agent.backends.facts import ServerFacts, ServerKind
from dsv4_agent.backends.probe.listing import Listed
from dsv4_agent.backends.profile import ServerProfile, ServerProtocol

_SHOWN: Final = 8
_COMFORTABLE: Final = 32_768
"""Tokens; with less a coding session is compacted all the time."""
_STRICT: Final = frozenset({ServerKind.DSV4, ServerKind.VLLM, ServerKind.SGLANG})
"""Kinds that serve what they list and nothing else; the others load on demand or ignore the name."""


class UnfitServerError(ModelError):
    """A server can't do what the profile wants; the remedy is a change to either."""


def chosen_model(
    profile: ServerProfile, kind: ServerKind, listed: Sequence[Listed], where: str
) -> Listed | None:
    """The listed model that will answer. Raises `UnfitServerError` where none can or the choice is open."""
    if profile.model is not None:
        found = next((model for model in listed if model.name == profile.model), None)
        if found is None and listed and kind in _STRICT:
            raise UnfitServerError(
                f"{where} has no model {profile.model!r}; it has {_names(listed)}: set the profile's model"
            )
        return found or (listed[0] if kind is ServerKind.LLAMA_CPP and listed else None)
    if not listed:
        if kind is ServerKind.LLAMA_CPP:
            return None
        raise UnfitServerError(
            f"{where} doesn't list its models: set the profile's model, and check base_url"
        )
    if len(listed) > 1:
        raise UnfitServerError(f"{where} has several models ({_names(listed)}): set the profile's model")
    return listed[0]


def problems(profile: ServerProfile, facts: ServerFacts, where: str) -> tuple[str, ...]:
    """What the user should know before the first turn; a line each, with its remedy."""
    found: list[str] = []
    if facts.context is not None and profile.context is not None and profile.context > facts.context:
        found.append(
            f"{where} has a window of {facts.context:,} tokens, the profile says {profile.context:,}: "
            "the smaller counts; correct the profile's context or start the server with a larger one"
        )
    window = facts.context or profile.context
    if window is not None and window < _COMFORTABLE:
        found.append(
            f"a window of {window:,} tokens is short for a coding session: start the server with more "
            f"({_window_option(facts.kind)})"
        )
    if profile.dialect is not None and facts.dialect is not None and profile.dialect is not facts.dialect:
        found.append(
            f"the profile says dialect {profile.dialect}, but {facts.model} looks like {facts.dialect}: "
            "correct it unless you know better"
        )
    if facts.tokens_agree is False:
        found.append(
            f"{where} uses another tokenizer than DeepSeek-V4's, so the chat protocol is used: "
            "set the profile's tokenizer to the checkpoint's folder to send tokens"
        )
    spoken = profile.protocol or next(iter(facts.protocols), ServerProtocol.CHAT)
    if facts.tools is False and spoken is ServerProtocol.CHAT:
        found.append(f"{where} can't call tools in chats: {tool_remedy(facts.kind)}")
    if profile.key is not None and _in_clear(profile.base_url):
        found.append(f"the key goes to {where} unencrypted: use https, or a tunnel to this machine")
    return tuple(found)


def tool_remedy(kind: ServerKind) -> str:
    """How a kind of server is started so that it reads tool calls."""
    match kind:
        case ServerKind.VLLM:
            return "start it with --enable-auto-tool-choice --tool-call-parser deepseek_v4"
        case ServerKind.SGLANG:
            return "start it with --tool-call-parser deepseekv4"
        case ServerKind.LLAMA_CPP:
            return "start it with --jinja and a DeepSeek-V4 template"
    return "choose a model and server that support tools"


def thinking_remedy(kind: ServerKind) -> str:
    """How a kind of server is started so that it tells reasoning from the answer."""
    match kind:
        case ServerKind.VLLM:
            return "start it with --reasoning-parser deepseek_v4"
        case ServerKind.SGLANG:
            return "start it with --reasoning-parser deepseek-v4"
    return "the agent tells them apart by itself where it can"


def _window_option(kind: ServerKind) -> str:
    match kind:
        case ServerKind.VLLM:
            return "--max-model-len"
        case ServerKind.SGLANG:
            return "--context-length"
        case ServerKind.LLAMA_CPP:
            return "-c, which is divided by -np"
    return "its option for the context length"


def _names(listed: Sequence[Listed]) -> str:
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(model.name for model in listed[:_SHOWN]) + more


def _in_clear(base_url: str) -> bool:
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    if parts.scheme != "http" or host == "localhost":
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True
