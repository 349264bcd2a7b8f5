"""Fill a sequence to a million tokens and ask it, all the way, for what stands near its start.

    python -m bench.million.run [--tokens 1048576] [--out million.jsonl]

At every power of two and every `--every` tokens a line goes to the log: tokens a second of the prefill since
the line before and of 32 decoded tokens, bytes of the state by kind, resident memory, and the answers to the
question for the needle (the fact nearest to token 2,000) and for facts spread over what was read. Everything
but the filling happens on forks, so the timeline itself holds nothing but the text. At the last checkpoint
question and answer end exactly at the last position. Exits with 1 unless the needle's answer is right there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dsv4_model.engine import Engine
from dsv4_model.sampling import SamplingParams

from .shape import WEIGHTS
from .task import ASK, FACT, VALUES, Fact, Haystack, Task

NEEDLE_NEAR = 2000
FIRST_CHECKPOINT = 4096
DECODED = 32
RESERVE = 64
"""Tokens at the end of the context that the last question and the last decoding need."""
STEP = 8192
"""Most tokens of one `sync`, so that a long silence shows where it is."""


def checkpoints(tokens: int, every: int) -> list[int]:
    """Lengths at which the run stops to measure: powers of two, multiples of ``every``, the end."""
    powers = [1 << n for n in range(12, tokens.bit_length()) if FIRST_CHECKPOINT <= 1 << n <= tokens]
    return sorted({*powers, *range(every, tokens + 1, every), tokens})


def memory() -> tuple[int, int]:
    """Resident bytes now and at most; zeros where the system doesn't tell."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return 0, 0
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    now, most = (int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return now, most


class Run:
    """A text, the sequence that reads it, and the log."""

    def __init__(self, engine: Engine, tokens: int, seed: int, facts: int, log: Path) -> None:
        self.engine, self.tokens, self.facts, self.log = engine, tokens, facts, log
        self.task = Task(engine.tokenizer)
        rng = np.random.default_rng(seed)
        self.hay: Haystack = self.task.haystack(rng, tokens - RESERVE)
        self.text: list[int] = self.hay.ids.tolist()
        self.tail: list[int] = self.task.prose(rng, RESERVE).tolist()
        self.needle = min(self.hay.facts, key=lambda f: abs(f.position - NEEDLE_NEAR))
        self.sequence = engine.sequence()
        self.started = time.perf_counter()

    def write(self, kind: str, **fields: Any) -> None:
        """One line of the log, flushed: a run that dies leaves what it measured."""
        with self.log.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"kind": kind, **fields}) + "\n")

    def fill(self, length: int) -> float:
        """Read on until the sequence holds ``length`` tokens of the text; seconds it took."""
        seconds = 0.0
        while (have := len(self.sequence.tokens)) < length:
            tokens = self.text[: min(have + STEP, length)]
            began = time.perf_counter()
            self.sequence.sync(tokens)
            seconds += time.perf_counter() - began
        return seconds

    def answer(self, fact: Fact, *, to_the_end: bool) -> tuple[list[int], int]:
        """What a fork says to the question for ``fact``, and how many tokens it holds then.

        ``to_the_end`` puts prose before the question so that the answer ends at the last position.
        """
        fork = self.sequence.fork()
        gap = self.tail[: RESERVE - ASK - VALUES] if to_the_end else []
        fork.sync([*fork.tokens, *gap, *self.task.ask(fact)])
        said = list(fork.generate(SamplingParams(temperature=0.0, max_tokens=VALUES, stop_ids=())))
        return said, len(fork.tokens)

    def decode(self) -> float:
        """Tokens a second of `DECODED` tokens that continue the text, the pending first one included."""
        fork = self.sequence.fork()
        began = time.perf_counter()
        made = sum(1 for _ in fork.generate(SamplingParams(temperature=0.0, max_tokens=DECODED, stop_ids=())))
        return made / (time.perf_counter() - began)

    def spread(self, length: int) -> Iterator[Fact]:
        """Facts at even distances over the first ``length`` tokens, without what the window still holds."""
        window = self.engine.config.sliding_window
        known = [f for f in self.hay.facts if f.position + FACT + window <= length and f != self.needle]
        for place in np.linspace(0, len(known) - 1, min(self.facts, len(known))).round().astype(int):
            yield known[place]

    def checkpoint(self, label: int, prefilled: int, seconds: float) -> bool:
        """Measure and ask; whether the needle's answer is right."""
        last = label == self.tokens
        speed = self.decode()
        began = time.perf_counter()
        said, held = self.answer(self.needle, to_the_end=last)
        asking = time.perf_counter() - began
        others = list(self.spread(len(self.sequence.tokens)))
        right = sum(self.answer(fact, to_the_end=False)[0] == list(fact.value) for fact in others)
        now, most = memory()
        config = self.engine.config
        entries = held // 4
        needle = {
            "position": self.needle.position,
            "question": self.task.text(self.task.ask(self.needle)),
            "expected": self.task.text(self.needle.value),
            "answer": self.task.text(said),
            "right": said == list(self.needle.value),
            "tokens_after_answer": held,
            "seconds": round(asking, 3),
        }
        self.write(
            "checkpoint",
            tokens=label,
            filled=len(self.sequence.tokens),
            elapsed=round(time.perf_counter() - self.started, 1),
            prefill_tokens=prefilled,
            prefill_tokens_per_second=round(prefilled / seconds, 1),
            decode_tokens_per_second=round(speed, 2),
            bytes=self.sequence.usage(),
            resident=now,
            resident_most=most,
            csa_entries=entries,
            selected=min(entries, config.index_topk),
            sparse=entries > config.index_topk,
            needle=needle,
            facts_asked=len(others),
            facts_right=right,
        )
        state = sum(self.sequence.usage().values())
        print(
            f"{label:>9,}  prefill {prefilled / seconds:>8,.0f}/s  decode {speed:>6.1f}/s  "
            f"state {state / 1e6:>7.1f} MB  resident {now / 1e6:>6,.0f} MB  "
            f"needle {needle['answer']!r} {'right' if needle['right'] else 'WRONG'}  "
            f"facts {right}/{len(others)}",
            flush=True,
        )
        return bool(needle["right"])

    def all(self, every: int) -> bool:
        """The whole run; whether the needle was found at the end."""
        found = False
        for label in checkpoints(self.tokens, every):
            before = len(self.sequence.tokens)
            length = min(label, len(self.text))
            seconds = self.fill(length)
            found = self.checkpoint(label, length - before, seconds)
        return found


