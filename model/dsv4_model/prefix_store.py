"""KV states on disk: each file one boundary of a timeline, found by the tokens that lead to it.

A file is written beside its place and renamed, so that it is whole or absent; it carries a digest of all its
bytes, and the weights, tokenizer and cache format that it was computed with. Whatever doesn't fit is refused
and the tokens are computed again. Files hold what was said in a conversation: they are private to the user.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from dsv4_model.cache.kv_cache import Boundary
from dsv4_model.cache.space import CacheSpace
from dsv4_model.state_contents import (
    DIGEST_BYTES,
    id_bytes,
    read_state,
    state_header,
    state_parts,
    state_size,
)
from dsv4_model.store_key import StoreKey
from dsv4_model.stored_states import (
    DEFAULT_LIMIT,
    StateFileError,
    StoredState,
    list_states,
    open_state,
    part_path,
    remove_stale_parts,
    remove_state,
    state_path,
)

__all__ = ["PrefixStore", "StoreError"]

_FLUSH_EVERY = 64 << 20
"""Bytes after which writing waits for the disk, so that it can be broken off in the time that these take."""

_log = logging.getLogger(__name__)


class StoreError(Exception):
    """A state can't be written. Nothing that was stored before is lost. Carries a remedy."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem} {remedy}")
        self.remedy = remedy


class _CancelledError(Exception):
    """Whoever wanted a state written doesn't any more."""


class PrefixStore:
    """A folder of states with a limit on its size; the least recently used go first.

    Several processes may share a folder. Reading never raises: a state that can't be had is computed.

    Args:
        folder: made (0700) when something is written.
        limit: most bytes of all files; 0 stores nothing.
    """

    def __init__(self, folder: Path, limit: int = DEFAULT_LIMIT) -> None:
        self.folder = folder
        self.limit = limit

    def states(self) -> list[StoredState]:
        """All stored states, the most recently used first; none where the folder can't be read."""
        try:
            return list_states(self.folder)
        except OSError as error:
            _log.warning("stored states can't be listed: %s", error)
            return []

    def has(self, key: StoreKey, tokens: list[int]) -> bool:
        """Whether the state after exactly these tokens is stored."""
        return _is_file(state_path(self.folder, key.digest, len(tokens), _digest(tokens)))

    def longest(self, key: StoreKey, tokens: list[int]) -> int:
        """How many of ``tokens`` the longest state covers that they begin with; it isn't read."""
        return next((state.tokens for state in self._candidates(key, tokens, 0)), 0)

    def save(
        self,
        key: StoreKey,
        tokens: list[int],
        boundary: Boundary,
        space: CacheSpace,
        *,
        cancelled: Callable[[], bool] | None = None,
    ) -> Path | None:
        """Store ``boundary``, which ``tokens`` lead to.

        None if it is larger than the store may be, or if ``cancelled`` became true.

        Raises:
            StoreError: the disk is full or refuses; what was stored before is as it was.
        """
        header = json.dumps(state_header(key, boundary, space.layout, len(tokens))).encode()
        size = state_size(len(header), len(tokens), space.layout)
        if size > self.limit:
            return None
        target = state_path(self.folder, key.digest, len(tokens), _digest(tokens))
        try:
            if _is_file(target):
                os.utime(target, follow_symlinks=False)
                return target
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            remove_stale_parts(self.folder)
            self._write(target, header, tokens, boundary, space, cancelled)
        except _CancelledError:
            return None
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            remedy = "Free space, lower the limit, or remove states with `dsv4 cache rm`."
            if not full:
                remedy = f"Make {self.folder} writable, or set DSV4_KV_DIR to another folder."
            why = error.strerror or str(error)
            raise StoreError(f"The KV state can't be stored ({why}).", remedy) from error
        return target

    def load(
        self, key: StoreKey, tokens: list[int], space: CacheSpace, *, longer_than: int = 0
    ) -> Boundary | None:
        """The longest stored state that ``tokens`` begin with and that covers more than ``longer_than``.

        A damaged file is removed with a warning; memory that is too short for one makes it unusable, not an
        error.
        """
        for state in self._candidates(key, tokens, longer_than):
            try:
                with open_state(state.path) as file:
                    boundary = read_state(file, key, tokens[: state.tokens], space)
            except FileNotFoundError:
                continue
            # PyTorch says with a RuntimeError that a device's memory is full.
            except (OSError, StateFileError, MemoryError, RuntimeError) as error:
                _log.warning("the stored state %s is not used: %s", state.path, error)
                if isinstance(error, StateFileError):
                    with contextlib.suppress(OSError):
                        remove_state(state)
                continue
            with contextlib.suppress(OSError):
                os.utime(state.path, follow_symlinks=False)
            return boundary
        return None

    def _candidates(self, key: StoreKey, tokens: list[int], longer_than: int) -> Iterator[StoredState]:
        mine = [
            state
            for state in self.states()
            if state.key == key.digest[:16] and longer_than < state.tokens <= len(tokens)
        ]
        names: dict[int, str] = {}
        running, done = hashlib.blake2b(digest_size=12), 0
        for count in sorted({state.tokens for state in mine}):
            running.update(id_bytes(tokens[done:count]))
            names[count], done = running.hexdigest(), count
        for state in sorted(mine, key=lambda s: -s.tokens):
            if state.digest == names[state.tokens]:
                yield state

    def _write(
        self,
        target: Path,
        header: bytes,
        tokens: list[int],
        boundary: Boundary,
        space: CacheSpace,
        cancelled: Callable[[], bool] | None,
    ) -> None:
        part = part_path(target)
        try:
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                digest, unflushed = hashlib.blake2b(digest_size=DIGEST_BYTES), 0
                for data in state_parts(header, tokens, boundary, space):
                    if cancelled is not None and cancelled():
                        raise _CancelledError
                    digest.update(data)
                    file.write(data)
                    unflushed += len(data)
                    if unflushed >= _FLUSH_EVERY:
                        _flush(file)
                        unflushed = 0
                file.write(digest.digest())
                _flush(file)
                size = file.tell()
            # Only now: a write that fails must not have cost anything that was there.
            self._make_room(size)
            part.replace(target)
        finally:
            with contextlib.suppress(OSError):
                part.unlink()

    def _make_room(self, size: int) -> None:
        states = list_states(self.folder)
        total = sum(state.nbytes for state in states) + size
        while states and total > self.limit:
            oldest = states.pop()
            remove_state(oldest)
            total -= oldest.nbytes


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _digest(tokens: list[int]) -> str:
    return hashlib.blake2b(id_bytes(tokens), digest_size=12).hexdigest()
