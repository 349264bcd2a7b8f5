"""Draw the loss curve of a training run as an SVG picture.

python -m dsv4_model.nano.curve RUNS/train/log.jsonl model/dsv4_model/nano/loss.svg
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

WIDTH, HEIGHT, MARGIN = 720, 360, 56


def draw(entries: list[dict[str, float]]) -> str:
    """An SVG with the loss and the share of tokens missed by step, both on one logarithmic axis."""
    steps = [entry["step"] for entry in entries]
    losses = [entry["loss"] for entry in entries]
    missed = [max(1 - entry["right"], 1e-4) for entry in entries]
    low = 10 ** math.floor(math.log10(min(*losses, *missed)))
    high = 10 ** math.ceil(math.log10(max(*losses, *missed)))

    def x(step: float) -> float:
        return MARGIN + (WIDTH - 2 * MARGIN) * step / steps[-1]

    def y(value: float) -> float:
        span = math.log10(high / low)
        return HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * math.log10(value / low) / span

    def line(values: list[float], colour: str) -> str:
        points = " ".join(f"{x(s):.1f},{y(v):.1f}" for s, v in zip(steps, values, strict=True))
        return f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{points}"/>'

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    tick = low
    while tick <= high * 1.001:
        parts.append(
            f'<line x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="#ddd"/>'
            f'<text x="{MARGIN - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>'
        )
        tick *= 10
    for i in range(5):
        step = steps[-1] * i / 4
        parts.append(
            f'<text x="{x(step):.1f}" y="{HEIGHT - MARGIN + 18}" text-anchor="middle">{step:.0f}</text>'
        )
    parts += [
        line(losses, "#1f4e9c"),
        line(missed, "#b3411f"),
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 12}" text-anchor="middle">step</text>',
        f'<text x="{MARGIN}" y="24" fill="#1f4e9c">weighted cross entropy of sampled tokens, nats</text>',
        f'<text x="{WIDTH - MARGIN}" y="24" text-anchor="end" fill="#b3411f">share of tokens missed</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def main() -> None:
    """Command line: LOG SVG."""
    log, out = map(Path, sys.argv[1:3])
    rows = log.read_text(encoding="utf-8").splitlines()
    out.write_text(draw([json.loads(row) for row in rows]), encoding="utf-8")


if __name__ == "__main__":
    main()