def _processor() -> str:
    """The model name of the processor, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def header(run: Run, seed: int, weights: Path) -> dict[str, Any]:
    """What a reader needs to know about the run to repeat it."""
    file = weights / "model.safetensors"
    return {
        "tokens": run.tokens,
        "seed": seed,
        "facts": len(run.hay.facts),
        "weights_sha256": hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None,
        "config": run.engine.config.to_dict(),
        "cpus": os.cpu_count(),
        "processor": _processor(),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def main() -> None:
    """Command line of the run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=1 << 20)
    parser.add_argument("--every", type=int, default=1 << 16, help="tokens between checkpoints")
    parser.add_argument("--facts", type=int, default=8, help="facts asked for at each checkpoint")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--out", type=Path, default=Path("million.jsonl"), help="the log, replaced")
    options = parser.parse_args()
    engine = Engine.load(options.weights, threads=options.threads)
    if not FIRST_CHECKPOINT <= options.tokens <= engine.context_window:
        parser.error(f"--tokens must be between {FIRST_CHECKPOINT} and {engine.context_window}")
    options.out.unlink(missing_ok=True)
    run = Run(engine, options.tokens, options.seed, options.facts, options.out)
    run.write("run", **header(run, options.seed, options.weights))
    found = run.all(options.every)
    run.write("end", found=found, elapsed=round(time.perf_counter() - run.started, 1))
    sys.exit(0 if found else 1)


if __name__ == "__main__":
    main()
