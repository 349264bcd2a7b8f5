"""Whether a checkpoint and a context fit these GPUs; sums, not trials."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dsv4_agent.server.launch_commands.checkpoint import Checkpoint, Family
from dsv4_agent.server.launch_commands.errors import LaunchError
from dsv4_agent.server.launch_commands.hardware import Gpus
from dsv4_model.accounting import CacheFormat, Component, bytes_per_token, weight_bytes

_USED: Final = 0.9
"""The share of a GPU's memory that engines take by default; the rest is for activations and graphs."""
_LEAST: Final = 32_768
"""Tokens; with less room than that a coding agent isn't served."""
_STEP: Final = 1_024
_RECIPES: Final = {(Family.PRO, "H200", 8, 1): 800_000}
"""Windows that the engines' authors give for machines on which the sums are close."""


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes on each GPU: what may be used, what the weights take; and the window that remains."""

    usable: int
    weights: int
    window: int


def room_for(checkpoint: Checkpoint, gpus: Gpus, nodes: int, *, replicated: bool) -> Room:
    """The room for one conversation. `replicated`: what isn't an expert lies on every GPU (data parallel).

    Raises `LaunchError`, with the sums, where a useful window doesn't fit.
    """
    count = gpus.count * nodes
    weights = _weights(checkpoint, count, replicated=replicated)
    usable = int(gpus.memory * _USED)
    each = bytes_per_token(checkpoint.config, CacheFormat.FP8)
    most = checkpoint.config.max_position_embeddings
    window = min(most, int((usable - weights) / each) // _STEP * _STEP)
    name = gpus.name.upper().split()[-1] if gpus.name else ""
    window = max(window, _RECIPES.get((checkpoint.family, name, gpus.count, nodes), 0))
    if window < _LEAST:
        where = f"{gpus} on {nodes} nodes" if nodes > 1 else str(gpus)
        raise LaunchError(
            f"{checkpoint.family} doesn't fit {where}: {_gb(weights)} of weights on each GPU, of whose "
            f"{_gb(gpus.memory)} an engine uses {_gb(usable)}, and {_gb(int(_LEAST * each))} for {_LEAST:,} "
            f"tokens: use at least {_enough(checkpoint, usable, replicated=replicated)} of them in all"
        )
    return Room(usable, weights, window)


def _weights(checkpoint: Checkpoint, count: int, *, replicated: bool) -> int:
    """Bytes of weights on each of `count` GPUs."""
    sizes = weight_bytes(checkpoint.config)
    split = sizes[Component.ROUTED_EXPERTS] + sizes.get(Component.MTP, 0)
    dense = sum(sizes.values()) - split
    return split // count + (dense if replicated else dense // count)


def _enough(checkpoint: Checkpoint, usable: int, *, replicated: bool) -> str:
    """The least power of two of such GPUs that would do."""
    least = _LEAST * bytes_per_token(checkpoint.config, CacheFormat.FP8)
    for count in (2**power for power in range(1, 9)):
        if _weights(checkpoint, count, replicated=replicated) + least <= usable:
            return str(count)
    return "larger GPUs, or more than 256"


def _gb(count: int) -> str:
    return f"{count / 1e9:,.1f} GB"
