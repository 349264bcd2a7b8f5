"""Servers as processes on loopback: started, waited for, ended with all that they have started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

_START = 300.0
"""Seconds that a server may take to start: one with a large framework needs them on a busy machine."""
_END = 20.0


class ServerDidNotStartError(Exception):
    """Ends with the last lines of the server's log."""


@dataclass(frozen=True, slots=True)
class Served:
    """A server that answers.

    Attributes:
        url: what comes before `/v1`.
        key: what requests carry, if it wants one.
    """

    name: str
    version: str
    url: str
    log: Path
    key: str | None = None


@contextmanager
def process(
    name: str,
    version: str,
    command: Sequence[str],
    port: int,
    log: Path,
    *,
    environment: Mapping[str, str] | None = None,
    ready: str = "/health",
    key: str | None = None,
) -> Iterator[Served]:
    """Run a server until the block ends. Raises `ServerDidNotStartError`."""
    with log.open("wb") as output:
        started = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    served = Served(name, version, f"http://127.0.0.1:{port}", log, key)
    try:
        _wait(served, started, ready)
        yield served
    finally:
        _end(started)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait(served: Served, started: subprocess.Popen[bytes], ready: str) -> None:
    headers = {"authorization": f"Bearer {served.key}"} if served.key else {}
    deadline = time.monotonic() + _START
    with httpx.Client(base_url=served.url, headers=headers, trust_env=False, timeout=5) as client:
        while started.poll() is None and time.monotonic() < deadline:
            try:
                if client.get(ready).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
    tail = served.log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
    raise ServerDidNotStartError("\n".join([f"{served.name} did not start:", *tail]))


def _end(started: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(started.pid, number)
        except ProcessLookupError:
            break
        try:
            started.wait(_END)
        except subprocess.TimeoutExpired:
            continue
        if number is signal.SIGTERM:
            continue  # its children may have stayed
    started.wait()
