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
from dsv4_model.devices import cuda_devices, named_devices, rooms
from dsv4_model.layer_split import LayerSplitError, split_layers
from dsv4_model.layer_weights import LayerWeights, LazyExperts
from dsv4_model.matrix import Matrix
from dsv4_model.passes import Stage
from dsv4_model.weights import ModelWeights

__all__ = ["is_apart", "place", "placed", "placed_by_name", "plan_stages", "resident_bytes"]

T = TypeVar("T")

_PLANNED_TOKENS = 131_072
"""KV state that is counted with each layer: one long sequence, or many short ones."""


def placed_by_name(
    weights: ModelWeights, layout: CacheLayout, names: str, experts: str | None = None
) -> tuple[ModelWeights, tuple[Stage, ...]]:
    """The weights on the devices of a list such as ``cuda:0,cuda:1``, and which of these has which layers.

    ``cuda`` is the first GPU, or all of them where that is too small. ``experts`` names where experts go;
    None: to their layers, unless the devices are GPUs and too small, and then to main memory.

    Raises:
        DeviceError, LayerSplitError: what is wrong with the list.
        RuntimeError, AssertionError: PyTorch has no such device, or no room on it.
    """
    devices = _enough_gpus(weights) if names == "cuda" else named_devices(names)
    apart = None if experts is None else named_devices(experts)[0]
    if apart is None and _are_too_small(weights, layout, devices):
        apart = torch.device("cpu")
    if len(devices) == 1:
        stages: tuple[Stage, ...] = (Stage(devices[0], range(len(weights.all_layers))),)
    else:
        stages = plan_stages(weights, layout, devices, rooms(devices), experts_apart=apart is not None)
    return place(weights, stages, apart), stages


def _enough_gpus(weights: ModelWeights) -> tuple[torch.device, ...]:
    every = cuda_devices()
    if len(every) > 1 and resident_bytes(weights) > rooms(every)[0]:
        return every
    return named_devices("cuda")


def _are_too_small(weights: ModelWeights, layout: CacheLayout, devices: Items[torch.device]) -> bool:
    """Whether GPUs can't hold all of it."""
    if any(device.type != "cuda" for device in devices):
        return False
    try:
        plan_stages(weights, layout, devices, rooms(devices))
    except LayerSplitError:
        return True
    return False


def plan_stages(
    weights: ModelWeights,
    layout: CacheLayout,
    devices: Items[torch.device],
    room: Items[int],
    *,
    experts_apart: bool = False,
) -> tuple[Stage, ...]:
    """Neighbouring layers for each device, by the bytes of their weights and KV state.

    Devices that get no layer are left out.

    Args:
        weights: the model, wherever it is now; experts that are brought when asked for count nothing.
        layout: of its caches.
        devices: in the order in which a token visits them.
        room: bytes that each has room for.
        experts_apart: feed-forward sites lie elsewhere.

    Raises:
        LayerSplitError: they don't fit.
    """
    tokens = min(_PLANNED_TOKENS, weights.config.max_position_embeddings)
    pages = -(-tokens // PAGE_TOKENS)
    sizes = []
    for number, layer in enumerate(weights.all_layers):
        state = layout.part(range(number, number + 1))
        own = resident_bytes(layer) - (resident_bytes(_site(layer)) if experts_apart else 0)
        sizes.append(own + state.ring_bytes + pages * state.page_bytes)
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
        experts: where feed-forward sites (experts and their router) go; None: to their layer. Those whose
            experts are brought when asked for are on the CPU.
    """
    layers: list[LayerWeights] = []
    for stage in stages:
        for number in stage.layers:
            layer = weights.all_layers[number]
            site = "cpu" if isinstance(layer.experts, LazyExperts) else experts or stage.device
            gate, bias, table, shared, routed = (placed(part, site) for part in _site(layer))
            rest = placed(replace(layer, experts=()), stage.device)
            layers.append(
                replace(rest, gate=gate, gate_bias=bias, tid2eid=table, shared=shared, experts=routed)
            )
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


def is_apart(layer: LayerWeights, stage: Stage) -> bool:
    """Whether the layer's feed-forward site lies elsewhere than the layer."""
    return layer.gate.data.device != stage.device


def _site(layer: LayerWeights) -> tuple[Any, ...]:
    return layer.gate, layer.gate_bias, layer.tid2eid, layer.shared, layer.experts


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
