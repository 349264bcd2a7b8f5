"""Picture of a run: what prefill, decoding and memory cost at each length.

python -m bench.million.plot LOG.jsonl [--out million.png]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

KINDS = {
    "csa_entries": "entries, one in 4 tokens (FP8)",
    "index_keys": "index keys (FP4)",
    "hca_entries": "entries, one in 128 tokens (FP8)",
    "window": "window",
    "partial": "unfinished blocks",
}
COLOURS = ("#2a6f97", "#61a5c2", "#a9d6e5", "#bc6c25", "#dda15e")


def read(log: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The header and the checkpoints of a log."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    header: dict[str, Any] = next((line for line in lines if line["kind"] == "run"), {})
    return header, [line for line in lines if line["kind"] == "checkpoint"]


def draw(log: Path, out: Path) -> None:
    """Write the picture of ``log`` to ``out``."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter

    header, points = read(log)
    lengths = [p["tokens"] for p in points]
    figure, (prefill, decode, size) = pyplot.subplots(1, 3, figsize=(14, 4.2), constrained_layout=True)
    middles = [p["tokens"] - p["prefill_tokens"] / 2 for p in points]
    prefill.plot(
        middles, [1e3 / p["prefill_tokens_per_second"] for p in points], "o-", color=COLOURS[0], ms=3
    )
    prefill.set_title("prefill: milliseconds a token")
    decode.plot(lengths, [1e3 / p["decode_tokens_per_second"] for p in points], "o-", color=COLOURS[3], ms=3)
    decode.set_title("decode: milliseconds a token")
    kinds = [kind for kind in KINDS if any(p["bytes"].get(kind) for p in points)]
    rows = [[p["bytes"].get(kind, 0) / 2**20 for p in points] for kind in kinds]
    size.stackplot(lengths, rows, labels=[KINDS[kind] for kind in kinds], colors=COLOURS)
    size.plot(
        lengths, [p["resident"] / 2**20 for p in points], "--", color="#444", label="resident, whole process"
    )
    size.set_title("state: MiB")
    size.legend(loc="upper left", fontsize=7)
    for axis in (prefill, decode, size):
        axis.set_xlim(0, 1.02 * lengths[-1])
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.set_xlabel("tokens in the sequence")
        axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1024:,.0f}K"))
    for axis in (prefill, decode):
        for point in points:
            colour = "#2d6a4f" if point["needle"]["right"] else "#c1121f"
            axis.plot(point["tokens"], 0, marker="|", color=colour, ms=12, clip_on=False)
    right = sum(p["needle"]["right"] for p in points)
    asked, answered = sum(p["facts_asked"] for p in points), sum(p["facts_right"] for p in points)
    figure.suptitle(
        f"V4-Nano's shape to {lengths[-1]:,} tokens on {header.get('cpus', '?')} CPUs; "
        f"needle right at {right} of {len(points)} checkpoints (ticks), other facts {answered} of {asked}",
        fontsize=10,
    )
    figure.savefig(out, dpi=120)


def main() -> None:
    """Command line of the plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("log", type=Path)
    parser.add_argument("--out", type=Path, help="picture to write; beside the log by default")
    options = parser.parse_args()
    draw(options.log, options.out or options.log.with_suffix(".png"))


if __name__ == "__main__":
    main()
