"""Measurements, the goals they are held against, and how they are shown."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HIGHER = "tok/s"


@dataclass(frozen=True, slots=True)
class Row:
    """One quantity of one engine on one model.

    Attributes:
        quantity: decode, prefill, first token, memory, fork, restore, depth (speed as a share of that at the
            first context).
        context: tokens held before it.
        samples: all repeats, in ``unit``.
    """

    model: str
    engine: str
    quantity: str
    context: int
    unit: str
    samples: list[float]

    @property
    def median(self) -> float:
        """Of the repeats."""
        return statistics.median(self.samples)

    @property
    def best(self) -> float:
        """Nearest to an idle machine."""
        return max(self.samples) if self.unit in (HIGHER, "x") else min(self.samples)


@dataclass(slots=True)
class Results:
    """Everything of one run."""

    machine: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    def find(self, model: str, engine: str, quantity: str, context: int) -> Row | None:
        """The row, if it was measured."""
        wanted = (model, engine, quantity, context)
        return next((r for r in self.rows if (r.model, r.engine, r.quantity, r.context) == wanted), None)

    def ratio(self, row: Row) -> float | None:
        """How many times better this project is than ``row`` of a peer, by medians."""
        ours = self.find(row.model, "dsv4", row.quantity, row.context)
        if ours is None or row.engine == "dsv4" or not row.median or not ours.median:
            return None
        return ours.median / row.median if row.unit == HIGHER else row.median / ours.median

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        rows = [
            {
                "model": r.model, "engine": r.engine, "quantity": r.quantity, "context": r.context,
                "unit": r.unit, "median": r.median, "best": r.best, "samples": r.samples,
                "dsv4_is_better_by": self.ratio(r),
            }
            for r in self.rows
        ]  # fmt: skip
        bars = [{"goal": text, "value": value, "met": met} for text, value, met in self.goals()]
        return {"machine": self.machine, "rows": rows, "goals": bars}

    def goals(self) -> list[tuple[str, float, bool]]:
        """Each goal that this run measured: what it is, the value, whether it is met."""
        found: list[tuple[str, float, bool]] = []
        for model in dict.fromkeys(row.model for row in self.rows):
            for row in self.rows:
                if row.model == model and (value := self.ratio(row)) is not None:
                    found += self._against_peer(row, value)
            found += self._alone(model)
        return found

    @staticmethod
    def _against_peer(row: Row, value: float) -> list[tuple[str, float, bool]]:
        wanted = {
            ("decode", "transformers"): 30.0,
            ("decode", "llama.cpp"): 1.5,
            ("prefill", "transformers"): 3.0,
            ("prefill", "llama.cpp"): 1.0,
        }.get((row.quantity, row.engine))
        if wanted is None or (row.quantity == "decode" and row.context != 4096):
            return []
        at = " at 4k" if row.quantity == "decode" else ""
        return [(f"{row.model}: {row.quantity}{at} >= {wanted:g}x {row.engine}", value, value >= wanted)]

    def _alone(self, model: str) -> list[tuple[str, float, bool]]:
        found: list[tuple[str, float, bool]] = []
        for row in self.rows:
            if row.model == model and row.engine == "dsv4" and row.context == 65536:
                if row.quantity == "depth":
                    found.append((f"{model}: decode at 64k >= 0.7 of 512", row.median, row.median >= 0.7))
                if row.quantity == "fork":
                    found.append((f"{model}: fork at 64k < 5 ms", row.median, row.median < 5))
                if row.quantity == "restore":
                    found.append((f"{model}: restore at 64k >= 20x prefill", row.median, row.median >= 20))
        return found


def table(results: Results) -> str:
    """Rows as text, with ratios, then the goals."""
    lines = [
        f"{'model':6} {'quantity':12} {'context':>8} {'engine':13} {'median':>10} {'best':>10} unit   ratio"
    ]
    for row in results.rows:
        ratio = results.ratio(row)
        tail = f"dsv4 is {ratio:.1f}x" if ratio is not None else ""
        lines.append(
            f"{row.model:6} {row.quantity:12} {row.context:8,} {row.engine:13} "
            f"{row.median:10,.2f} {row.best:10,.2f} {row.unit:6} {tail}"
        )
    lines += ["", "goals"]
    for text, value, met in results.goals():
        lines.append(f"  {'met   ' if met else 'MISSED'} {text}: {value:.2f}")
    return "\n".join(lines)


def draw(results: Results, file: Path) -> bool:
    """Decode and prefill as bars, one panel a model. False without matplotlib."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        return False
    models = list(dict.fromkeys(row.model for row in results.rows))
    figure, axes = pyplot.subplots(1, len(models), figsize=(6.5 * len(models), 4.2), squeeze=False)
    for axis, model in zip(axes[0], models, strict=True):
        shown = [r for r in results.rows if r.model == model and r.unit == HIGHER]
        groups = list(dict.fromkeys((r.quantity, r.context) for r in shown))
        engines = list(dict.fromkeys(r.engine for r in shown))
        width = 0.8 / len(engines)
        for number, engine in enumerate(engines):
            heights = [
                row.median if (row := results.find(model, engine, *group)) is not None else 0
                for group in groups
            ]
            places = [n + number * width for n in range(len(groups))]
            bars = axis.bar(places, heights, width, label=engine)
            axis.bar_label(bars, labels=[f"{h:,.0f}" if h else "" for h in heights], fontsize=7)
        middle = (len(engines) - 1) * width / 2
        labels = [f"{quantity}\n{_short(context)}" for quantity, context in groups]
        axis.set_xticks([n + middle for n in range(len(groups))], labels, fontsize=8)
        axis.set_yscale("log")
        axis.set_ylabel("tokens/s (log)")
        axis.set_title(f"{model}, {results.machine.get('threads', '?')} thread(s), median")
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file)
    pyplot.close(figure)
    return True


def _short(context: int) -> str:
    return f"at {context // 1024}k" if context >= 1024 else f"at {context}"
