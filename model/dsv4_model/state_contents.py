"""The bytes of one stored KV state: header, ids, rings, logits, pages, and a digest of all of it."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
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
from dsv4_model.store_key import VERSION, StoreKey
from dsv4_model.stored_states import MAGIC, StateFileError, read_header

DIGEST_BYTES = 32


def id_bytes(tokens: list[int]) -> bytes:
    """Ids as they stand in a file: little-endian, four bytes each."""
    return np.asarray(tokens, dtype="<i4").tobytes()


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous tensor, on the CPU without a copy."""
    array: Any = tensor.cpu().numpy()
    return memoryview(array).cast("B") if array.size else memoryview(bytearray())


def state_header(key: StoreKey, boundary: Boundary, layout: CacheLayout, count: int) -> dict[str, Any]:
    """What a file says of itself, in front of ``count`` ids."""
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


def state_size(header: int, count: int, layout: CacheLayout) -> int:
    """Bytes of a file whose header has ``header`` bytes."""
    pages = -(-count // PAGE_TOKENS) * layout.page_bytes
    payload = 4 * count + copied_bytes(layout, count) + 4 * layout.config.vocab_size + pages
    return len(MAGIC) + 4 + header + payload + DIGEST_BYTES


def state_parts(
    header: bytes, tokens: list[int], boundary: Boundary, space: CacheSpace
) -> Iterator[bytes | memoryview]:
    """Everything that a file holds before the digest of it.

    The parts of several devices follow each other within the rings and within each page: the same bytes as
    of one device, so that a state may be read by an engine that is split otherwise.
    """
    yield MAGIC
    yield len(header).to_bytes(4, "little")
    yield header
    yield id_bytes(tokens)
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


def read_state(file: BinaryIO, key: StoreKey, tokens: list[int], space: CacheSpace) -> Boundary:
    """The state after ``tokens`` from its file. Raises `StateFileError`, `CacheMemoryError`."""
    header, start = read_header(file)
    draft_position = _check(header, key, len(tokens), space.layout)
    expected = state_size(len(start) - len(MAGIC) - 4, len(tokens), space.layout)
    if os.fstat(file.fileno()).st_size != expected:
        raise StateFileError("it is truncated, or longer than it should be")
    digest = hashlib.blake2b(start, digest_size=DIGEST_BYTES)

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
    if ids != id_bytes(tokens):
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
    if file.read(DIGEST_BYTES) != digest.digest():
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
