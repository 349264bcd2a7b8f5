"""Token compressor: every ``ratio`` tokens become one KV entry (HCA plain, CSA with overlap)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dsv4_model.config import CSA_RATIO, ModelConfig
from dsv4_model.norm import Linear, RMSNorm, linear_fp32
from dsv4_model.rope import RopeTable, rotate
from dsv4_model.state import BlockRows

__all__ = ["Compressor"]


class Compressor(nn.Module):
    """Per-channel softmax pooling of token blocks into normalised, rotated entries.

    Each token gives a value and a gate. HCA pools the ``ratio`` tokens of a block. CSA pools ``2 * ratio``
    slots: the first channel half of the previous block's tokens, then the second half of the block's own.
    """

    def __init__(self, config: ModelConfig, ratio: int, size: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.ratio = ratio
        self.size = size
        self.overlap = ratio == CSA_RATIO
        channels = 2 * size if self.overlap else size
        self.ape = nn.Parameter(torch.zeros(ratio, channels))
        self.wkv = Linear(config.hidden_size, channels, dtype)
        self.wgate = Linear(config.hidden_size, channels, dtype)
        self.norm = RMSNorm(size, config.rms_norm_eps, dtype)

    def forward(
        self, x: Tensor, rows: BlockRows, position: int, rope: RopeTable
    ) -> tuple[Tensor | None, BlockRows]:
        """Consume tokens ``x [B, S, d]`` starting at ``position``.

        Returns the entries of the blocks closed by this call, ``[B, m, size]`` in the dtype of ``x`` before
        quantisation (``None`` when no block was closed), and the rows to keep.
        """
        phase = position % self.ratio
        values = linear_fp32(x, self.wkv.weight)
        gates = linear_fp32(x, self.wgate.weight) + self._bias(phase, x.shape[1])
        values = torch.cat((rows.values, values), 1)
        gates = torch.cat((rows.gates, gates), 1)
        closed = (phase + x.shape[1]) // self.ratio
        if closed == 0:
            return None, BlockRows(values, gates)
        # What stays: the unfinished block, preceded for CSA by the block that was closed last.
        keep = closed * self.ratio
        rest = BlockRows(values[:, keep:], gates[:, keep:])
        pooled = self._pool(values, gates, closed).to(x.dtype)
        first = position - phase
        cos, sin = rope.span(first, closed, x.device, self.ratio)
        return rotate(self.norm(pooled), cos, sin), rest

    def _bias(self, phase: int, count: int) -> Tensor:
        if phase + count <= self.ratio:
            return self.ape[phase : phase + count]
        repeats = -(-(phase + count) // self.ratio)
        return self.ape.repeat(repeats, 1)[phase : phase + count]

    def _pool(self, values: Tensor, gates: Tensor, closed: int) -> Tensor:
        if not self.overlap:
            values = self._blocks(values, closed)
            gates = self._blocks(gates, closed)
        else:
            values = self._overlapped(self._blocks(values, closed + 1))
            gates = self._overlapped(self._blocks(gates, closed + 1))
        return (gates.softmax(2) * values).sum(2)

    def _blocks(self, rows: Tensor, count: int) -> Tensor:
        return rows[:, : count * self.ratio].reshape(rows.shape[0], count, self.ratio, rows.shape[2])

    def _overlapped(self, blocks: Tensor) -> Tensor:
        return torch.cat((blocks[:, :-1, :, : self.size], blocks[:, 1:, :, self.size :]), 2)
