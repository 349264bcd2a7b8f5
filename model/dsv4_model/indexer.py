"""Lightning indexer of CSA layers: which compressed entries a query may attend to."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dsv4_model.compressor import Compressor
from dsv4_model.config import CSA_RATIO, ModelConfig
from dsv4_model.norm import Linear
from dsv4_model.rope import RopeTable, rotate
from dsv4_model.state import BlockRows

__all__ = ["Indexer", "top_k_mask"]


def top_k_mask(scores: Tensor, visible: Tensor, k: int) -> Tensor:
    """Boolean mask of the ``k`` best visible entries along the last axis.

    Tie rule: higher score first, then lower index. Rows with at most ``k`` visible entries keep them all.
    """
    if scores.shape[-1] <= k:
        return visible.expand(scores.shape)
    scores = scores.masked_fill(~visible, -torch.inf)
    threshold = scores.topk(k, dim=-1).values[..., -1:]
    above = scores > threshold
    level = scores == threshold
    room = k - above.sum(-1, keepdim=True)
    return (above | (level & (level.cumsum(-1) <= room))) & visible


class Indexer(nn.Module):
    """Scores entries as ``sum_h a_h * relu(q_h . k_w)`` with small heads and its own compressed keys.

    Selection is discrete, so nothing here receives a gradient from the language-model loss.
    """

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        super().__init__()
        self.heads = config.index_n_heads
        self.size = config.index_head_dim
        self.topk = config.index_topk
        self.scale = self.size**-0.5 * self.heads**-0.5
        self.simulate_quantization = False
        self.wq_b = Linear(config.q_lora_rank, self.heads * self.size, dtype, quantize_input=True)
        self.weights_proj = Linear(config.hidden_size, self.heads, dtype)
        self.compressor = Compressor(config, CSA_RATIO, self.size, dtype)

    def compress(
        self, x: Tensor, rows: BlockRows, position: int, rope: RopeTable
    ) -> tuple[Tensor | None, BlockRows]:
        """Index keys of the blocks closed by tokens ``x`` and the rows to keep; see `Compressor.forward`."""
        keys, rest = self.compressor(x, rows, position, rope)
        return (None if keys is None else self._coarse(keys)), rest

    def forward(
        self, x: Tensor, qr: Tensor, keys: Tensor, visible: Tensor, cos: Tensor, sin: Tensor
    ) -> Tensor:
        """Mask ``[B, S, n]`` of the selected entries.

        ``x [B, S, d]`` and ``qr [B, S, q_lora_rank]`` are the queries' hidden states and normalised latents,
        ``keys [B, n, index_head_dim]``, ``visible [S, n]``; ``cos`` and ``sin`` of the queries' positions.
        """
        return top_k_mask(self.scores(x, qr, keys, cos, sin), visible, self.topk)

    def scores(self, x: Tensor, qr: Tensor, keys: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Unmasked index scores ``[B, S, n]`` (fp32)."""
        q = self.wq_b(qr).view(*qr.shape[:2], self.heads, self.size)
        q = self._coarse(rotate(q, cos.unsqueeze(1), sin.unsqueeze(1)))
        weights = self.weights_proj(x).float() * self.scale
        products = torch.matmul(q.flatten(1, 2), keys.to(q.dtype).transpose(1, 2)).relu_()
        products = products.float().view(*q.shape[:3], -1)
        return torch.einsum("bsh,bshn->bsn", weights, products)

    def _coarse(self, x: Tensor) -> Tensor:
        """Hadamard and FP4 round trip; without quantisation the Hadamard cancels and is left out."""
        if not self.simulate_quantization:
            return x
        from dsv4_model.quantization import fp4_round_trip, hadamard

        return fp4_round_trip(hadamard(x), 32)
