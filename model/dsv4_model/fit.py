"""Whether a model fits a machine: whole in memory, with its experts left on disk, or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from dsv4_model.accounting import (
    CacheFormat,
    Component,
    kv_bytes,
    weight_bytes,
    weight_bytes_per_token,
)
from dsv4_model.config import ModelConfig
from dsv4_model.gpu_shares import GpuShare, gpu_shares
from dsv4_model.machine import Machine

__all__ = ["RUNTIME_BYTES", "Fit", "Place", "Verdict", "gigabytes", "judge", "longest_context"]

RUNTIME_BYTES: Final = 1 << 29
"""What a process needs beside weights and cache: interpreter and PyTorch (some 220 MB), activations of one
prefill chunk, allocator slack."""
_GPU_RESERVE: Final = 1 << 30  # of each GPU that has a part: activations, graphs, allocator slack
_SERVE: Final = "serve it (vLLM, SGLang, llama.cpp)"
_USEFUL_CONTEXT: Final = 4096  # tokens; advising less would help nobody's coding session


class Verdict(StrEnum):
    """How a model fits. ``unknown``: the system doesn't say how much memory it has."""

    FITS = "fits"
    FITS_WITH_EXPERT_OFFLOAD = "fits_with_expert_offload"
    TOO_LARGE = "too_large"
    UNKNOWN = "unknown"


class Place(StrEnum):
    """The memory that holds what is held."""

    RAM = "ram"
    GPU = "gpu"


@dataclass(frozen=True, slots=True)
class Fit:
    """The verdict on one model, context and cache format.

    Attributes:
        needed: bytes to hold everything: weights in the checkpoint's precision without draft stages, KV
            state, `RUNTIME_BYTES`.
        minimum: bytes to hold everything but the routed experts, and of those what one token needs.
        available: bytes of memory that may be used; None if unknown.
        expert_budget: bytes that remain for experts in memory; None unless experts stay on disk.
        longest_context: most tokens for which the verdict stands; 0 where nothing fits.
        gpu_shares: which layers go to which GPU, where it takes several to hold them.
        reasons, advice: one line each.
    """

    verdict: Verdict
    needed: int
    minimum: int
    available: int | None
    place: Place | None = None
    expert_budget: int | None = None
    longest_context: int = 0
    gpu_shares: tuple[GpuShare, ...] = ()
    reasons: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Needs:
    """Bytes: weights outside the routed experts, those, what one token takes of them, KV state."""

    dense: int
    experts: int
    chosen: int
    kv: int

    @property
    def weights(self) -> int:
        return self.dense + self.experts

    @property
    def base(self) -> int:
        return self.dense + self.kv + RUNTIME_BYTES

    @property
    def whole(self) -> int:
        return self.base + self.experts

    @property
    def minimum(self) -> int:
        return self.base + self.chosen


