"""What a sequence must remember between calls, as plain tensors that are replaced, never written to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dsv4_model.config import CSA_RATIO, ModelConfig

__all__ = ["BlockRows", "LayerState", "State"]


@dataclass(slots=True)
class BlockRows:
    """Compressor inputs that still matter: rows of the unfinished block, and for CSA of the block before.

    ``values`` and ``gates`` are fp32 ``[B, rows, channels]``; gates include the position bias. A CSA
    compressor always holds the ``ratio`` rows of the previous block first; before block 0 they are value 0,
    gate -inf.
    """

    values: Tensor
    gates: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> BlockRows:
        """The same rows with ``function`` applied to both tensors."""
        return BlockRows(function(self.values), function(self.gates))


@dataclass(slots=True)
class LayerState:
    """State of one layer; absent parts are ``None``.

    ``window``: ``[B, <= sliding_window - 1, head_dim]`` rotated KV rows of the last positions (a query brings
    its own row). ``entries``: ``[B, n, head_dim]`` compressed entries, append-only. ``index_keys``:
    ``[B, n, index_head_dim]``, append-only.
    """

    window: Tensor
    entries: Tensor | None = None
    index_keys: Tensor | None = None
    rows: BlockRows | None = None
    index_rows: BlockRows | None = None

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by kind: window, entries, index_keys, rows.values, rows.gates, index_rows...."""
        found: dict[str, Tensor] = {"window": self.window}
        if self.entries is not None:
            found["entries"] = self.entries
        if self.index_keys is not None:
            found["index_keys"] = self.index_keys
        for name, rows in (("rows", self.rows), ("index_rows", self.index_rows)):
            if rows is not None:
                found[f"{name}.values"] = rows.values
                found[f"{name}.gates"] = rows.gates
        return found

    def map(self, function: Callable[[Tensor], Tensor]) -> LayerState:
        """A new state with ``function`` applied to every tensor."""
        return LayerState(
            window=function(self.window),
            entries=None if self.entries is None else function(self.entries),
            index_keys=None if self.index_keys is None else function(self.index_keys),
            rows=None if self.rows is None else self.rows.map(function),
            index_rows=None if self.index_rows is None else self.index_rows.map(function),
        )


@dataclass(slots=True)
class State:
    """One batch of sequences of equal length: per-layer states and how many tokens they hold.

    `DeepseekV4.forward` replaces the tensors and advances ``position``; tensors themselves are never written
    in place, so a shallow copy (`fork`) is an independent sequence that shares memory with its origin.
    ``mtp`` and ``mtp_position`` belong to the draft block, which advances on its own.
    """

    layers: list[LayerState]
    mtp: list[LayerState]
    position: int = 0
    mtp_position: int = 0

    @property
    def batch(self) -> int:
        """Number of sequences."""
        return self.layers[0].window.shape[0]

    def map(self, function: Callable[[Tensor], Tensor]) -> State:
        """A new state with ``function`` applied to every tensor."""
        return State(
            [layer.map(function) for layer in self.layers],
            [layer.map(function) for layer in self.mtp],
            self.position,
            self.mtp_position,
        )

    def detach(self) -> State:
        """The same values, cut from the autograd graph; memory is shared."""
        return self.map(lambda t: t.detach())

    def expand(self, batch: int) -> State:
        """Batch 1 viewed as ``batch`` equal sequences; no memory is copied. Gradients sum into the origin."""
        if self.batch not in (1, batch):
            raise ValueError(f"only a state of batch 1 can be expanded; this one has batch {self.batch}")
        return self.map(lambda t: t.expand(batch, *t.shape[1:]))

    def fork(self) -> State:
        """An independent sequence that shares all tensors (they are immutable)."""
        return self.map(lambda t: t)

    def clone(self) -> State:
        """A deep copy."""
        return self.map(lambda t: t.clone())

    def nbytes(self) -> int:
        """Bytes of all tensors, counting an expanded batch once a sequence."""
        return sum(t.nbytes for layer in (*self.layers, *self.mtp) for t in layer.tensors().values())


def empty_rows(
    config: ModelConfig, ratio: int, size: int, batch: int, device: torch.device | None
) -> BlockRows:
    """Rows before the first token: none for HCA; for CSA an absent previous block (value 0, gate -inf)."""
    if ratio != CSA_RATIO:
        empty = torch.zeros(batch, 0, size, device=device)
        return BlockRows(empty, empty)
    shape = (batch, ratio, 2 * size)
    return BlockRows(torch.zeros(shape, device=device), torch.full(shape, -torch.inf, device=device))


def empty_layer(
    config: ModelConfig, ratio: int, batch: int, dtype: torch.dtype, device: torch.device | None
) -> LayerState:
    """The state of a layer with compression ``ratio`` before the first token."""
    layer = LayerState(torch.zeros(batch, 0, config.head_dim, dtype=dtype, device=device))
    if ratio:
        layer.entries = torch.zeros(batch, 0, config.head_dim, dtype=dtype, device=device)
        layer.rows = empty_rows(config, ratio, config.head_dim, batch, device)
    if ratio == CSA_RATIO:
        layer.index_keys = torch.zeros(batch, 0, config.index_head_dim, dtype=dtype, device=device)
        layer.index_rows = empty_rows(config, ratio, config.index_head_dim, batch, device)
    return layer
