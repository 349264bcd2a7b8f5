"""A model that a `dsv4 serve` of this user holds already: used as if it were in this process, but at once."""

from __future__ import annotations

from dataclasses import replace
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from dsv4_agent.backends.completions.tokens import DEEPSEEK, OwnTokens
from dsv4_agent.backends.facts import ServerFacts, ServerKind
from dsv4_agent.backends.probe.light import Probed
from dsv4_agent.backends.profile import Secret, ServerProfile, ServerProtocol
from dsv4_agent.dsml.dialect import Dialect
from dsv4_agent.workbench.engine_settings import resolved
from dsv4_agent.workbench.local_servers import LocalServer, find_server
from dsv4_agent.workbench.model_options import NANO, ModelOptions
from dsv4_agent.workbench.opened_model import OpenedModel

_PATIENCE: Final = 2.0  # seconds
_DIALECTS: Final = frozenset(map(str, Dialect))  # another version's server may speak one that is unknown here


def open_warm(name: str, options: ModelOptions) -> OpenedModel | None:
    """The model of a running server with these weights; None where there is none that does as well.

    Who says how the engine is to run wants one of his own. Raises `RunFailure` as any model does.
    """
    engine = options.engine
    if not options.local_server or any((engine.threads, engine.memory_budget, engine.device)):
        return None
    choice = resolved(engine)
    server = find_server(name, None if choice.cache_format is None else choice.cache_format.value)
    if server is None or server.dialect not in _DIALECTS or not _answers(server):
        return None
    try:
        from dsv4_agent.backends.completions.backend import CompletionsBackend
        from dsv4_agent.workbench.server_models import ServerModel, open_probed
        from dsv4_agent.workbench.warm_backend import WarmBackend

        tokens = _tokens(name)
    except ImportError:
        return None
    if tokens is None or tokens.tokenizer.fingerprint != server.tokenizer:
        return None
    opened = open_probed(ServerModel(_profile(name, server), Probed(_facts(server), tokens)), options)
    assert isinstance(opened.backend, CompletionsBackend), "tokens are asked of it"
    note = f"the model is that of the running server at {server.url} (--no-server loads it here)"
    return replace(opened, backend=WarmBackend(opened.backend, server.url), notes=(note, *opened.notes))


def _answers(server: LocalServer) -> bool:
    """Whether someone is at work there: a process can live and be stopped, or hang."""
    try:
        where = urlsplit(server.url)
        connection = HTTPConnection(where.hostname or "", where.port, timeout=_PATIENCE)
    except ValueError:
        return False
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == HTTPStatus.OK
    except (OSError, HTTPException, ValueError):
        return False
    finally:
        connection.close()


def _tokens(name: str) -> OwnTokens | None:
    """The tokenizer of the weights themselves."""
    from dsv4_model.tokenizer import Tokenizer, TokenizerError

    try:
        if name == NANO:
            from dsv4_model.nano import WEIGHTS

            return OwnTokens(Tokenizer.from_file(WEIGHTS / "tokenizer.json"))
        own = Path(name) / "tokenizer.json"
        return OwnTokens(Tokenizer.from_file(own) if own.is_file() else Tokenizer.deepseek_v4())
    except TokenizerError:
        return None


def _profile(name: str, server: LocalServer) -> ServerProfile:
    own = NANO if name == NANO else name
    has_own = name == NANO or (Path(name) / "tokenizer.json").is_file()
    return ServerProfile(
        name=name,
        base_url=server.url,
        protocol=ServerProtocol.TOKENS,
        model=server.model,
        dialect=Dialect(server.dialect),
        preset=server.preset,
        context=server.context_window,
        tokenizer=own if has_own else DEEPSEEK,
        key=None if server.token is None else Secret(server.token),
    )


def _facts(server: LocalServer) -> ServerFacts:
    return ServerFacts(
        kind=ServerKind.DSV4,
        model=server.model,
        models=(server.model,),
        context=server.context_window,
        dialect=Dialect(server.dialect),
        preset=server.preset,
        protocols=(ServerProtocol.TOKENS, ServerProtocol.CHAT),
        tokens_agree=True,
        tools=True,
        returns_ids=True,
        reports_cache=True,
    )
