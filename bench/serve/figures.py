"""From what clients saw to figures, their table and the bars that they are held to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import fmean, median
from typing import Any, Final

from bench.serve.clients import Tally
from bench.serve.server import Sample, slope

LEAST_FAIRNESS: Final = 0.95
MOST_GROWTH: Final = 1.03
"""Peak memory of the last third of the time against that of the middle third."""


def of_load(tallies: Sequence[Tally], seconds: float, samples: Sequence[Sample]) -> dict[str, Any]:
    """Figures of one load."""
    tokens = [tally.tokens for tally in tallies]
    finish = [fmean(tally.whole) for tally in tallies if tally.whole]
    errors = [error for tally in tallies for error in tally.errors]
    statuses: Counter[str] = sum((tally.statuses for tally in tallies), Counter())
    used = samples[-1].processor - samples[0].processor if samples else 0.0
    return {
        "clients": len(tallies),
        "seconds": seconds,
        "requests": sum(tally.finished for tally in tallies),
        "statuses": dict(sorted(statuses.items())),
        "errors": len(errors),
        "first_errors": errors[:5],
        "tokens_per_second": sum(tokens) / seconds,
        "processors": used / seconds,
        "fairness_of_tokens": jain(tokens),
        "fairness_of_finish_times": jain(finish),
        "request_seconds": spread([time for tally in tallies for time in tally.whole]),
        "first_token_seconds": spread([time for tally in tallies for time in tally.first]),
    }


def of_memory(samples: Sequence[Sample]) -> dict[str, Any]:
    """Resident memory over a load, whose first third is the warm-up."""
    third = max(1, len(samples) // 3)
    middle = max((sample.resident for sample in samples[third : 2 * third]), default=0)
    last = max((sample.resident for sample in samples[2 * third :]), default=0)
    return {
        "peak_after_warm_up": middle,
        "peak_at_the_end": last,
        "growth_after_warm_up": last / middle if middle else 1.0,
        "bytes_per_minute_after_warm_up": slope(samples[third:]),
        "every_10_seconds": [sample.resident for sample in samples[::10]],
    }


def missed(figures: dict[str, Any]) -> list[str]:
    """The bars that were missed, a line each."""
    lines = []
    for name in ("alone", "together", "overload"):
        load = figures[name]
        strange = set(load["statuses"]) - {"200", "429"}
        if load["errors"] or strange:
            lines.append(f"{name}: {load['errors']} errors, {load['statuses']}")
    if figures["together"]["statuses"].get("429"):
        lines.append("together: refusals although the queue is longer than the clients")
    for name in ("fairness_of_tokens", "fairness_of_finish_times"):
        if figures["together"][name] < LEAST_FAIRNESS:
            lines.append(f"{name} {figures['together'][name]:.3f} is under {LEAST_FAIRNESS}")
    growth = figures["memory"]["growth_after_warm_up"]
    if growth > MOST_GROWTH:
        lines.append(f"memory grew by a factor {growth:.3f} after warm-up")
    return lines


def jain(values: Sequence[float]) -> float:
    """Jain's index: 1 for equal shares, one by their number where one has all."""
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 0.0


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, 95th percentile and maximum."""
    if not values:
        return {"p50": 0.0, "p95": 0.0, "max": 0.0}
    ordered = sorted(values)
    return {"p50": median(ordered), "p95": ordered[int((len(ordered) - 1) * 0.95)], "max": ordered[-1]}


def table(figures: dict[str, Any]) -> str:
    """The figures, side by side."""
    loads = [figures[name] for name in ("alone", "together", "overload")]
    rows = [
        ("", ["one client", f"{loads[1]['clients']} clients", "overload"]),
        ("seconds", [f"{load['seconds']:.0f}" for load in loads]),
        ("requests", [f"{load['requests']:,}" for load in loads]),
        ("refused (429)", [f"{load['statuses'].get('429', 0):,}" for load in loads]),
        ("errors", [str(load["errors"]) for load in loads]),
        ("tokens/s", [f"{load['tokens_per_second']:,.0f}" for load in loads]),
        ("processors used", [f"{load['processors']:.2f}" for load in loads]),
        ("fairness, tokens", [f"{load['fairness_of_tokens']:.3f}" for load in loads]),
        ("fairness, finish", [f"{load['fairness_of_finish_times']:.3f}" for load in loads]),
        ("request s", [_times(load["request_seconds"]) for load in loads]),
        ("first token s", [_times(load["first_token_seconds"]) for load in loads]),
    ]
    memory = figures["memory"]
    lines = [f"{name:<18}" + "".join(f"{cell:>22}" for cell in cells) for name, cells in rows]
    lines.append("")
    lines.append(
        f"memory of the server: {memory['peak_after_warm_up'] / 1e6:.0f} MB after warm-up, "
        f"{memory['peak_at_the_end'] / 1e6:.0f} MB at the end "
        f"({memory['bytes_per_minute_after_warm_up'] / 1e6:+.1f} MB a minute)"
    )
    return "\n".join(lines)


def _times(spread: dict[str, float]) -> str:
    return " / ".join(f"{spread[name]:.2f}" for name in ("p50", "p95", "max"))
