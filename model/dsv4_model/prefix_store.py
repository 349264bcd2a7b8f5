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
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from dsv4_model.cache.formats import PAGE_TOKENS
from dsv4_model.cache.kv_cache import Boundary, Held
from dsv4_model.cache.layout import CacheLayout
from dsv4_model.cache.pages import Page, PagePool
from dsv4_model.cache.ring_copy import copied_bytes
from dsv4_model.cache.space import CachePart, CacheSpace
from dsv4_model.cache.trim import trimmed
from dsv4_model.stored_states import (
    DEFAULT_LIMIT,
    MAGIC,
    StateFileError,
    StoredState,
    list_states,
    open_state,
    part_path,
    read_header,
    remove_stale_parts,
    remove_state,
    state_path,
)
from dsv4_model.tokenizer import Tokenizer
from dsv4_model.weights import ModelWeights

__all__ = ["PrefixStore", "StoreError", "StoreKey"]

VERSION = 2
_SAMPLE = 1 << 16
_DIGEST_BYTES = 32
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


@dataclass(frozen=True, slots=True)
class StoreKey:
    """Weights, tokenizer and cache format as one digest (hex); ``name`` is for people."""

    digest: str
    name: str

    @classmethod
    def of(
        cls, weights: ModelWeights, tokenizer: Tokenizer, layout: CacheLayout, files: Mapping[Path, object]
    ) -> StoreKey:
        """The key of a loaded model. Of its files size, time of change and three stretches count, not all."""
        digest = hashlib.blake2b(digest_size=16)
        config = json.dumps(weights.config.to_dict(), sort_keys=True, default=str)
        shape = (
            VERSION,
            layout.format.value,
            layout.ring_bytes,
            layout.page_bytes,
            weights.rounds_activations,
        )
        digest.update(f"{config}|{shape}|{tokenizer.fingerprint}".encode())
        if files:
            for file in sorted(files, key=lambda path: path.name):
                with file.open("rb") as stream:
                    status = os.fstat(stream.fileno())
                    size = status.st_size
                    digest.update(f"|{file.name}|{size}|{status.st_mtime_ns}|".encode())
                    for offset in (0, size // 2, max(0, size - _SAMPLE)):
                        stream.seek(offset)
                        digest.update(stream.read(_SAMPLE))
        else:
            for tensor in (weights.embed.data, weights.layers[-1].wq_a.data, weights.head.data):
                digest.update(tensor.contiguous().view(torch.uint8).cpu().numpy().tobytes())
        return cls(digest.hexdigest(), tokenizer.name)


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
        header = json.dumps(_header(key, boundary, space.layout, len(tokens))).encode()
        size = _file_size(len(header), len(tokens), space.layout)
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
                    boundary = _read(file, key, tokens[: state.tokens], space)
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
            running.update(_ids(tokens[done:count]))
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
                digest, unflushed = hashlib.blake2b(digest_size=_DIGEST_BYTES), 0
                for data in _parts(header, tokens, boundary, space):
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


def _ids(tokens: list[int]) -> bytes:
    return np.asarray(tokens, dtype="<i4").tobytes()


def _digest(tokens: list[int]) -> str:
    return hashlib.blake2b(_ids(tokens), digest_size=12).hexdigest()


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous tensor, on the CPU without a copy."""
    array: Any = tensor.cpu().numpy()
    return memoryview(array).cast("B") if array.size else memoryview(bytearray())


def _header(key: StoreKey, boundary: Boundary, layout: CacheLayout, count: int) -> dict[str, Any]:
    return {
        "version": VERSION,
        "key": key.digest,
        "model": key.name,
        "format": layout.format.value,
        "tokens": count,
        "position": boundary.position,
        "draft_position": boundary.draft_position,
        "ring_bytes": layout.ring_bytes,
        "page_bytes": layout.page_bytes,
        "pages": -(-count // PAGE_TOKENS),
        "logits": boundary.logits.numel(),
        "created": int(time.time()),
    }


def _file_size(header: int, count: int, layout: CacheLayout) -> int:
    pages = -(-count // PAGE_TOKENS) * layout.page_bytes
    payload = 4 * count + copied_bytes(layout, count) + 4 * layout.config.vocab_size + pages
    return len(MAGIC) + 4 + header + payload + _DIGEST_BYTES


def _parts(
    header: bytes, tokens: list[int], boundary: Boundary, space: CacheSpace
) -> Iterator[bytes | memoryview]:
    """Everything that a file holds before the digest of it.

    The parts of several devices follow each other within the rings and within each page: the same bytes as
    of one device, so that a state may be read by an engine that is split otherwise.
    """
    yield MAGIC
    yield len(header).to_bytes(4, "little")
    yield header
    yield _ids(tokens)
    for held in boundary.parts:
        yield _bytes_of(held.rings)
    yield _bytes_of(boundary.logits.float())
    full, rest = divmod(boundary.position, PAGE_TOKENS)
    for number in range(full):
        for held in boundary.parts:
            yield _bytes_of(held.pages[number].data)
    if rest:
        for held, part in zip(boundary.parts, space.parts, strict=True):
            # Another timeline may have gone on in the last page: what it said is not part of this state.
            yield _bytes_of(trimmed(held.pages[full].data, part.layout, rest))


def _check(header: dict[str, Any], key: StoreKey, count: int, layout: CacheLayout) -> int:
    """Whether a header is that of the wanted state; its draft position. Raises `StateFileError`."""
    numbers = ("version", "tokens", "position", "ring_bytes", "page_bytes", "pages", "logits")
    found = [header.get(name) for name in numbers]
    draft = header.get("draft_position")
    if any(type(number) is not int for number in found) or type(draft) is not int:
        raise StateFileError("its header is damaged")
    pages = -(-count // PAGE_TOKENS)
    expected = [VERSION, count, count, layout.ring_bytes, layout.page_bytes, pages, layout.config.vocab_size]
    if found != expected or header.get("key") != key.digest or not 0 <= draft <= count:
        raise StateFileError("it was computed with another model, tokenizer, format or version")
    return draft


def _read(file: BinaryIO, key: StoreKey, tokens: list[int], space: CacheSpace) -> Boundary:
    header, start = read_header(file)
    draft_position = _check(header, key, len(tokens), space.layout)
    expected = _file_size(len(start) - len(MAGIC) - 4, len(tokens), space.layout)
    if os.fstat(file.fileno()).st_size != expected:
        raise StateFileError("it is truncated, or longer than it should be")
    digest = hashlib.blake2b(start, digest_size=_DIGEST_BYTES)

    def fill(target: memoryview) -> None:
        if file.readinto(target) != len(target):  # type: ignore[attr-defined]
            raise StateFileError("it is truncated")
        digest.update(target)

    def fill_tensor(target: torch.Tensor) -> None:
        on_host = target if target.device.type == "cpu" else torch.empty_like(target, device="cpu")
        fill(_bytes_of(on_host))
        if on_host is not target:
            target.copy_(on_host)

    ids = bytearray(4 * len(tokens))
    fill(memoryview(ids))
    if ids != _ids(tokens):
        raise StateFileError("it belongs to other tokens")
    every = [_Taken.of(part, len(tokens)) for part in space.parts]
    for taken in every:
        fill_tensor(taken.rings)
    logits = torch.empty(space.layout.config.vocab_size, device=space.parts[-1].device)
    fill_tensor(logits)
    for first in range(0, len(tokens), PAGE_TOKENS):
        for taken in every:
            page = taken.pool.take()
            fill_tensor(page.data)
            page.filled = min(PAGE_TOKENS, len(tokens) - first)
            taken.pages.append(page)
    if file.read(_DIGEST_BYTES) != digest.digest():
        raise StateFileError("its checksum is wrong")
    held = tuple(Held(tuple(taken.pages), taken.rings) for taken in every)
    return Boundary(len(tokens), draft_position, held, logits)


@dataclass(frozen=True, slots=True)
class _Taken:
    """Memory of one device for a state that is being read."""

    pool: PagePool
    rings: torch.Tensor
    pages: list[Page]

    @classmethod
    def of(cls, part: CachePart, tokens: int) -> _Taken:
        part.pool.reserve(-(-tokens // PAGE_TOKENS))
        size = copied_bytes(part.layout, tokens)
        rings = torch.empty(size, dtype=torch.uint8, device=part.device)
        return cls(part.pool, rings, [])
