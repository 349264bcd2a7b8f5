"""Sequences of V4-Nano decoding together against one after the other: tokens a second in all, in turns.

python bench/batching.py [--sequences 1 2 4 8 16] [--tokens 64] [--context 512] [--threads 2]
"""

from __future__ import annotations

import argparse
import random
import time

from dsv4_model.batching import Batch
from dsv4_model.engine import NANO, Engine, EngineOptions, Sequence
from dsv4_model.sampling import SamplingParams

NEVER = (1 << 20,)


def prompts(engine: Engine, count: int, context: int) -> list[Sequence]:
    """Prefilled sequences with different tokens."""
    made = []
    for seed in range(count):
        chance = random.Random(seed)
        sequence = engine.sequence()
        sequence.sync([chance.randrange(40, 2000) for _ in range(context)])
        made.append(sequence)
    return made


def main() -> None:
    """Print one row a number of sequences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    engine = Engine.load(NANO, options=EngineOptions(threads=options.threads, speculate=False))
    params = SamplingParams(temperature=0.0, max_tokens=options.tokens, stop_ids=NEVER)
    print("sequences   one by one   together   ratio   (tokens a second in all)")
    for count in options.sequences:
        ready = prompts(engine, count, options.context)
        started = time.perf_counter()
        alone = sum(len(list(sequence.generate(params))) for sequence in ready)
        one_by_one = time.perf_counter() - started
        batch = Batch(engine)
        members = [batch.add(s, list(s.tokens), params) for s in prompts(engine, count, options.context)]
        started = time.perf_counter()
        batch.run()
        together = time.perf_counter() - started
        total = sum(member.sampled for member in members)
        print(
            f"{count:9d}   {alone / one_by_one:10.0f}   {total / together:8.0f}   "
            f"{total / together / (alone / one_by_one):4.2f}x"
        )


if __name__ == "__main__":
    main()