def judge(
    config: ModelConfig,
    machine: Machine,
    *,
    context: int,
    cache: CacheFormat,
    weights: Mapping[Component, int] | None = None,
    on_disk: bool = False,
) -> Fit:
    """Judge a model for ``context`` tokens in one sequence.

    Args:
        config: the model.
        machine: what there is; see `read_machine`.
        context: tokens to hold.
        cache: format of the cache.
        weights: stored bytes by component, where known from files; else they are computed.
        on_disk: whether all weights are on this machine's disk already.
    """
    needs = _needs(config, weights, context, cache)
    reasons = [_sum(needs, context, cache), _machine_line(machine)]
    advice = [] if on_disk else [_download(needs, machine)]
    if machine.available is None:
        advice.append("Compare the bytes needed with this machine's memory yourself.")
        return _fit(Verdict.UNKNOWN, needs, machine, reasons, advice)
    gpu = max((gpu.free for gpu in machine.gpus), default=0)
    for place, room in ((Place.RAM, machine.available), (Place.GPU, gpu)):
        if needs.whole > room:
            continue
        longest = longest_context(config, room - needs.weights - RUNTIME_BYTES, cache)
        if place is Place.GPU:
            reasons.append("One GPU's memory holds it all; main memory doesn't.")
            advice.append(f"Run it with --device cuda, or {_SERVE} from the GPU.")
        elif needs.base + _GPU_RESERVE <= gpu:
            advice.append(
                "With --device cuda the GPU runs it; experts that don't fit there stay in main memory."
            )
        return _fit(Verdict.FITS, needs, machine, reasons, advice, place=place, longest=longest)
    if len(machine.gpus) > 1:
        shares = gpu_shares(config, machine.gpus, context=context, cache=cache, reserve=_GPU_RESERVE)
        if shares:
            reasons += ["All GPUs together hold it, each some of the layers:", *map(_share_line, shares)]
            advice.append(f"Run it with --device cuda, or {_SERVE} from the GPUs.")
            split = _fit(Verdict.FITS, needs, machine, reasons, advice, place=Place.GPU, longest=context)
            return replace(split, gpu_shares=shares)
    disk = on_disk or machine.disk_free is None or machine.disk_free >= needs.weights
    if needs.minimum > machine.available or not disk:
        reasons.append(f"Even with experts left on disk, {gigabytes(needs.minimum)} must be in memory.")
        advice = _advice_too_large(config, machine, needs, context, cache, disk)
        return _fit(Verdict.TOO_LARGE, needs, machine, reasons, advice)
    budget = min(needs.experts, machine.available - needs.base)
    longest = longest_context(config, machine.available - needs.minimum + needs.kv, cache)
    reasons.append(_offload(needs, budget))
    advice.append(f"Run it with expert offload and a memory budget of {gigabytes(budget)} for experts.")
    advice += _to_fit_whole(config, machine.available, needs, context, cache)
    advice.append(f"Faster: {_server(machine, needs)}")
    verdict = Verdict.FITS_WITH_EXPERT_OFFLOAD
    return _fit(
        verdict, needs, machine, reasons, advice, place=Place.RAM, expert_budget=budget, longest=longest
    )


def longest_context(config: ModelConfig, room: int, cache: CacheFormat) -> int:
    """Most tokens, up to the model's maximum, whose KV state takes at most ``room`` bytes."""
    low, high = 0, config.max_position_embeddings
    if kv_bytes(config, 1, cache).held > room:
        return 0
    while low < high:
        middle = (low + high + 1) // 2
        if kv_bytes(config, middle, cache).held <= room:
            low = middle
        else:
            high = middle - 1
    return low


