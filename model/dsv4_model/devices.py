"""Names of devices, as users give them, and how much room each has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence as Items
from pathlib import Path
from typing import Final

import torch

from dsv4_model.machine import read_machine

__all__ = ["DeviceError", "cuda_devices", "named_devices", "rooms"]

_MOST: Final = 64
_KEPT_FREE: Final = 1 << 30
"""Bytes of each GPU for activations, graphs and the allocator's slack."""
_PLENTY: Final = 1 << 60
"""What a device counts as that doesn't say: all such devices share alike."""


class DeviceError(Exception):
    """A device that can't be used. Carries a remedy."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem} {remedy}")
        self.remedy = remedy


def named_devices(text: str) -> tuple[torch.device, ...]:
    """The devices of a list such as ``cuda:0,cuda:1``, in the order in which a token visits them.

    A device may be named twice, which splits it. Raises `DeviceError`.
    """
    names = [name.strip() for name in text.split(",")]
    if len(names) > _MOST:
        raise DeviceError(f"{len(names)} devices are named.", f"Name at most {_MOST}.")
    return tuple(_device(name) for name in names)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(
            f"{name!r} names no device.", "Name cpu, cuda, or a list such as cuda:0,cuda:1."
        ) from error
    # As tensors say it: a processor is one device, of others the first is meant.
    if device.type in ("cpu", "meta"):
        return torch.device(device.type)
    return torch.device(device.type, device.index or 0)


def cuda_devices() -> tuple[torch.device, ...]:
    """All GPUs that PyTorch sees."""
    return tuple(torch.device("cuda", number) for number in range(torch.cuda.device_count()))


def rooms(devices: Items[torch.device]) -> list[int]:
    """Free bytes of each device; what is named several times is shared."""
    shares = Counter(devices)
    return [_room(device) // shares[device] for device in devices]


def _room(device: torch.device) -> int:
    match device.type:
        case "cuda":
            free: int = torch.cuda.mem_get_info(device)[0]
            return max(0, free - _KEPT_FREE)
        case "cpu":
            available = read_machine(Path(), gpus=False).available
            return _PLENTY if available is None else available
        case _:
            return _PLENTY
