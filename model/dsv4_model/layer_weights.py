"""The weights of one layer for inference, as they are stored."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from dsv4_model.matrix import Matrix

__all__ = [
    "CompressorWeights",
    "ExpertWeights",
    "IndexerWeights",
    "LayerWeights",
    "LazyExperts",
    "MixingWeights",
    "MtpWeights",
]


@dataclass(frozen=True, slots=True)
class MixingWeights:
    """Hyper-connection maps of one site, fp32: ``fn [24, 4 d]``, ``base [24]``, ``scale [3]``."""

    fn: Tensor
    base: Tensor
    scale: Tensor


@dataclass(frozen=True, slots=True)
class CompressorWeights:
    """``ape`` fp32 ``[ratio, channels]``, ``norm`` fp32 ``[size]``."""

    wkv: Matrix
    wgate: Matrix
    ape: Tensor
    norm: Tensor


@dataclass(frozen=True, slots=True)
class IndexerWeights:
    """The lightning indexer of a CSA layer."""

    wq_b: Matrix
    weights_proj: Matrix
    compressor: CompressorWeights


@dataclass(frozen=True, slots=True)
class ExpertWeights:
    """One SwiGLU expert: gate ``w1``, value ``w3``, output ``w2``."""

    w1: Matrix
    w2: Matrix
    w3: Matrix

    @property
    def matrices(self) -> tuple[Matrix, Matrix, Matrix]:
        """w1, w2, w3: the order of the native back end."""
        return self.w1, self.w2, self.w3


@runtime_checkable
class LazyExperts(Protocol):
    """Experts of a layer that are brought into memory when they are asked for."""

    def several(self, experts: Iterable[int]) -> Items[ExpertWeights]:
        """These experts; they stay in memory while the result is held."""
        ...

    def announce(self, experts: Iterable[int]) -> None:
        """Start bringing these."""
        ...

    def announce_likely(self) -> None:
        """Start bringing what the layer will probably want next."""
        ...


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer. ``experts`` may be lazy: asking it for number e gives that expert's weights."""

    ratio: int
    attn_norm: Tensor
    ffn_norm: Tensor
    attn_mixing: MixingWeights
    ffn_mixing: MixingWeights
    sink: Tensor
    wq_a: Matrix
    q_norm: Tensor
    wq_b: Matrix
    wkv: Matrix
    kv_norm: Tensor
    wo_a: Matrix
    wo_b: Matrix
    compressor: CompressorWeights | None
    indexer: IndexerWeights | None
    gate: Matrix
    gate_bias: Tensor | None
    tid2eid: Tensor | None
    shared: ExpertWeights
    experts: Items[ExpertWeights]


@dataclass(frozen=True, slots=True)
class MtpWeights:
    """The draft block: a ratio-0 layer and what joins the streams with the next token's embedding."""

    layer: LayerWeights
    e_proj: Matrix
    h_proj: Matrix
    enorm: Tensor
    hnorm: Tensor
    norm: Tensor
    head_mixing: MixingWeights
