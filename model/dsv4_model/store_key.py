"""What a stored KV state was computed with: it fits nothing else."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from dsv4_model.cache.layout import CacheLayout
from dsv4_model.tokenizer import Tokenizer
from dsv4_model.weights import ModelWeights

VERSION = 2
"""Of the form of a stored state."""
_SAMPLE = 1 << 16


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
