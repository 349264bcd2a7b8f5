"""Weights on another device."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from dsv4_model.matrix import Matrix
from dsv4_model.weights import (
    CompressorWeights,
    ExpertWeights,
    IndexerWeights,
    LayerWeights,
    LazyExperts,
    MixingWeights,
    ModelWeights,
    MtpWeights,
)

__all__ = ["placed"]

T = TypeVar("T")

_PARTS = (
    ModelWeights,
    LayerWeights,
    MtpWeights,
    ExpertWeights,
    CompressorWeights,
    IndexerWeights,
    MixingWeights,
)


def placed(weights: T, device: torch.device | str) -> T:
    """``weights`` (`ModelWeights` or any part of it) with all tensors on ``device``, packed as they are.

    Raises:
        TypeError: experts are streamed from disk, so they can't be anywhere else.
    """
    moved: Any = weights
    if isinstance(weights, LazyExperts):
        raise TypeError("experts that are streamed from disk can't be placed on a device")
    if isinstance(weights, Tensor | Matrix):
        moved = weights.to(device)
    elif isinstance(weights, tuple):
        moved = tuple(placed(part, device) for part in weights)
    elif isinstance(weights, _PARTS):
        parts = {field.name: placed(getattr(weights, field.name), device) for field in fields(weights)}
        moved = replace(weights, **parts)
    return moved