def gigabytes(size: float) -> str:
    """Bytes for people, three digits: ``147 GB``, ``3.64 MB`` (powers of ten), ``584 B``."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= 0.9995 * factor:
            value = size / factor
            digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
            return f"{value:,.{digits}f} {unit}"
    return f"{size:.0f} B"


def _needs(
    config: ModelConfig, weights: Mapping[Component, int] | None, context: int, cache: CacheFormat
) -> _Needs:
    sizes = weight_bytes(config) if weights is None else weights
    experts = sizes[Component.ROUTED_EXPERTS]
    dense = sum(sizes.values()) - experts - sizes[Component.MTP]
    chosen = min(experts, weight_bytes_per_token(config)[Component.ROUTED_EXPERTS])
    return _Needs(dense, experts, chosen, kv_bytes(config, context, cache).held)


def _fit(
    verdict: Verdict,
    needs: _Needs,
    machine: Machine,
    reasons: list[str],
    advice: list[str],
    *,
    place: Place | None = None,
    expert_budget: int | None = None,
    longest: int = 0,
) -> Fit:
    return Fit(
        verdict=verdict,
        needed=needs.whole,
        minimum=needs.minimum,
        available=machine.available,
        place=place,
        expert_budget=expert_budget,
        longest_context=longest,
        reasons=tuple(reasons),
        advice=tuple(line for line in advice if line),
    )


def _sum(needs: _Needs, context: int, cache: CacheFormat) -> str:
    return (
        f"Needed: {gigabytes(needs.weights)} of weights ({gigabytes(needs.experts)} of them routed experts), "
        f"{gigabytes(needs.kv)} of KV state for {context:,} tokens in {cache.value}, "
        f"{gigabytes(RUNTIME_BYTES)} for the process: {gigabytes(needs.whole)} in all."
    )


def _machine_line(machine: Machine) -> str:
    if machine.available is None:
        return "This system doesn't say how much memory it has."
    parts = [f"{gigabytes(machine.available)} of memory are available"]
    if machine.total is not None:
        parts[0] += f" (of {gigabytes(machine.total)})"
    parts += [f"{gpu.name} with {gigabytes(gpu.free)} free" for gpu in machine.gpus]
    if machine.disk_free is not None:
        parts.append(f"{gigabytes(machine.disk_free)} of disk are free")
    return f"This machine: {'; '.join(parts)}."


def _share_line(share: GpuShare) -> str:
    return (
        f"layers {share.first} to {share.last} on GPU {share.gpu} ({share.name}): {gigabytes(share.nbytes)}."
    )


def _offload(needs: _Needs, budget: int) -> str:
    share = budget / needs.experts
    return (
        f"With experts left on disk, {gigabytes(needs.base)} must be in memory; "
        f"{gigabytes(budget)} remain for {share:.0%} of the experts, and a token uses "
        f"{gigabytes(needs.chosen)} of experts, read from disk where they aren't in memory."
    )


def _download(needs: _Needs, machine: Machine) -> str:
    line = f"The weights aren't all here; they take {gigabytes(needs.weights)} of disk"
    if machine.disk_free is not None and machine.disk_free < needs.weights:
        line += f", but only {gigabytes(machine.disk_free)} are free"
    return f"{line}."


def _to_fit_whole(
    config: ModelConfig, available: int, needs: _Needs, context: int, cache: CacheFormat
) -> list[str]:
    """What would make everything fit into memory."""
    room = available - needs.weights - RUNTIME_BYTES
    return _smaller_state(config, room, context, cache, "all of it fits into memory")


def _advice_too_large(
    config: ModelConfig, machine: Machine, needs: _Needs, context: int, cache: CacheFormat, disk: bool
) -> list[str]:
    assert machine.available is not None
    advice = []
    if not disk:
        advice.append(
            f"Free {gigabytes(needs.weights)} of disk for the weights, or name a folder that has it."
        )
    missing = needs.minimum - machine.available
    if missing > 0:
        room = machine.available - needs.minimum + needs.kv
        advice += _smaller_state(config, room, context, cache, "it runs with expert offload")
        if machine.total is not None and needs.minimum <= machine.total:
            advice.append(f"Close programs that hold {gigabytes(missing)} to run it with expert offload.")
    advice.append(f"Run {_server(machine, needs)}")
    return advice


def _server(machine: Machine, needs: _Needs) -> str:
    servers = "(vLLM, SGLang, llama.cpp), and connect to it."
    if len(machine.gpus) > 1 and sum(gpu.free for gpu in machine.gpus) >= needs.whole:
        return f"a server over all {len(machine.gpus)} GPUs, which hold it together {servers}"
    return f"a server on a machine with {gigabytes(needs.whole)} of memory {servers}"


def _smaller_state(
    config: ModelConfig, room: int, context: int, cache: CacheFormat, effect: str
) -> list[str]:
    advice = []
    longest = longest_context(config, room, cache)
    if _USEFUL_CONTEXT <= longest < context:
        advice.append(f"With a context of at most {longest:,} tokens {effect}.")
    order = list(CacheFormat)
    for smaller in order[order.index(cache) + 1 :]:
        if longest_context(config, room, smaller) >= context:
            advice.append(f"With the cache format {smaller.value} {effect}.")
            break
    return advice
