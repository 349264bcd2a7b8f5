"""Recorded episodes as training batches: one shared prompt prefix, many continuations, few fixed lengths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

LENGTHS = (128, 192, 256, 320, 384, 448, 512, 640, 768, 1024)
"""Padded lengths; the CPU kernels plan anew for each new shape, so there are few."""


@dataclass(frozen=True)
class Examples:
    """Episodes that share `prefix` (the system prompt): token ids and whether the model sampled each.

    `ids` and `sampled` are concatenated; episode i is `ids[offsets[i]:offsets[i + 1]]`.
    """

    prefix: np.ndarray
    ids: np.ndarray
    sampled: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def pack(cls, prefix: list[int], episodes: list[list[tuple[int, bool]]]) -> Examples:
        """From lists of `(id, sampled)`."""
        flat = [pair for episode in episodes for pair in episode]
        return cls(
            np.asarray(prefix, np.int16),
            np.asarray([i for i, _ in flat], np.int16),
            np.asarray([s for _, s in flat], np.bool_),
            np.cumsum([0, *map(len, episodes)]).astype(np.int64),
        )

    def save(self, path: Path) -> None:
        """Write an `.npz`; the file appears whole or not at all."""
        part = path.with_suffix(".part.npz")
        np.savez_compressed(
            part, prefix=self.prefix, ids=self.ids, sampled=self.sampled, offsets=self.offsets
        )
        part.replace(path)

    @classmethod
    def load(cls, folder: Path) -> Examples:
        """All shards of a folder. Raises `ValueError` where there is none or their prefixes differ."""
        shards = [np.load(p) for p in sorted(folder.glob("shard-*.npz"))]
        if not shards:
            raise ValueError(
                f"no shard-*.npz in {folder}; record some with python -m dsv4_model.nano.data.record"
            )
        if any(not np.array_equal(s["prefix"], shards[0]["prefix"]) for s in shards):
            raise ValueError(
                f"the shards in {folder} have different prompts; record them again with one version"
            )
        ends = np.cumsum([0, *(len(s["ids"]) for s in shards)])
        offsets = [s["offsets"][:-1] + base for s, base in zip(shards, ends, strict=False)]
        return cls(
            shards[0]["prefix"],
            np.concatenate([s["ids"] for s in shards]),
            np.concatenate([s["sampled"] for s in shards]),
            np.concatenate([*offsets, ends[-1:]]),
        )


@dataclass(frozen=True)
class Batch:
    """`ids [B, L + 1]` and the weight `[B, L]` of predicting `ids[:, 1:]`; padding has weight 0."""

    ids: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Relabelling:
    """Exchanges pieces of names for others, the same way throughout one episode.

    `names` are the ids that may be exchanged: pieces of identifiers that mean nothing to the task. An episode
    that holds an id of `keep` stays as it is (where a misspelling must go on resembling the right name).
    """

    names: np.ndarray
    keep: np.ndarray
    share: float = 0.6

    def apply(self, ids: np.ndarray, vocabulary: int, rng: np.random.Generator) -> np.ndarray:
        """The episode with other names, or as it is."""
        if rng.random() > self.share or np.isin(ids, self.keep).any():
            return ids
        table = np.arange(vocabulary)
        table[self.names] = rng.permutation(self.names)
        other: np.ndarray = table[ids]
        return other


def batches(
    examples: Examples,
    tokens: int,
    rng: np.random.Generator,
    *,
    context_weight: float,
    pad: int,
    vocabulary: int,
    relabelling: Relabelling | None = None,
    follow: float = 0.2,
    decisive: Sequence[int] = (),
    decisive_weight: float = 1.0,
) -> Iterator[Batch]:
    """One pass in random order, rows of about one length together, about `tokens` tokens a batch.

    With probability `follow` a row goes on with a second episode, as a conversation goes on with a second
    task. What is sampled right after a token of `decisive` weighs `decisive_weight`, other sampled tokens
    weigh 1, the rest `context_weight`.
    """
    weigh = _Weights(context_weight, np.asarray(decisive), decisive_weight)
    waiting: dict[int, list[list[int]]] = {}
    order = iter(rng.permutation(len(examples)).tolist())
    for first in order:
        row = [first]
        if rng.random() < follow and (second := next(order, None)) is not None:
            row.append(second)
        length = sum(int(examples.offsets[i + 1] - examples.offsets[i]) for i in row) - 1
        fitting = [bucket for bucket in LENGTHS if bucket >= length]
        if not fitting:
            continue
        bucket = waiting.setdefault(fitting[0], [])
        bucket.append(row)
        if (len(bucket) + 1) * fitting[0] > tokens:
            yield _batch(examples, bucket, fitting[0], weigh, pad, vocabulary, rng, relabelling)
            bucket.clear()


@dataclass(frozen=True)
class _Weights:
    """How much the prediction of each token counts."""

    context: float
    decisive: np.ndarray
    decisive_weight: float

    def of(self, ids: np.ndarray, sampled: np.ndarray) -> np.ndarray:
        """One weight a token of the episode, as a target."""
        weights = np.where(sampled, 1.0, self.context)
        after = np.concatenate(([False], np.isin(ids[:-1], self.decisive)))
        weights[after & sampled] = self.decisive_weight
        return weights


def _batch(
    examples: Examples,
    rows: list[list[int]],
    length: int,
    weigh: _Weights,
    pad: int,
    vocabulary: int,
    rng: np.random.Generator,
    relabelling: Relabelling | None,
) -> Batch:
    ids = np.full((len(rows), length + 1), pad, np.int64)
    weights = np.zeros((len(rows), length), np.float32)
    for row, episodes in enumerate(rows):
        at = 0
        for i in episodes:
            low, high = examples.offsets[i], examples.offsets[i + 1]
            episode = examples.ids[low:high].astype(np.int64)
            if relabelling is not None:
                episode = relabelling.apply(episode, vocabulary, rng)
            end = at + high - low
            ids[row, at:end] = episode
            weight = weigh.of(episode, examples.sampled[low:high])
            weights[row, max(at - 1, 0) : end - 1] = weight if at else weight[1:]
            at = end
    return Batch(torch.from_numpy(ids), torch.from_numpy(weights))


def copy_batch(vocabulary: int, first: int, rng: np.random.Generator, *, rows: int, length: int) -> Batch:
    """Random pieces that come back at random distances, to keep copying of arbitrary pieces alive."""
    ids = np.zeros((rows, length + 1), np.int64)
    weights = np.zeros((rows, length), np.float32)
    for row in range(rows):
        sequence: list[int] = []
        spans: list[tuple[int, int]] = []
        pieces = rng.integers(first, vocabulary, rng.integers(20, 400))
        while len(sequence) < length + 1:
            if spans and rng.random() < 0.5:
                start, end = spans[rng.integers(len(spans))]
                at = len(sequence)
                sequence += sequence[start:end]
                weights[row, min(at + 1, length) : min(at + end - start - 1, length)] = 1.0
            else:
                at = len(sequence)
                sequence += rng.choice(pieces, rng.integers(3, 12)).tolist()
                spans.append((at, len(sequence)))
        ids[row] = sequence[: length + 1]
    return Batch(torch.from_numpy(ids), torch.from_numpy(weights))
