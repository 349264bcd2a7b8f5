"""A state on disk against computing it again: what a resumed session saves."""

from __future__ import annotations

from pathlib import Path

from bench.engine.contestants import timed
from bench.engine.models import Subject
from dsv4_model.prefix_store import PrefixStore


def seconds_to_restore(
    subject: Subject, ids: list[int], folder: Path, *, threads: int
) -> tuple[float, float]:
    """Seconds to compute ``ids`` and to restore the same state from disk, in an engine that never saw them.

    Raises:
        RuntimeError: nothing was restored, so there is nothing to compare.
    """
    store = PrefixStore(folder / "states")
    first = subject.engine(threads, store)
    sequence = first.sequence()
    computed = timed(lambda: sequence.sync(ids))
    first.keep(sequence)
    second = subject.engine(threads, store)
    second.store_key  # noqa: B018 - a digest of the weights, taken once a process
    resumed = second.sequence()
    reports = []
    restored = timed(lambda: reports.append(resumed.sync(ids)))
    if reports[0].restored < 0.9 * len(ids):
        raise RuntimeError(f"only {reports[0].restored} of {len(ids)} tokens were restored")
    return computed, restored
