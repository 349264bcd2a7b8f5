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
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from dsv4_model.cache.formats import PAGE_TOKENS
from dsv4_model.cache.kv_cache import Boundary
from dsv4_model.cache.layout import CacheLayout
from dsv4_model.cache.pages import CacheMemoryError, Page, PagePool
from dsv4_model.tokenizer import Tokenizer
from dsv4_model.weights import ModelWeights

__all__ = ["PrefixStore", "StoreError", "StoreKey", "StoredState"]

VERSION = 1
_MAGIC = b"DSV4-KV\n"
_SUFFIX = ".kv"
_MAX_HEADER = 1 << 16
_SAMPLE = 1 << 16

_log = logging.getLogger(__name__)


class StoreError(Exception):
    """A state can't be written. Nothing that was stored before is lost. Carries a remedy."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem} {remedy}")
        self.remedy = remedy


class _Refused(Exception):
    """A file that can't be used here; why."""


@dataclass(frozen=True, slots=True)
class StoreKey:
    """Weights, tokenizer and cache format as one digest (hex); ``name`` is for people."""

    digest: str
    name: str

    @classmethod
    def of(
        cls, weights: ModelWeights, tokenizer: Tokenizer, layout: CacheLayout, files: Mapping[Path, object]
    ) -> StoreKey:
        """The key of a loaded model. Of large files the size and both ends are read, not all."""
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
                    size = stream.seek(0, os.SEEK_END)
                    digest.update(f"|{file.name}|{size}|".encode())
                    for offset in (0, size // 2, max(0, size - _SAMPLE)):
                        stream.seek(offset)
                        digest.update(stream.read(_SAMPLE))
        else:
            for tensor in (weights.embed.data, weights.layers[-1].wq_a.data, weights.head.data):
                digest.update(tensor.contiguous().view(torch.uint8).cpu().numpy().tobytes())
        return cls(digest.hexdigest(), tokenizer.name)


@dataclass(frozen=True, slots=True)
class StoredState:
    """One file of the store: how many tokens it covers, bytes, last use (seconds since the epoch)."""

    path: Path
    tokens: int
    nbytes: int
    used: float

    @property
    def id(self) -> str:
        """A short name for the command line."""
        return self.path.stem.rsplit("-", 1)[-1]


class PrefixStore:
    """A folder of states with a limit on its size; the least recently used go first.

    Args:
        folder: made (0700) when something is written.
        limit: most bytes of all files; 0 stores nothing.
    """

    def __init__(self, folder: Path, limit: int = 4 << 30) -> None:
        self.folder = folder
        self.limit = limit

    def states(self) -> list[StoredState]:
        """All stored states, the most recently used first."""
        found = []
        with contextlib.suppress(FileNotFoundError):
            for path in self.folder.iterdir():
                parts = path.stem.split("-")
                if path.suffix != _SUFFIX or len(parts) != 3 or not parts[1].isdigit():
                    continue
                with contextlib.suppress(FileNotFoundError):
                    status = path.stat()
                    found.append(StoredState(path, int(parts[1]), status.st_size, status.st_mtime))
        return sorted(found, key=lambda state: -state.used)

    def remove(self, state: StoredState) -> None:
        """Delete one state; gone already is fine."""
        state.path.unlink(missing_ok=True)

    def has(self, key: StoreKey, tokens: list[int]) -> bool:
        """Whether the state after exactly these tokens is stored."""
        return self._path(key, len(tokens), _digest(tokens)).is_file()

    def save(self, key: StoreKey, tokens: list[int], boundary: Boundary, layout: CacheLayout) -> Path | None:
        """Store ``boundary``, which ``tokens`` lead to; None if it is larger than the store may be.

        Raises:
            StoreError: the disk is full or refuses.
        """
        target = self._path(key, len(tokens), _digest(tokens))
        size = boundary.rings.nbytes + len(boundary.pages) * layout.page_bytes + 4 * len(tokens)
        if size > self.limit:
            return None
        if target.is_file():
            os.utime(target)
            return target
        part = target.with_suffix(f".{os.getpid()}.part")
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._make_room(size)
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                _write(file, key, tokens, boundary, layout)
                file.flush()
                os.fsync(file.fileno())
            part.replace(target)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            remedy = "Free space, lower the limit, or remove states with `dsv4 cache rm`."
            if not full:
                remedy = f"Make {self.folder} writable, or set another DSV4_CACHE_DIR."
            raise StoreError(f"The KV state can't be stored ({error.strerror}).", remedy) from error
        finally:
            part.unlink(missing_ok=True)
        return target

    def load(
        self, key: StoreKey, tokens: list[int], layout: CacheLayout, pool: PagePool, *, longer_than: int = 0
    ) -> Boundary | None:
        """The longest stored state that ``tokens`` begin with and that covers more than ``longer_than``.

        A damaged or foreign file is removed from consideration with a warning; memory that is too short for
        one makes it unusable, not an error.
        """
        for path, count in self._candidates(key, tokens, longer_than):
            try:
                with path.open("rb") as file:
                    boundary = _read(file, key, tokens[:count], layout, pool)
            except FileNotFoundError:
                continue
            except (OSError, _Refused, CacheMemoryError) as error:
                _log.warning("the stored state %s is not used: %s", path, error)
                if isinstance(error, _Refused):
                    path.unlink(missing_ok=True)
                continue
            with contextlib.suppress(OSError):
                os.utime(path)
            return boundary
        return None

    def _candidates(self, key: StoreKey, tokens: list[int], longer_than: int) -> Iterator[tuple[Path, int]]:
        prefix = f"{key.digest[:16]}-"
        mine = [
            s
            for s in self.states()
            if s.path.name.startswith(prefix) and longer_than < s.tokens <= len(tokens)
        ]
        wanted = {state.tokens for state in mine}
        names: dict[int, str] = {}
        running, done = hashlib.blake2b(digest_size=12), 0
        for count in sorted(wanted):
            running.update(np.asarray(tokens[done:count], dtype=np.int32).tobytes())
            names[count], done = running.hexdigest(), count
        for state in sorted(mine, key=lambda s: -s.tokens):
            if state.id == names[state.tokens]:
                yield state.path, state.tokens

    def _path(self, key: StoreKey, count: int, digest: str) -> Path:
        return self.folder / f"{key.digest[:16]}-{count}-{digest}{_SUFFIX}"

    def _make_room(self, size: int) -> None:
        states = self.states()
        total = sum(state.nbytes for state in states) + size
        while states and total > self.limit:
            oldest = states.pop()
            self.remove(oldest)
            total -= oldest.nbytes


def _digest(tokens: list[int]) -> str:
    return hashlib.blake2b(np.asarray(tokens, dtype=np.int32).tobytes(), digest_size=12).hexdigest()


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous tensor, on the CPU without a copy."""
    array: Any = tensor.cpu().numpy()
    return memoryview(array).cast("B")


def _header(key: StoreKey, boundary: Boundary, layout: CacheLayout, count: int) -> dict[str, Any]:
    return {
        "version": VERSION,
        "key": key.digest,
        "model": key.name,
        "format": layout.format.value,
        "tokens": count,
        "position": boundary.position,
        "draft_position": boundary.draft_position,
        "ring_bytes": boundary.rings.nbytes,
        "page_bytes": layout.page_bytes,
        "pages": len(boundary.pages),
        "logits": boundary.logits.numel(),
        "created": int(time.time()),
    }


def _write(file: BinaryIO, key: StoreKey, tokens: list[int], boundary: Boundary, layout: CacheLayout) -> None:
    digest = hashlib.blake2b(digest_size=32)

    def put(data: bytes | memoryview) -> None:
        digest.update(data)
        file.write(data)

    header = json.dumps(_header(key, boundary, layout, len(tokens))).encode()
    put(_MAGIC)
    put(len(header).to_bytes(4, "little"))
    put(header)
    put(np.asarray(tokens, dtype=np.int32).tobytes())
    put(_bytes_of(boundary.rings))
    put(_bytes_of(boundary.logits.float()))
    for page in boundary.pages:
        put(_bytes_of(page.data))
    file.write(digest.digest())


def _read(file: BinaryIO, key: StoreKey, tokens: list[int], layout: CacheLayout, pool: PagePool) -> Boundary:
    digest = hashlib.blake2b(digest_size=32)

    def fill(target: memoryview) -> None:
        if file.readinto(target) != len(target):  # type: ignore[attr-defined]
            raise _Refused("it is truncated")
        digest.update(target)

    def take(count: int) -> bytes:
        buffer = bytearray(count)
        fill(memoryview(buffer))
        return bytes(buffer)

    if take(len(_MAGIC)) != _MAGIC:
        raise _Refused("it is no KV state")
    length = int.from_bytes(take(4), "little")
    if length > _MAX_HEADER:
        raise _Refused("its header is damaged")
    try:
        header = json.loads(take(length))
        counts = {name: header[name] for name in ("position", "draft_position", "pages", "logits")}
        expected = (VERSION, key.digest, len(tokens), layout.ring_bytes, layout.page_bytes)
        stored = tuple(header[name] for name in ("version", "key", "tokens", "ring_bytes", "page_bytes"))
    except (ValueError, KeyError, TypeError) as error:
        raise _Refused("its header is damaged") from error
    pages = -(-len(tokens) // PAGE_TOKENS)
    fits = stored == expected and counts["position"] == len(tokens) and counts["pages"] == pages
    if not fits or not 0 <= counts["draft_position"] <= len(tokens):
        raise _Refused("it was computed with another model, tokenizer, format or version")
    if counts["logits"] != layout.config.vocab_size:
        raise _Refused("its header is damaged")
    if take(4 * len(tokens)) != np.asarray(tokens, dtype=np.int32).tobytes():
        raise _Refused("it belongs to other tokens")
    rings = torch.empty(layout.ring_bytes, dtype=torch.uint8)
    fill(_bytes_of(rings))
    logits = torch.empty(counts["logits"])
    fill(_bytes_of(logits))
    pool.reserve(pages)
    held: list[Page] = []
    for number in range(pages):
        page = pool.take()
        if page.data.device.type == "cpu":
            fill(_bytes_of(page.data))
        else:
            page.data.copy_(torch.frombuffer(bytearray(take(layout.page_bytes)), dtype=torch.uint8))
        page.filled = min(PAGE_TOKENS, len(tokens) - number * PAGE_TOKENS)
        held.append(page)
    if file.read(33) != digest.digest():
        raise _Refused("its checksum is wrong")
    device = pool.device
    return Boundary(len(tokens), counts["draft_position"], tuple(held), rings.to(device), logits.to(device))
