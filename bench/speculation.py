"""V4-Nano with and without its MTP block, on episodes never trained on: acceptance and speed, in turns.

One to three guesses at a time are forced, and once as many are made as pay.

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
from dsv4_model.speculation import MOST_GUESSES, SpeculationReport


def decoded(
    engine: Engine, prompt: list[int], count: int, guesses: int | None
) -> tuple[list[int], float, SpeculationReport | None]:
    """Tokens, seconds, and how guesses went; ``guesses`` at a time whether that pays or not, or as pays."""
    sequence = engine.sequence()
    if guesses is not None and sequence.drafting is not None:
        sequence.drafting.adaptive, sequence.drafting.guesses = False, guesses
    sequence.sync(prompt)
    started = time.perf_counter()
    tokens = list(sequence.generate(SamplingParams(temperature=0.0, max_tokens=count)))
    seconds = time.perf_counter() - started
    return tokens, seconds, sequence.speculation


def main() -> int:
    """Print a line for each way of decoding; each ratio is of medians over the episodes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    plain_engine = Engine.load(NANO, options=EngineOptions(threads=options.threads, speculate=False))
    engine = Engine.load(NANO, options=EngineOptions(threads=options.threads))
    ways: dict[str, int | None] = {"plain": 0, "1 guess": 1, "2 guesses": 2, "3 guesses": 3, "as pays": None}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    places = {name: [[0, 0] for _ in range(MOST_GUESSES)] for name in ways}
    for prefix, episode in episodes(options.episodes, plain_engine.tokenizer):
        start = next((at for at, (_, sampled) in enumerate(episode) if sampled), 0)
        prompt = prefix + [token for token, _ in episode[:start]]
        found = {}
        for name, guesses in ways.items():
            used = plain_engine if name == "plain" else engine
            found[name], seconds, report = decoded(used, prompt, options.tokens, guesses)
            rates[name].append(len(found[name]) / seconds)
            for total, (checked, accepted) in zip(
                places[name], report.by_place if report else (), strict=False
            ):
                total[0] += checked
                total[1] += accepted
        if any(tokens != found["plain"] for tokens in found.values()):
            print("FAILED: drafting changed the tokens")
            return 1
    plain = statistics.median(rates["plain"])
    print(f"{len(rates['plain'])} episodes, the same tokens every way; right guesses by their place")
    for name, values in rates.items():
        rate = statistics.median(values)
        right = " ".join(f"{accepted / checked:4.0%}" for checked, accepted in places[name] if checked)
        print(f"{name:9s} {rate:7.0f} tok/s median, {max(values):7.0f} best, {rate / plain:5.2f}x  {right}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
