"""Which device holds which weights, and putting them there."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Items
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from dsv4_model.cache.formats import PAGE_TOKENS
from dsv4_model.cache.layout import CacheLayout
from dsv4_model.config import ModelConfig
from dsv4_model.layer_split import split_layers
from dsv4_model.layer_weights import LayerWeights, LazyExperts
from dsv4_model.matrix import Matrix
from dsv4_model.passes import Stage
from dsv4_model.weights import ModelWeights

__all__ = ["place", "placed", "plan_stages", "resident_bytes"]

T = TypeVar("T")

_PLANNED_TOKENS = 131_072
"""KV state that is counted with each layer: one long sequence, or many short ones."""


def plan_stages(
    weights: ModelWeights, layout: CacheLayout, devices: Items[torch.device], room: Items[int]
) -> tuple[Stage, ...]:
    """Neighbouring layers for each device, by the bytes of their weights and KV state.

    Devices that get no layer are left out.

    Args:
        weights: the model, wherever it is now; experts that are brought when asked for count nothing.
        layout: of its caches.
        devices: in the order in which a token visits them.
        room: bytes that each has room for.

    Raises:
        LayerSplitError: they don't fit.
    """
    tokens = min(_PLANNED_TOKENS, weights.config.max_position_embeddings)
    pages = -(-tokens // PAGE_TOKENS)
    sizes = []
    for number, layer in enumerate(weights.all_layers):
        state = layout.part(range(number, number + 1))
        sizes.append(resident_bytes(layer) + state.ring_bytes + pages * state.page_bytes)
    first = resident_bytes(weights.embed)
    last = resident_bytes((weights.norm, weights.head, weights.head_mixing))
    if weights.mtp is not None:
        last += resident_bytes(weights.mtp) - resident_bytes(weights.mtp.layer)
    chosen = list(devices)
    room = list(room)
    while True:
        split = split_layers(sizes, room, first=first, last=last)
        used = sorted(set(split.devices))
        if len(used) == len(chosen):
            break
        chosen, room = [chosen[n] for n in used], [room[n] for n in used]
    starts = [split.devices.index(n) for n in range(len(chosen))]
    stops = [*starts[1:], len(weights.all_layers)]
    return tuple(
        Stage(device, range(start, stop)) for device, start, stop in zip(chosen, starts, stops, strict=True)
    )


def place(
    weights: ModelWeights, stages: Items[Stage], experts: torch.device | str | None = None
) -> ModelWeights:
    """The model with every layer on its stage's device, packed as it is; see `Stage`.

    Args:
        weights: the model, wherever it is now.
        stages: that have all layers.
        experts: where routed experts go; None: to their layer. Those that are brought when asked for stay.
    """
    layers: list[LayerWeights] = []
    for stage in stages:
        for number in stage.layers:
            layer = weights.all_layers[number]
            if experts is not None or isinstance(layer.experts, LazyExperts):
                own = layer.experts if experts is None else placed(layer.experts, experts)
                layers.append(replace(placed(replace(layer, experts=()), stage.device), experts=own))
            else:
                layers.append(placed(layer, stage.device))
    first, last = stages[0].device, stages[-1].device
    mtp = weights.mtp
    if mtp is not None:
        mtp = replace(placed(replace(mtp, layer=layers[-1]), last), layer=layers.pop())
    return replace(
        weights,
        embed=placed(weights.embed, first),
        layers=tuple(layers),
        norm=placed(weights.norm, last),
        head=placed(weights.head, last),
        head_mixing=placed(weights.head_mixing, last),
        mtp=mtp,
    )


def placed(weights: T, device: torch.device | str) -> T:
    """``weights`` (`ModelWeights` or any part of it) with all tensors on ``device``, packed as they are.

    Experts that are brought when asked for stay where they are.
    """
    moved: Any = weights
    if isinstance(weights, LazyExperts):
        pass
    elif isinstance(weights, Tensor | Matrix):
        moved = weights.to(device)
    elif isinstance(weights, tuple):
        moved = tuple(placed(part, device) for part in weights)
    elif is_dataclass(weights) and not isinstance(weights, ModelConfig | type):
        parts: dict[str, Any] = {f.name: placed(getattr(weights, f.name), device) for f in fields(weights)}
        moved = replace(weights, **parts)
    return cast(T, moved)


def resident_bytes(part: object) -> int:
    """Bytes of all tensors of a part of the weights, but those of experts that are brought when asked for."""
    return sum(tensor.nbytes for tensor in _tensors(part))


def _tensors(part: object) -> Iterator[Tensor]:
    if isinstance(part, Tensor):
        yield part
    elif isinstance(part, tuple):
        for item in part:
            yield from _tensors(item)
    elif is_dataclass(part) and not isinstance(part, ModelConfig | type):
        for field in fields(part):
            yield from _tensors(getattr(part, field.name))
