"""Decode, prefill, first token and memory of this engine beside transformers and llama.cpp, as ratios.

    python -m bench.engine [--models nano tiny] [--peers transformers llama.cpp] [--llama-server PATH]
                           [--contexts 512 4096] [--repeats 3] [--threads 1] [--json FILE] [--picture FILE]

Same weights, same prompts, one run; repeats of the engines take turns, so a busy moment hits all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from bench.engine.contestants import Contestant, Llama, Ours, Transformers, contestants, timed
from bench.engine.machine import memory_of, read_bandwidth, resident_bytes
from bench.engine.models import Subject, subject
from bench.engine.results import HIGHER, Results, Row, draw, table
from bench.engine.snapshots import seconds_to_restore

RESULT_TOKENS = 2000
"""Length of the tool result after which the first token is awaited."""
WARM = 4096
"""Tokens of the warm session before it."""


Record = Callable[[str, str, int, str, list[float]], None]
"""Engine, quantity, context, unit, samples."""


class Prompts:
    """Random ids, new ones each time: an engine that shares prefixes must not profit from a repeat."""

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary = vocabulary
        self._generator = torch.Generator().manual_seed(7)

    def next(self, count: int) -> list[int]:
        """``count`` ids, no special ones."""
        drawn = torch.randint(40, self._vocabulary, (count,), generator=self._generator)
        return [int(token) for token in drawn]


def measure(
    subject: Subject, engines: list[Contestant], options: argparse.Namespace, folder: Path, results: Results
) -> None:
    """Append all rows of one model."""
    prompts = Prompts(min(subject.config.vocab_size, 2048))

    def record(engine: str, quantity: str, context: int, unit: str, samples: list[float]) -> None:
        results.rows.append(Row(subject.name, engine, quantity, context, unit, samples))

    _prefill(prompts, engines, options, record)
    for engine in engines:
        engine.restart()
    held = 0
    near: Ours | None = None
    for context in sorted(options.contexts):
        ids = prompts.next(context - held)
        for engine in engines:
            print(f"{subject.name}: {engine.name} to {context:,} tokens", file=sys.stderr)
            engine.extend(ids)
            engine.decode(2)
        samples: dict[str, list[float]] = {engine.name: [] for engine in engines}
        for _ in range(options.repeats):
            for engine in engines:
                count = options.tokens if engine.name != "transformers" else max(2, options.tokens // 8)
                samples[engine.name].append(count / engine.decode(count))
        for name, values in samples.items():
            record(name, "decode", context, HIGHER, values)
        held = context
        if context == WARM:
            _first_token(prompts, engines, options, record)
        if isinstance(engines[0], Ours):
            if near is None:
                near = engines[0].fork()
            else:
                record("dsv4", "depth", context, "x", _depth(near, engines[0], options))
            forks = [1000 * timed(engines[0].sequence.fork) for _ in range(max(5, options.repeats))]
            record("dsv4", "fork", context, "ms", forks)
    if not options.no_restore:
        longest = max(options.contexts)
        computed, restored = seconds_to_restore(
            subject, prompts.next(longest), folder, threads=options.threads
        )
        record("dsv4", "restore", longest, "x", [computed / restored])


def _depth(near: Ours, far: Ours, options: argparse.Namespace) -> list[float]:
    """Decoding speed far into a context as a share of that near its start, measured in turns."""
    count = options.tokens
    return [near.decode(count) / far.decode(count) for _ in range(options.repeats)]


def _prefill(
    prompts: Prompts, engines: list[Contestant], options: argparse.Namespace, record: Record
) -> None:
    samples: dict[str, list[float]] = {engine.name: [] for engine in engines}
    for _ in range(options.repeats):
        for engine in engines:
            ids = prompts.next(options.prompt)
            engine.restart()
            samples[engine.name].append(len(ids) / engine.extend(ids))
    for name, values in samples.items():
        record(name, "prefill", options.prompt, HIGHER, values)


def _first_token(
    prompts: Prompts, engines: list[Contestant], options: argparse.Namespace, record: Record
) -> None:
    samples: dict[str, list[float]] = {engine.name: [] for engine in engines}
    for _ in range(options.repeats):
        for engine in engines:
            samples[engine.name].append(1000 * engine.answer(prompts.next(RESULT_TOKENS)))
    for name, values in samples.items():
        record(name, "first token", WARM, "ms", values)


def memory_only(options: argparse.Namespace) -> int:
    """Print what this process holds after one context in one engine."""
    with tempfile.TemporaryDirectory() as folder:
        chosen = subject(options.models[0], max(options.contexts), Path(folder))
        ours = options.peers[0] == "dsv4"
        engine = Ours(chosen.engine(options.threads)) if ours else Transformers(chosen)
        engine.extend(Prompts(2048).next(max(options.contexts)))
        print(resident_bytes() or "unknown")
    return 0


def main() -> int:
    """Measure, print the table, write what was asked for."""
    options = _arguments()
    torch.set_num_threads(options.threads)
    if options.memory_only:
        return memory_only(options)
    binary = options.llama_server
    results = Results()
    bandwidth = read_bandwidth(options.threads)
    results.machine = {
        "threads": options.threads,
        "cpus": os.cpu_count(),
        "read_bytes_per_second": bandwidth,
        "load": os.getloadavg(),
    }
    longest = max(*options.contexts, options.prompt, WARM + RESULT_TOKENS)
    for name in options.models:
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as closing:
            chosen = subject(name, longest, Path(folder))
            engines = contestants(
                chosen, options.peers, binary, Path(folder), threads=options.threads, longest=longest + 4096
            )
            for engine in engines:
                if isinstance(engine, Llama):
                    closing.callback(engine.server.close)
            limit = bandwidth / chosen.active_bytes()
            results.machine[f"{name}_fp32_limit_tokens_per_second"] = limit
            measure(chosen, engines, options, Path(folder), results)
            _memory(name, engines, options, results)
        if options.json:  # after each model: the next may take an hour
            options.json.write_text(json.dumps(results.as_json(), indent=1) + "\n", encoding="utf-8")
    print(
        f"read bandwidth {bandwidth / 1e9:.1f} GB/s with {options.threads} thread(s); fp32 weights from RAM"
    )
    limits = [
        f"{n} {results.machine[f'{n}_fp32_limit_tokens_per_second']:,.0f} tok/s" for n in options.models
    ]
    print(f"allow at most: {', '.join(limits)}")
    print(table(results))
    if options.picture and not draw(results, options.picture):
        print("no picture: matplotlib isn't installed")
    return 0


def _memory(name: str, engines: list[Contestant], options: argparse.Namespace, results: Results) -> None:
    context = max(options.contexts)
    for engine in engines:
        if isinstance(engine, Llama):
            taken = resident_bytes(engine.server.pid)
        else:
            arguments = ["--models", name, "--peers", engine.name, "--contexts", str(context)]
            taken = memory_of([*arguments, "--threads", str(options.threads)])
        if taken is not None:
            results.rows.append(Row(name, engine.name, "memory", context, "MB", [taken / 1e6]))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.engine", description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=["nano", "tiny"], default=["nano", "tiny"])
    parser.add_argument("--peers", nargs="*", default=["transformers", "llama.cpp"])
    parser.add_argument(
        "--llama-server", type=Path, metavar="PATH", help="binary; without it only transformers"
    )
    parser.add_argument("--contexts", type=int, nargs="+", default=[512, 4096])
    parser.add_argument("--prompt", type=int, default=2048, help="tokens of the measured prefill")
    parser.add_argument("--tokens", type=int, default=64, help="decoded a repeat; transformers an eighth")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-restore", action="store_true", help="leave out states on disk")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--picture", type=Path, metavar="FILE", help=".png or .svg")
    parser.add_argument("--memory-only", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
