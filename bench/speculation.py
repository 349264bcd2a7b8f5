"""V4-Nano with and without its MTP block, on episodes never trained on: acceptance and speed, in turns.

python bench/speculation.py [--episodes 12] [--tokens 200] [--threads 2]

The two ways must give the same tokens; the run fails if they don't.
"""

from __future__ import annotations

import argparse
import statistics
import time

from dsv4_model.engine import NANO, Engine, EngineOptions
from dsv4_model.nano.acceptance import episodes
from dsv4_model.sampling import SamplingParams


def decoded(engine: Engine, prompt: list[int], count: int, *, forced: bool) -> tuple[list[int], float, float]:
    """Tokens, seconds, and the share of guesses that were right; ``forced``: draft whether it pays or not."""
    sequence = engine.sequence()
    if forced and sequence.drafting is not None:
        sequence.drafting.adaptive = False
    sequence.sync(prompt)
    started = time.perf_counter()
    tokens = list(sequence.generate(SamplingParams(temperature=0.0, max_tokens=count)))
    seconds = time.perf_counter() - started
    return tokens, seconds, sequence.speculation.acceptance if sequence.speculation is not None else 0.0


def main() -> int:
    """Print a line for each way of decoding; each ratio is of medians over the episodes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    engines = {
        "plain": Engine.load(NANO, options=EngineOptions(threads=options.threads, speculate=False)),
        "drafting": Engine.load(NANO, options=EngineOptions(threads=options.threads)),
        "adaptive": Engine.load(NANO, options=EngineOptions(threads=options.threads)),
    }
    rates: dict[str, list[float]] = {name: [] for name in engines}
    right: list[float] = []
    for prefix, episode in episodes(options.episodes, engines["plain"].tokenizer):
        start = next((at for at, (_, sampled) in enumerate(episode) if sampled), 0)
        prompt = prefix + [token for token, _ in episode[:start]]
        found = {}
        for name, engine in engines.items():
            tokens, seconds, share = decoded(engine, prompt, options.tokens, forced=name == "drafting")
            found[name] = tokens
            rates[name].append(len(tokens) / seconds)
            if name == "drafting":
                right.append(share)
        if not found["plain"] == found["drafting"] == found["adaptive"]:
            print("FAILED: drafting changed the tokens")
            return 1
    plain = statistics.median(rates["plain"])
    print(f"{len(right)} episodes, acceptance {statistics.mean(right):.1%}, the same tokens every way")
    for name, values in rates.items():
        rate = statistics.median(values)
        print(f"{name:9s} {rate:7.0f} tok/s median, {max(values):7.0f} best, {rate / plain:5.2f}x")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
