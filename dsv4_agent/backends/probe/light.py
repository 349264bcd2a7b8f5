"""The probe of every start: `/v1/models`, then what only this kind of server tells, all at once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlsplit

from dsv4_agent.backends.completions.tokens import SegmentTokens
from dsv4_agent.backends.facts import ServerFacts, ServerKind
from dsv4_agent.backends.http.client import ServerClient
from dsv4_agent.backends.http.errors import ServerError
from dsv4_agent.backends.probe.agreement import own_tokens, tokens_agree
from dsv4_agent.backends.probe.listing import Listed, dialect_of, mapping, name, read_listing, tokens
from dsv4_agent.backends.probe.mismatches import UnfitServerError, chosen_model, problems
from dsv4_agent.backends.profile import ServerProfile, ServerProtocol

_SECONDS: Final = 20.0
_HOSTED_WINDOW: Final = 1_048_576
_BROKEN_LIST: Final = 500
_NOT_ALLOWED: Final = 405  # the path is there, for another method


@dataclass(frozen=True, slots=True)
class Probed:
    """What was found; `tokens` is the tokenizer where the token protocol is to be spoken.

    `lasting`: worth remembering; not so where the server could not answer just then.
    """

    facts: ServerFacts
    tokens: SegmentTokens | None = None
    lasting: bool = True


async def probe(profile: ServerProfile, client: ServerClient) -> Probed:
    """Ask a server what it is. Two round trips at most; the hosted API is known and asked nothing.

    Raises `ServerError` for a server that can't be reached or refuses the key, `UnfitServerError` for one
    that can't do what the profile wants, `ModelError` for a tokenizer that can't be had.
    """
    if _is_hosted(profile):
        return Probed(_hosted(profile))
    listed, failure = await _listing(client)
    if failure is not None and profile.model is None and _tells_more(failure):
        raise failure
    kind = next((model.kind for model in listed if model.kind is not None), None)
    kind = kind or await _unlisted_kind(client)
    chosen = chosen_model(profile, kind, listed, client.where)
    model = profile.model or (None if chosen is None else chosen.name)
    own = own_tokens(client, kind, None if chosen is None else chosen.preset, model)
    agree, facts = await asyncio.gather(
        tokens_agree(own, client, kind, model, _SECONDS),
        _by_kind(client, _facts(kind, listed, chosen, model)),
    )
    facts = replace(facts, tokens_agree=agree)
    if profile.protocol is ServerProtocol.TOKENS and agree is False:
        raise UnfitServerError(
            f"{client.where} uses another tokenizer than ours: set the profile's tokenizer to the "
            'checkpoint\'s folder or to "server", or its protocol to "chat"'
        )
    speaks_tokens = profile.protocol is ServerProtocol.TOKENS or (own is not None and agree is True)
    protocols = (ServerProtocol.TOKENS,) if speaks_tokens else ()
    facts = replace(facts, protocols=(*protocols, ServerProtocol.CHAT))
    facts = replace(facts, problems=problems(profile, facts, client.where))
    lasting = failure is None or not failure.retryable
    return Probed(facts, own if speaks_tokens else None, lasting)


def protocol_of(profile: ServerProfile, facts: ServerFacts) -> ServerProtocol:
    """How to speak to a server: as the profile says, else by tokens where that is sure to work."""
    if profile.protocol is not None:
        return profile.protocol
    return next(iter(facts.protocols), ServerProtocol.CHAT)


def _is_hosted(profile: ServerProfile) -> bool:
    host = urlsplit(profile.base_url).hostname or ""
    return host == "deepseek.com" or host.endswith(".deepseek.com")


def _hosted(profile: ServerProfile) -> ServerFacts:
    facts = ServerFacts(
        kind=ServerKind.DEEPSEEK,
        model=profile.model,
        context=_HOSTED_WINDOW,
        dialect=None if profile.model is None else dialect_of(profile.model),
        preset="default",
        protocols=(ServerProtocol.CHAT,),
        thinks=True,
        tools=True,
        returns_ids=False,
        reports_cache=True,
    )
    if profile.protocol is ServerProtocol.TOKENS:
        raise UnfitServerError("DeepSeek's API takes no tokens: set the profile's protocol to \"chat\"")
    if profile.model is None:
        raise UnfitServerError(
            'the profile names no model: set model = "deepseek-v4-pro" or another of the API'
        )
    return replace(facts, problems=problems(profile, facts, "DeepSeek's API"))


async def _listing(client: ServerClient) -> tuple[tuple[Listed, ...], ServerError | None]:
    """The models; none for a server without (or, as transformers may, with a broken) list, and why."""
    try:
        return read_listing(await client.get_json("models", seconds=_SECONDS)), None
    except ServerError as error:
        if error.status in (401, 402, 403) or (error.status is None and error.reason != "not_json"):
            raise
        return (), error


def _tells_more(failure: ServerError) -> bool:
    """Whether a list's failure is the cause to name: a server that loads or lies elsewhere, a web page.

    A status of 404 or 500 only says that there is no list.
    """
    status = failure.status
    return status is None or 300 <= status < 400 or (failure.retryable and status != _BROKEN_LIST)


async def _unlisted_kind(client: ServerClient) -> ServerKind:
    """The kind of a server whose list doesn't tell. `transformers serve` has a path of its own, for POST."""
    try:
        await client.get_json("/load_model", seconds=_SECONDS)
    except ServerError as error:
        if error.status == _NOT_ALLOWED:
            return ServerKind.TRANSFORMERS
    return ServerKind.OPENAI


def _facts(
    kind: ServerKind, listed: tuple[Listed, ...], chosen: Listed | None, model: str | None
) -> ServerFacts:
    names = tuple(entry.name for entry in listed)
    facts = ServerFacts(kind=kind, model=model, models=names)
    if model is not None:
        facts = replace(facts, dialect=dialect_of(model))
    if chosen is None:
        return facts
    return replace(
        facts,
        version=chosen.version,
        context=chosen.context,
        dialect=chosen.dialect or facts.dialect,
        preset=chosen.preset,
    )


async def _by_kind(client: ServerClient, facts: ServerFacts) -> ServerFacts:
    """What is known of a kind without asking, and what llama.cpp tells of its slots."""
    match facts.kind:
        case ServerKind.DSV4:
            return replace(facts, tools=True, returns_ids=True, reports_cache=True, thinks=True)
        case ServerKind.DS4:
            return replace(facts, tools=True, returns_ids=False, thinks=True)
        case ServerKind.TRANSFORMERS:
            return replace(facts, returns_ids=False, reports_cache=False)
        case ServerKind.LLAMA_CPP:
            return await _slots(client, replace(facts, returns_ids=True, reports_cache=True, thinks=True))
    return facts


async def _slots(client: ServerClient, facts: ServerFacts) -> ServerFacts:
    """The window that one request gets: llama.cpp divides what `-c` says among its slots."""
    try:
        props = mapping(await client.get_json("/props", seconds=_SECONDS))
    except ServerError:
        return facts
    settings = mapping(props.get("default_generation_settings"))
    can = mapping(props.get("chat_template_caps")).get("supports_tools")
    return replace(
        facts,
        version=name(props.get("build_info")),
        context=tokens(settings.get("n_ctx")) or tokens(props.get("n_ctx")) or facts.context,
        tools=can if isinstance(can, bool) else None,
    )
