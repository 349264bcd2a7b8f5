"""GPUs by name, or as this machine's driver counts them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from dsv4_agent.server.launch_commands.errors import LaunchError
from dsv4_model.machine import Gpu, read_machine

_MIB: Final = 1 << 20
_FORM: Final = re.compile(r"(\d{1,3})\s*x\s*([A-Za-z0-9][A-Za-z0-9 _-]{0,39})(?::(\d{1,4})\s*GB)?", re.ASCII)


class Architecture(StrEnum):
    """What an engine's kernels depend on."""

    HOPPER = "Hopper"
    BLACKWELL = "Blackwell"
    OTHER = "another architecture"


@dataclass(frozen=True, slots=True)
class Gpus:
    """The GPUs of one node, all alike. `memory` is in bytes, of each."""

    count: int
    name: str
    memory: int
    architecture: Architecture

    def __str__(self) -> str:
        return f"{self.count}x {self.name}"


_KNOWN: Final[Mapping[str, tuple[int, Architecture]]] = {
    "H100": (81_559, Architecture.HOPPER),
    "H20": (97_871, Architecture.HOPPER),
    "H200": (143_771, Architecture.HOPPER),
    "B200": (183_359, Architecture.BLACKWELL),
    "GB200": (189_471, Architecture.BLACKWELL),
    "B300": (275_040, Architecture.BLACKWELL),
    "GB300": (284_208, Architecture.BLACKWELL),
    "GB10": (122_570, Architecture.BLACKWELL),
    "A100": (81_920, Architecture.OTHER),
    "MI300X": (196_608, Architecture.OTHER),
    "MI325X": (262_144, Architecture.OTHER),
    "MI355X": (294_912, Architecture.OTHER),
}
"""MiB as drivers report them, rounded as little as their makers do."""


def parse_gpus(text: str) -> Gpus:
    """The GPUs of `8xH200`, or of `4xNAME:96GB` for one that isn't known here. Raises `LaunchError`."""
    found = _FORM.fullmatch(text.strip())
    if found is None or int(found[1]) < 1:
        raise LaunchError(f"--gpus {text!r} is not understood: write them as in 8xH200, or 4xNAME:96GB")
    name = found[2].strip()
    known = _KNOWN.get(name.upper())
    if found[3] is not None:
        architecture = Architecture.OTHER if known is None else known[1]
        return Gpus(int(found[1]), name, int(found[3]) * 10**9, architecture)
    if known is None:
        names = ", ".join(_KNOWN)
        raise LaunchError(f"the GPU {name!r} is not known: add its memory (4x{name}:96GB), or name {names}")
    return Gpus(int(found[1]), name.upper(), known[0] * _MIB, known[1])


def own_gpus() -> Gpus:
    """Those of this machine. Raises `LaunchError` where there are none or they differ."""
    return alike(read_machine(Path()).gpus)


def alike(gpus: tuple[Gpu, ...]) -> Gpus:
    """GPUs of a driver's list as one kind. Raises `LaunchError`."""
    if not gpus:
        raise LaunchError("nvidia-smi shows no GPU here: say which there are with --gpus, as in 8xH200")
    names = {gpu.name for gpu in gpus}
    if len(names) > 1:
        listed = ", ".join(sorted(names))
        raise LaunchError(f"the GPUs of this machine differ ({listed}): say which to use with --gpus")
    first = gpus[0]
    return Gpus(len(gpus), first.name, min(gpu.total for gpu in gpus), _architecture(first.name))


def _architecture(name: str) -> Architecture:
    words = set(re.split(r"[^A-Z0-9]+", name.upper()))
    return next((kind for known, (_, kind) in _KNOWN.items() if known in words), Architecture.OTHER)
