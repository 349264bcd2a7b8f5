"""The `dsv4 serve` processes of this user: announced in a private folder, found again while they live.

Each holds a lock on its file as long as it runs, so a file whose lock is free is one that a killed server
left behind, whatever process has its number by now.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import stat
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, Self

from dsv4_agent.session.session import state_directory
from dsv4_agent.workbench.model_options import NANO

SWITCH: Final = "DSV4_NO_SERVER"
"""Set to 1, this variable keeps `chat` and `run` from using a server that they were not told of."""
_SIZE: Final = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalServer:
    """A running server. `identity` says which weights it has, `cache_format` how it keeps KV states."""

    url: str
    token: str | None
    pid: int
    model: str
    identity: str
    preset: str
    dialect: str
    context_window: int
    tokenizer: str
    cache_format: str | None
    started: float

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read an announcement, of whatever version. Raises `TypeError` or `ValueError` for another shape."""
        names = {field.name for field in fields(cls)}
        found = cls(**{name: data[name] for name in names if name in data})
        texts = (found.url, found.model, found.identity, found.preset, found.dialect, found.tokenizer)
        optional = (found.token, found.cache_format)
        sound = (
            all(isinstance(text, str) for text in texts)
            and all(text is None or isinstance(text, str) for text in optional)
            and all(type(number) is int for number in (found.pid, found.context_window))
            and isinstance(found.started, int | float)
        )
        if not sound or found.pid < 2:
            raise ValueError("not an announcement")
        return found


def runtime_directory() -> Path:
    """Where servers announce themselves: the session's runtime folder, else the state folder."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.environ.get("DSV4_STATE_DIR") or not runtime.startswith("/") or not Path(runtime).is_dir():
        return state_directory() / "run"
    return Path(runtime) / "dsv4"


def identity_of(model: str) -> str:
    """Which weights a name stands for: the same for every spelling of a checkpoint's path."""
    return NANO if model == NANO else str(Path(model).resolve())


@contextlib.contextmanager
def announced(server: LocalServer) -> Iterator[None]:
    """Announce a server while inside. Where that isn't possible it serves unannounced."""
    folder = runtime_directory()
    path = folder / f"serve-{server.pid}-{time.time_ns()}.json"
    begun = path.with_suffix(".begun")
    descriptor = -1
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(begun, flags, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(descriptor, json.dumps(asdict(server)).encode())
        begun.rename(path)  # locked before it can be found
    except OSError as error:
        reason = error.strerror or error
        print(f"dsv4: note: {folder} can't be written ({reason}): not announced", file=sys.stderr)
    try:
        yield
    finally:
        for left in (path, begun):
            with contextlib.suppress(OSError):
                left.unlink(missing_ok=True)
        if descriptor >= 0:
            os.close(descriptor)


def living_servers() -> list[LocalServer]:
    """The user's running servers, the newest first. What dead ones left is removed."""
    found: list[LocalServer] = []
    with contextlib.suppress(OSError):
        for path in runtime_directory().glob("serve-*.json"):
            server = _read(path)
            if server is not None:
                found.append(server)
    return sorted(found, key=lambda server: server.started, reverse=True)


def find_server(model: str, cache_format: str | None = None) -> LocalServer | None:
    """A running server with these weights and this way to keep states (None: the model's own)."""
    if os.environ.get(SWITCH, "") not in ("", "0"):
        return None
    identity = identity_of(model)
    for server in living_servers():
        if server.identity == identity and server.cache_format == cache_format:
            return server
    return None


def stop_server(server: LocalServer, seconds: float) -> bool:
    """Ask a server to end and wait for it; whether it is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(server.pid, signal.SIGTERM)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if all(other.pid != server.pid for other in living_servers()):
            return True
        time.sleep(0.05)
    return False


def _read(path: Path) -> LocalServer | None:
    """An announcement whose lock is held; a file that others could have written is no announcement."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        status = os.fstat(descriptor)
        private = stat.S_ISREG(status.st_mode) and not status.st_mode & 0o077
        if not private or status.st_uid != os.getuid() or status.st_size > _SIZE:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return LocalServer.from_json(json.loads(os.read(descriptor, _SIZE)))
        with contextlib.suppress(OSError):
            path.unlink()
        return None
    except (OSError, ValueError, TypeError):
        return None
    finally:
        os.close(descriptor)
