"""Which layers go to which of several devices, by their bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dsv4_model.config import ModelConfig

if TYPE_CHECKING:
    from dsv4_model.checkpoint_file import TensorInfo

__all__ = ["LayerSplit", "LayerSplitError", "layer_sizes", "split_layers"]


class LayerSplitError(ValueError):
    """The layers don't fit on the devices. ``missing`` is the least number of bytes that are short."""

    def __init__(self, problem: str, remedy: str, missing: int) -> None:
        super().__init__(f"{problem} {remedy}")
        self.remedy = remedy
        self.missing = missing


@dataclass(frozen=True, slots=True)
class LayerSplit:
    """``devices[n]`` is the device of layer n; numbers never fall, so a token visits each device once.

    ``loads`` is the bytes that each device holds.
    """

    devices: tuple[int, ...]
    loads: tuple[int, ...]


def split_layers(
    sizes: Sequence[int], capacities: Sequence[int], *, first: int = 0, last: int = 0
) -> LayerSplit:
    """Give each device a run of neighbouring layers so that the fullest device, by the part of its capacity
    that is taken, is as empty as can be.

    Args:
        sizes: bytes of each layer, in order.
        capacities: bytes that each device has room for, in the order in which a token visits them.
        first: further bytes on the first device (the embedding).
        last: further bytes on the last device (the head).

    Raises:
        LayerSplitError: they don't fit.
        ValueError: no device, or a negative size or capacity.
    """
    if not capacities or min((*sizes, *capacities, first, last)) < 0:
        raise ValueError("split_layers needs a device, and sizes that aren't negative")
    count, end = len(sizes), len(capacities) - 1
    before = [0]
    for size in sizes:
        before.append(before[-1] + size)

    def load(device: int, start: int, stop: int) -> int:
        extra = (first if device == 0 else 0) + (last if device == end else 0)
        return before[stop] - before[start] + extra

    def fullness(device: int, start: int, stop: int) -> float:
        held = load(device, start, stop)
        if held == 0:
            return 0.0
        return held / capacities[device] if capacities[device] else float("inf")

    # best[stop]: the fullest device, and where each device's run ends, for the first `stop` layers so far.
    best: list[tuple[float, tuple[int, ...]]] = [(fullness(0, 0, n), (n,)) for n in range(count + 1)]
    for device in range(1, end + 1):
        best = [
            min(
                (max(best[start][0], fullness(device, start, stop)), (*best[start][1], stop))
                for start in range(stop + 1)
            )
            for stop in range(count + 1)
        ]
    stops = best[count][1]
    starts = (0, *stops[:-1])
    loads = tuple(load(d, a, b) for d, (a, b) in enumerate(zip(starts, stops, strict=True)))
    over = [held - room for held, room in zip(loads, capacities, strict=True) if held > room]
    if over:
        total = sum(loads)
        raise LayerSplitError(
            f"{count} layers of {total:,} bytes in all don't fit as whole layers on devices with room for "
            f"{sum(capacities):,} bytes.",
            f"Free {max(over):,} bytes on the fullest device, add a device, or stream routed experts.",
            max(over),
        )
    return LayerSplit(
        tuple(d for d, (a, b) in enumerate(zip(starts, stops, strict=True)) for _ in range(a, b)), loads
    )


def layer_sizes(tensors: Mapping[str, TensorInfo], config: ModelConfig, *, experts: bool = True) -> list[int]:
    """Stored bytes of each main layer of a checkpoint; ``experts=False`` leaves the routed ones out."""
    sizes = [0] * config.num_hidden_layers
    for name, info in tensors.items():
        match name.split("."):
            case ["layers", number, "ffn", "experts", *_] if not experts and number.isdecimal():
                continue
            case ["layers", number, *_] if number.isdecimal() and int(number) < len(sizes):
                sizes[int(number)] += info.nbytes
    return sizes
