"""States of the tiny model on disk, made and read as its tests need them."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import torch

from dsv4_model.cache.formats import CacheFormat
from dsv4_model.cache.kv_cache import Boundary, Held
from dsv4_model.cache.ring_copy import copied_bytes
from dsv4_model.engine import Engine, EngineOptions, Sequence
from dsv4_model.prefix_store import PrefixStore
from dsv4_model.stored_states import MAGIC
from tests.model import tiny

START = len(MAGIC) + 4


def prompt(length: int, seed: int = 0) -> list[int]:
    chance = random.Random(seed)
    return [chance.randrange(7, 263) for _ in range(length)]


def engine(store: PrefixStore | None, choice: CacheFormat = CacheFormat.FP32) -> Engine:
    """As after a new start: nothing resident."""
    return Engine(tiny.module(), tiny.tokenizer(), "tiny", EngineOptions(store=store, cache_format=choice))


def synced(made: Engine, *ends: int, tokens: list[int] | None = None) -> Sequence:
    """A sequence that was synced up to each of ``ends`` in turn."""
    sequence = made.sequence()
    for end in ends:
        sequence.sync((tokens or prompt(700))[:end])
    return sequence


def load(store: PrefixStore, made: Engine, tokens: list[int], longer_than: int = 0) -> Boundary | None:
    return store.load(made.store_key, tokens, made.space, longer_than=longer_than)


def save(store: PrefixStore, made: Engine, end: int, tokens: list[int] | None = None) -> Path:
    """Store the state after ``end`` tokens, without computing it: zeros are as good a state as any."""
    tokens = (tokens or prompt(700))[:end]
    pages = []
    for start in range(0, end, 128):
        page = made.space.parts[0].pool.take()
        page.filled = min(128, end - start)
        pages.append(page)
    rings = torch.zeros(copied_bytes(made.layout, end), dtype=torch.uint8)
    logits = torch.zeros(272)
    path = store.save(
        made.store_key, tokens, Boundary(end, 0, (Held(tuple(pages), rings),), logits), made.space
    )
    assert path is not None
    return path


def payload(path: Path) -> bytes:
    """A file without its header, which has the time, and without the digest."""
    data = path.read_bytes()
    return data[START + int.from_bytes(data[len(MAGIC) : START], "little") : -32]


def forged(path: Path, header: bytes, length: int | None = None) -> None:
    """Put another header into a file, with a digest that is right."""
    data = MAGIC + (len(header) if length is None else length).to_bytes(4, "little") + header + payload(path)
    path.write_bytes(data + hashlib.blake2b(data, digest_size=32).digest())


def header_of(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    found: dict[str, Any] = json.loads(
        data[START : START + int.from_bytes(data[len(MAGIC) : START], "little")]
    )
    return found
