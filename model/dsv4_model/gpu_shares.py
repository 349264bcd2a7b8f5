"""Which layers would go to which of a machine's GPUs, by arithmetic over the configuration alone."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass, replace

from dsv4_model.accounting import CacheFormat, kv_bytes
from dsv4_model.config import ModelConfig
from dsv4_model.layer_split import LayerSplitError, split_layers
from dsv4_model.machine import Gpu
from dsv4_model.weight_accounting import embedding_bytes, layer_weight_bytes, weight_bytes

__all__ = ["GpuShare", "gpu_shares"]


@dataclass(frozen=True, slots=True)
class GpuShare:
    """Layers ``first`` to ``last`` on one GPU (by its number): bytes of their weights and KV state."""

    gpu: int
    name: str
    first: int
    last: int
    nbytes: int


def gpu_shares(
    config: ModelConfig, gpus: Items[Gpu], *, context: int, cache: CacheFormat, reserve: int
) -> tuple[GpuShare, ...]:
    """Split the model over ``gpus``, ``reserve`` bytes of each left free; nothing where it doesn't fit.

    The embedding counts on the first, head and draft stages on the last.
    """
    sizes = [
        weights + kv_bytes(_alone(config, number), context, cache).held
        for number, weights in enumerate(layer_weight_bytes(config))
    ]
    first = embedding_bytes(config)
    last = sum(weight_bytes(config).values()) - sum(layer_weight_bytes(config)) - first
    rooms = [max(0, gpu.free - reserve) for gpu in gpus]
    try:
        split = split_layers(sizes, rooms, first=first, last=last)
    except LayerSplitError:
        return ()
    return tuple(
        GpuShare(
            number,
            gpus[number].name,
            split.devices.index(number),
            len(sizes) - 1 - split.devices[::-1].index(number),
            split.loads[number],
        )
        for number in sorted(set(split.devices))
    )


def _alone(config: ModelConfig, layer: int) -> ModelConfig:
    """A model of one of the layers, for what is counted by layer."""
    ratios = (config.ratio(layer),)
    return replace(config, num_hidden_layers=1, compress_ratios=ratios, num_nextn_predict_layers=0)
