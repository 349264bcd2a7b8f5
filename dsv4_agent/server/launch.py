"""`dsv4 serve` from its options to its exit code."""

from __future__ import annotations

import logging
import os
import sys
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING

from dsv4_agent.loop.events import Subtype
from dsv4_agent.server.options import ServeOptions
from dsv4_agent.workbench.engine_settings import resolved
from dsv4_agent.workbench.exit_codes import ExitCode, OwnSubtype
from dsv4_agent.workbench.failures import RunFailure
from dsv4_agent.workbench.local_servers import LocalServer, announced, identity_of
from dsv4_agent.workbench.plain_text import plain_line

if TYPE_CHECKING:
    from dsv4_agent.server.service import Service

__all__ = ["execute"]

_PACKAGES = frozenset({"starlette", "uvicorn", "prometheus_client"})


def execute(options: ServeOptions) -> int:
    """Serve until a signal comes. One line on stdout says where; what went wrong is one line on stderr."""
    logging.basicConfig(format="dsv4: %(message)s", level=logging.WARNING, stream=sys.stderr)
    try:
        return _serve(options)
    except RunFailure as failure:
        _say(f"error: {failure.line()}")
        return int(failure.code)
    except BrokenPipeError:
        return int(ExitCode.SIGPIPE)
    except KeyboardInterrupt:
        return int(ExitCode.SIGINT)


def _serve(options: ServeOptions) -> int:
    try:
        from dsv4_agent.server.app import create_app
        from dsv4_agent.server.serving import listen, serve
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in _PACKAGES:
            raise
        cause = f"serving needs the package {error.name}, which is not installed"
        raise RunFailure(Subtype.CONFIG, cause, "Run: pip install 'dsv4-agent[serve]'") from error
    from dsv4_agent.server.guard import GuardRules
    from dsv4_agent.server.limits import Limits
    from dsv4_agent.server.replay import TurnMemory
    from dsv4_agent.server.service import Service
    from dsv4_agent.server.sources import open_source
    from dsv4_agent.server.tokens import is_loopback, token_of

    token = token_of(options.token, options.token_file, without=options.without_token, host=options.host)
    limits = Limits(
        sequences=options.sequences,
        queue=options.queue,
        idle_bytes=options.idle_bytes,
        max_tokens=options.max_tokens,
        seconds=options.seconds,
    )
    listener, address = listen(options.host, options.port)
    with listener:
        source, notice = open_source(options.model, options.engine, limits, options.dialect)
        rules = GuardRules(
            tokens=() if token is None else (token,),
            hosts=frozenset(map(str.lower, (options.host, *options.allowed_hosts))),
            origins=frozenset(options.allowed_origins),
        )
        service = Service(source, limits, TurnMemory(limits.remembered))
        app = create_app(service, rules, patience=options.patience)

        def ready() -> None:
            for line in _warnings(options, token, notice, local=is_loopback(options.host)):
                _say(line)
            made = options.token is None and options.token_file is None
            if made and token is not None and sys.stderr.isatty():
                _say(f"token: {token}")
            name = plain_line(service.model.name)
            _tell(f"dsv4 serves {name} at {address.url}")

        announcement = _announcement(options, service, address.url, token)
        with announced(announcement) if options.announce else nullcontext():
            serve(app, listener, limits, ready, options.patience, source.close)
    return int(ExitCode.OK)


def _announcement(options: ServeOptions, service: Service, url: str, token: str | None) -> LocalServer:
    served = service.model
    choice = resolved(options.engine)
    return LocalServer(
        url=url,
        token=token,
        pid=os.getpid(),
        model=served.name,
        identity=identity_of(options.model),
        preset=served.preset.name,
        dialect=served.dialect.value,
        context_window=served.context_window,
        tokenizer=served.codec.fingerprint,
        cache_format=None if choice.cache_format is None else choice.cache_format.value,
        started=time.time(),
    )


def _warnings(options: ServeOptions, token: str | None, notice: str | None, *, local: bool) -> list[str]:
    lines = [] if notice is None else [plain_line(notice)]
    if token is None:
        lines.append("warning: without a token every program of this machine can use the model.")
    if not local:
        lines.append("warning: requests and answers cross the network unencrypted; put TLS in front.")
    return lines


def _tell(line: str) -> None:
    """A line on stdout. Raises `BrokenPipeError` without a reader, `RunFailure` without room."""
    try:
        print(line, flush=True)
    except OSError as error:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), 1
        )  # what is left in the buffer would fail once more at exit
        if isinstance(error, BrokenPipeError):
            raise
        cause = f"the address can't be written: {error.strerror}"
        raise RunFailure(OwnSubtype.TOOLS, cause, "Free some space, or send stdout elsewhere.") from error


def _say(line: str) -> None:
    print(f"dsv4: {line}", file=sys.stderr, flush=True)
