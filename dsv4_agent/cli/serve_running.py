"""`dsv4 serve --list` and `--stop`: the servers that run already."""

from __future__ import annotations

import sys
import time
from typing import Final

from dsv4_agent.workbench.exit_codes import ExitCode
from dsv4_agent.workbench.local_servers import LocalServer, identity_of, living_servers, stop_server
from dsv4_agent.workbench.plain_text import plain_line

_PATIENCE: Final = 30.0  # seconds for running requests to end


def list_running() -> int:
    """A line a server; never its token."""
    servers = living_servers()
    if not servers:
        print("no server runs", file=sys.stderr)
    for server in servers:
        print(f"{_shown(server)}, for {_age(server)}, process {server.pid}")
    return int(ExitCode.OK)


def stop_running(model: str | None) -> int:
    """End them all, or those of one model; exit code 1 where one goes on, 42 where there is none."""
    servers = living_servers()
    if model is not None:
        wanted = identity_of(model)
        servers = [server for server in servers if wanted in (server.identity, server.model)]
    if not servers:
        what = "no server runs" if model is None else f"no server of {plain_line(model)} runs"
        remedy = "" if model is None else " See dsv4 serve --list."
        print(f"dsv4: error: {what}.{remedy}", file=sys.stderr)
        return int(ExitCode.INPUT)
    code = ExitCode.OK
    for server in servers:
        if stop_server(server, _PATIENCE):
            print(f"stopped {_shown(server)}")
        else:
            print(
                f"dsv4: error: {_shown(server)} goes on after {_PATIENCE:g} s. Kill process {server.pid}.",
                file=sys.stderr,
            )
            code = ExitCode.FAILED
    return int(code)


def _shown(server: LocalServer) -> str:
    return f"{plain_line(server.model)} at {plain_line(server.url)}"


def _age(server: LocalServer) -> str:
    minutes = max(0, int(time.time() - server.started)) // 60
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
