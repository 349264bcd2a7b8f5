"""Routed experts streamed from disk under a memory budget: hot ones stay, cold ones make room.

Only a few of a model's experts work on any one token, yet all are most of its bytes. An `ExpertStore` keeps
as many of them in memory as a budget allows, each in one of a fixed number of slots, and reads the others
when they are asked for or, better, announced.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

from dsv4_model.checkpoint_reader import Checkpoint
from dsv4_model.config import ModelConfig
from dsv4_model.expert_files import ExpertFiles
from dsv4_model.expert_reads import ExpertRead, ReadQueue
from dsv4_model.weights import ExpertWeights

__all__ = ["ExpertBudgetError", "ExpertStatistics", "ExpertStore"]

_HALF_LIFE = 8  # passes over all layers after which a use counts half as much


class ExpertBudgetError(Exception):
    """The memory budget for routed experts is too small for what was asked. ``minimum`` is in bytes."""

    def __init__(self, problem: str, remedy: str, minimum: int) -> None:
        super().__init__(f"{problem} {remedy}")
        self.remedy = remedy
        self.minimum = minimum


@dataclass(frozen=True, slots=True)
class ExpertStatistics:
    """What a store did so far; experts are counted once a request.

    Attributes:
        hits: found in memory.
        awaited: announced early enough to be on their way, not early enough to be there.
        misses: read only when they were asked for.
        evictions: experts that made room.
        bytes_read: from the files.
        waited_s: seconds that requests spent waiting for reads.
    """

    hits: int = 0
    awaited: int = 0
    misses: int = 0
    evictions: int = 0
    bytes_read: int = 0
    waited_s: float = 0.0

    @property
    def hit_rate(self) -> float:
        """Part of all requested experts that was in memory, 0 to 1."""
        return self.hits / max(1, self.hits + self.awaited + self.misses)


class ExpertStore:
    """Routed experts of a checkpoint by layer and expert number, in ``capacity`` slots of ``slot_bytes``.

    Safe to use from several threads. What makes room is what was used least, where each use counts half as
    much after a few passes over all layers: one long prompt doesn't drive out what every token needs.

    Args:
        checkpoint: where the experts lie. Its files must stay; a changed one is noticed when it is read.
        config: of the same model.
        budget: bytes for all slots together, taken once, now. What is needed beside is a few KiB, and off the
            CPU one slot of staging memory for each reader.
        device: where slots lie: ``cpu`` or a GPU.
        readers: threads that read files.

    Raises:
        ExpertBudgetError: the budget is below one token's need of one layer, or can't be had.
        CheckpointError: an expert is missing, misshapen or stored in a way that can't be streamed.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        config: ModelConfig,
        budget: int,
        *,
        device: torch.device | str = "cpu",
        readers: int = 2,
    ) -> None:
        self.files = ExpertFiles(checkpoint, config)
        self.device = torch.device(device)
        self.slot_bytes = self.files.buffer_bytes
        self.minimum = config.num_experts_per_tok * self.slot_bytes
        if budget < self.minimum:
            raise ExpertBudgetError(
                f"A budget of {budget:,} bytes can't hold the {config.num_experts_per_tok} experts that one "
                "token needs in one layer.",
                f"Give at least {self.minimum:,} bytes.",
                self.minimum,
            )
        self.layers = len(self.files.prefixes)
        self.capacity = min(budget // self.slot_bytes, self.layers * self.files.experts)
        self._chosen = config.num_experts_per_tok
        self._slots = self._allocate()
        self._staging = threading.local()
        self._queue = ReadQueue(readers, self._read)
        # Guards all that follows; loads run outside of it and tell by the condition when they are done.
        self._done = threading.Condition(threading.RLock())
        self._where: dict[tuple[int, int], int] = {}
        self._held: list[tuple[int, int] | None] = [None] * self.capacity
        self._views: list[ExpertWeights | None] = [None] * self.capacity
        self._loads: list[Future[None] | None] = [None] * self.capacity
        self._pins = np.zeros(self.capacity, np.int64)
        self._busy = np.zeros(self.capacity, bool)
        self._promised = np.zeros(
            self.capacity, np.int64
        )  # the time until which it is kept for its announcer
        self._heat = np.full(self.capacity, -np.inf)
        self._heats = np.full((self.layers, self.files.experts), -np.inf)  # outlives the stay in a slot
        self._time = 0  # requests so far
        self._last: dict[int, tuple[tuple[int, ...], tuple[int, ...]]] = {}  # by layer, two requests
        self._returned: deque[int] = deque()  # slots of ended leases; filled at any time, by any thread
        self._statistics = ExpertStatistics()

    def __enter__(self) -> ExpertStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the readers, close the files, and give the memory back once nobody uses what was handed out."""
        self._queue.close()
        self.files.close()
        self._views = []
        self._slots = torch.empty(0)

    @property
    def nbytes(self) -> int:
        """Bytes of all slots; at most the budget."""
        return self.capacity * self.slot_bytes

    @property
    def statistics(self) -> ExpertStatistics:
        """What was done so far."""
        with self._done:
            return self._statistics

    def announce(self, layer: int, experts: Iterable[int]) -> None:
        """Start reading what ``layer`` will soon ask for; returns at once and never fails.

        As much is begun as fits beside what is in use and what was announced within the last pass. A fault of
        the file shows when the expert is asked for.
        """
        with self._done:
            self._take_back()
            for expert in dict.fromkeys(experts):
                slot = self._where.get((layer, expert))
                if slot is None:
                    slot = self._free_slot(unpromised=True)
                    if slot is None:
                        return
                    self._start(slot, layer, expert, urgent=False)
                self._promised[slot] = self._time + self.layers

    def likely(self, layer: int) -> tuple[int, ...]:
        """What ``layer`` asked for twice in a row, and so will probably ask for again.

        The last request alone is a poor guess: a read that nobody wants holds up those that are waited for.
        """
        with self._done:
            before, last = self._last.get(layer, ((), ()))
            return tuple(expert for expert in last if expert in before)

    def get(self, layer: int, experts: Iterable[int]) -> list[ExpertWeights]:
        """The weights of ``experts`` in this order, read now where need be and kept until `release`.

        They are views of the slots: not to be used after `release`.

        Raises:
            ExpertBudgetError: too few slots are held by no one else; ask for fewer, as `groups` does.
            CheckpointError: a file can't be read; a later call tries again.
        """
        order = list(experts)
        slots = self._pin(layer, list(dict.fromkeys(order)))
        return [self._weights(slots[e], layer, e) for e in order]

    def release(self, layer: int, experts: Iterable[int]) -> None:
        """End what one `get` of the same experts began."""
        with self._done:
            for expert in dict.fromkeys(experts):
                self._pins[self._where[layer, expert]] -= 1
            self._done.notify_all()

    def lease(self, layer: int, experts: Iterable[int]) -> list[ExpertWeights]:
        """As `get`, but each expert is kept as long as any of its tensors is referred to, without `release`.

        Off the CPU they are copies.
        """
        order = list(experts)
        slots = self._pin(layer, list(dict.fromkeys(order)))
        leased: dict[int, ExpertWeights] = {}
        for expert, slot in slots.items():
            if self.device.type == "cpu":
                # The tensors own this view, and it tells when the last of them is gone.
                view = self._slots[slot].numpy().data
                weakref.finalize(view, self._returned.append, slot).atexit = False
                leased[expert] = self.files.weights(layer, expert, torch.frombuffer(view, dtype=torch.uint8))
            else:
                leased[expert] = self.files.weights(layer, expert, self._slots[slot].clone())
                self._returned.append(slot)
        return [leased[expert] for expert in order]

    def groups(self, layer: int, experts: Iterable[int]) -> Iterator[list[tuple[int, ExpertWeights]]]:
        """All ``experts``, however many, in groups that fit: what is in memory first, the next read ahead.

        A group may be used until the next one is asked for.

        Raises:
            ExpertBudgetError: not even one expert fits beside what others hold.
            CheckpointError: a file can't be read.
        """
        with self._done:
            rest = sorted(dict.fromkeys(experts), key=lambda e: (layer, e) not in self._where)
        size = max(1, self.capacity // 2)
        while rest:
            group = rest[:size]
            try:
                found = self.get(layer, group)
            except ExpertBudgetError:
                if len(group) == 1:
                    raise
                size = len(group) // 2
                continue
            try:
                rest = rest[size:]
                self.announce(layer, rest[:size])
                yield list(zip(group, found, strict=True))
            finally:
                self.release(layer, group)

    def _allocate(self) -> Tensor:
        try:
            return torch.empty(self.capacity, self.slot_bytes, dtype=torch.uint8, device=self.device)
        except RuntimeError as error:  # also what a GPU without room raises
            raise ExpertBudgetError(
                f"{self.nbytes:,} bytes for routed experts can't be had on {self.device}.",
                f"Lower the budget; at least {self.minimum:,} bytes are needed.",
                self.minimum,
            ) from error

    def _pin(self, layer: int, experts: list[int]) -> dict[int, int]:
        began = time.monotonic()
        pinned: dict[int, int] = {}
        loads: list[Future[None]] = []
        try:
            with self._done:
                self._time += 1
                self._last[layer] = (self._last.get(layer, ((), ()))[1], tuple(experts[: self._chosen]))
                self._take_back()
                known = [expert for expert in experts if (layer, expert) in self._where]
                for expert in known:  # first, so that none of them makes room for another
                    pinned[expert] = self._use(self._where[layer, expert], layer, expert, loads)
                self._count(
                    hits=len(known) - len(loads), awaited=len(loads), misses=len(experts) - len(known)
                )
                for expert in experts:
                    if expert in pinned:
                        continue
                    free = self._wait_for_slot(len(experts))
                    slot = self._where.get((layer, expert))  # while waiting, another thread may have begun it
                    slot = self._start(free, layer, expert, urgent=True) if slot is None else slot
                    pinned[expert] = self._use(slot, layer, expert, loads)
            wait(loads)
            for load in loads:
                load.result()
        except BaseException:
            with self._done:
                for slot in pinned.values():
                    self._pins[slot] -= 1
                self._done.notify_all()
            raise
        if loads:
            self._count(waited_s=time.monotonic() - began)
        return pinned

    def _use(self, slot: int, layer: int, expert: int, loads: list[Future[None]]) -> int:
        self._pins[slot] += 1
        load = self._loads[slot]
        if load is not None:
            loads.append(load)
            self._queue.hurry(slot)
        self._promised[slot] = 0
        now = self._time / (_HALF_LIFE * self.layers)
        # Sums of 2^(time of use / half-life), as logarithms: two experts never change places by mere waiting.
        self._heats[layer, expert] = self._heat[slot] = np.logaddexp2(self._heats[layer, expert], now)
        return slot

    def _take_back(self) -> None:
        while self._returned:
            self._pins[self._returned.popleft()] -= 1

    def _weights(self, slot: int, layer: int, expert: int) -> ExpertWeights:
        view = self._views[slot]
        if view is None:
            view = self._views[slot] = self.files.weights(layer, expert, self._slots[slot])
        return view

    def _wait_for_slot(self, wanted: int) -> int:
        while True:
            slot = self._free_slot(unpromised=False)
            if slot is not None:
                return slot
            announced = self._queue.take_back()
            if announced is not None:
                self._forget(announced)
                continue
            # What is on its way to someone's announcement can make room once it has arrived.
            if not (self._busy & (self._pins == 0)).any():
                raise ExpertBudgetError(
                    f"{wanted} experts are wanted at once, but of {self.capacity} slots too few are free.",
                    "Ask for fewer at a time, release what is no longer needed, or raise the budget.",
                    wanted * self.slot_bytes,
                )
            self._done.wait()

    def _free_slot(self, *, unpromised: bool) -> int | None:
        """The coldest slot that nobody uses; where there is a choice, one that wasn't announced."""
        free = (self._pins == 0) & ~self._busy
        quiet = free & (self._promised <= self._time)
        if quiet.any():
            free = quiet
        elif unpromised or not free.any():
            return None
        return int(np.where(free, self._heat, np.inf).argmin())

    def _start(self, slot: int, layer: int, expert: int, *, urgent: bool) -> int:
        before = self._held[slot]
        if before is not None:
            del self._where[before]
            self._count(evictions=1)
        self._where[layer, expert] = slot
        self._held[slot] = (layer, expert)
        self._views[slot] = None
        self._heat[slot] = self._heats[layer, expert]
        self._busy[slot] = True
        done: Future[None] = Future()
        self._loads[slot] = done
        self._queue.add(ExpertRead(slot, layer, expert, done), urgent=urgent)
        return slot

    def _read(self, read: ExpertRead) -> None:
        try:
            count = self._fill(read)
        except BaseException:
            with self._done:
                self._forget(read)
            raise
        with self._done:
            self._busy[read.slot] = False
            self._loads[read.slot] = None
            self._count(bytes_read=count)
            self._done.notify_all()

    def _fill(self, read: ExpertRead) -> int:
        target = self._slots[read.slot]
        if self.device.type == "cpu":
            return self.files.read(read.layer, read.expert, target.numpy().data)
        staging = self._staging_buffer()
        count = self.files.read(read.layer, read.expert, staging.numpy().data)
        target.copy_(staging)
        return count

    def _forget(self, read: ExpertRead) -> None:
        del self._where[read.layer, read.expert]
        self._held[read.slot] = self._loads[read.slot] = None
        self._busy[read.slot] = False
        self._heat[read.slot] = -np.inf
        self._done.notify_all()

    def _staging_buffer(self) -> Tensor:
        if not hasattr(self._staging, "buffer"):
            pinned = self.device.type == "cuda"
            self._staging.buffer = torch.empty(self.slot_bytes, dtype=torch.uint8, pin_memory=pinned)
        buffer: Tensor = self._staging.buffer
        return buffer

    def _count(self, **more: float) -> None:
        with self._done:
            now = {name: getattr(self._statistics, name) + value for name, value in more.items()}
            self._statistics = replace(self._statistics, **now)
