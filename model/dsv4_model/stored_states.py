"""The folder of stored KV states: what lies there, its size, and tidying it. Needs no PyTorch.

A state is a file ``KEY-TOKENS-DIGEST.kv``: 16 hex digits of what it was computed with, the number of tokens
that it covers, and a digest of them. It begins with a magic, the length of a JSON header, and that header;
`dsv4_model.state_contents` has the rest. Links are never followed: whoever can put one there could
otherwise point at other files of the user's.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from dsv4_model.cache_folder import cache_folder

__all__ = [
    "DEFAULT_LIMIT",
    "MAGIC",
    "MAX_HEADER",
    "StateFileError",
    "StoredState",
    "kv_folder",
    "list_states",
    "model_name",
    "open_state",
    "part_path",
    "read_header",
    "remove_stale_parts",
    "remove_state",
    "state_path",
]

DEFAULT_LIMIT = 4 << 30
"""Bytes of all states, unless the user says otherwise."""
MAGIC = b"DSV4-KV\n"
MAX_HEADER = 1 << 16

_STATE = re.compile(r"([0-9a-f]{16})-([0-9]{1,9})-([0-9a-f]{24})\.kv", re.ASCII)
_PART = re.compile(r"[0-9a-f]{16}-[0-9]{1,9}-[0-9a-f]{24}\.([0-9]{1,9})-[0-9a-f]{8}\.part", re.ASCII)
_FORGOTTEN_AFTER = 3600.0
_QUIET_AFTER = 60.0
"""Seconds: the process numbers of another machine that shares the folder say nothing here, but whoever writes
touches the file more often than this."""


class StateFileError(Exception):
    """A file that is no usable state; the text says why."""


@dataclass(frozen=True, slots=True)
class StoredState:
    """One file of the folder: how many tokens it covers, bytes, last use (seconds since the epoch)."""

    path: Path
    key: str
    tokens: int
    digest: str
    nbytes: int
    used: float

    @property
    def id(self) -> str:
        """A short name for the command line."""
        return f"{self.digest[:8]}{self.key[:4]}"


def kv_folder() -> Path:
    """Where states are kept: ``DSV4_KV_DIR``, or ``kv`` in ``DSV4_CACHE_DIR`` or the user's cache folder."""
    if own := os.environ.get("DSV4_KV_DIR"):
        return Path(own)
    return cache_folder("kv")


def state_path(folder: Path, key: str, tokens: int, digest: str) -> Path:
    """The file of a state; ``key`` may be longer than its name shows."""
    return folder / f"{key[:16]}-{tokens}-{digest}.kv"


def part_path(target: Path) -> Path:
    """A name beside ``target`` for writing it: of this process, and no other writer's."""
    return target.with_name(f"{target.stem}.{os.getpid()}-{secrets.token_hex(4)}.part")


def list_states(folder: Path) -> list[StoredState]:
    """All states, the most recently used first; an absent folder has none. Raises `OSError`."""
    found = []
    try:
        names = os.listdir(folder)  # noqa: PTH208 - names alone: each is checked before it becomes a path
    except FileNotFoundError:
        return []
    for name in names:
        if (parts := _STATE.fullmatch(name)) is None:
            continue
        path = folder / name
        with contextlib.suppress(FileNotFoundError):  # another process may tidy up at the same time
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                key, tokens, digest = parts.groups()
                found.append(
                    StoredState(path, key, int(tokens), digest, status.st_size, status.st_mtime_ns / 1e9)
                )
    return sorted(found, key=lambda state: -state.used)


def open_state(path: Path) -> BinaryIO:
    """Open a state for reading.

    Raises:
        OSError: it is gone, a link, or can't be read.
        StateFileError: it is no file, or another user's, who could make the model say anything.
    """
    # O_NONBLOCK: a pipe in the place of a file would be waited for.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    file = os.fdopen(os.open(path, flags), "rb")
    try:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise StateFileError("it is not a file")
        if status.st_uid not in (os.geteuid(), 0):
            raise StateFileError("it belongs to another user")
    except BaseException:
        file.close()
        raise
    return file


def read_header(file: BinaryIO) -> tuple[dict[str, Any], bytes]:
    """The header, and the bytes that were read for it (the digest covers them). Raises `StateFileError`."""
    start = file.read(len(MAGIC) + 4)
    if start[: len(MAGIC)] != MAGIC:
        raise StateFileError("it is no KV state")
    length = int.from_bytes(start[len(MAGIC) :], "little")
    text = file.read(length) if length <= MAX_HEADER else b""
    if len(start) < len(MAGIC) + 4 or len(text) < max(length, 1):
        raise StateFileError("its header is damaged")
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StateFileError("its header is damaged") from error
    if not isinstance(header, dict):
        raise StateFileError("its header is damaged")
    return header, start + text


def model_name(state: StoredState) -> str | None:
    """Which model a state belongs to, as it says itself; None where that can't be read."""
    try:
        with open_state(state.path) as file:
            name = read_header(file)[0].get("model")
    except (OSError, StateFileError):
        return None
    return name if isinstance(name, str) else None


def remove_state(state: StoredState) -> int:
    """Delete a state; the bytes that this freed: 0 where it was gone already. Raises `OSError`."""
    try:
        state.path.unlink()
    except FileNotFoundError:
        return 0
    return state.nbytes


def remove_stale_parts(folder: Path) -> None:
    """Delete what writers that crashed left unfinished. What can't be deleted stays."""
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):  # noqa: PTH208
            if (parts := _PART.fullmatch(name)) is None:
                continue
            path = folder / name
            with contextlib.suppress(OSError):
                age = time.time() - path.lstat().st_mtime
                if age > _FORGOTTEN_AFTER or (age > _QUIET_AFTER and not _lives(int(parts[1]))):
                    path.unlink()


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
