"""V4-Nano's shape in our engine and in transformers, same weights, one run: decode and prefill, as ratios.

python bench/engine.py [--context 512 2048] [--tokens 32] [--threads 1]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from dsv4_model.nano import WEIGHTS
from dsv4_model.nano.shape import CONFIG
from dsv4_model.sampling import SamplingParams
from dsv4_model.sequence import Sequence
from dsv4_model.tokenizer import Tokenizer
from dsv4_model.transformer import DeepseekV4


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def ours(model: DeepseekV4, ids: list[int], count: int) -> tuple[float, float]:
    """Seconds of the prefill and of one decoded token."""
    from dsv4_model.engine import Engine

    sequence = Sequence(Engine(model, Tokenizer.from_file(WEIGHTS / "tokenizer.json"), "bench"))
    prefill = timed(lambda: sequence.sync(ids))
    tokens = sequence.generate(SamplingParams(temperature=0.0, max_tokens=count, stop_ids=()))
    return prefill, timed(lambda: list(tokens)) / count


def theirs(model: torch.nn.Module, ids: list[int], count: int) -> tuple[float, float]:
    """The same with transformers' own cache."""
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    with torch.inference_mode():

        def prefill() -> None:
            for low in range(0, len(ids), 512):
                model(input_ids=torch.tensor([ids[low : low + 512]]), past_key_values=cache)

        def decode() -> None:
            for _ in range(count):
                model(input_ids=torch.tensor([[7]]), past_key_values=cache)

        return timed(prefill), timed(decode) / count


def main() -> None:
    """Print one row a context length; each figure is the median of the repeats."""
    from tests.model.test_transformers_parity import twin

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--context", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = DeepseekV4(CONFIG, with_mtp=False).eval()
    other = twin(model)
    print("context  prefill tok/s (ours, transformers, ratio)   decode tok/s (ours, transformers, ratio)")
    for context in options.context:
        ids = torch.randint(40, CONFIG.vocab_size, (context,)).tolist()
        rows = [
            (*ours(model, ids, options.tokens), *theirs(other, ids, options.tokens))
            for _ in range(options.repeats)
        ]
        a, b, c, d = (statistics.median(column) for column in zip(*rows, strict=True))
        print(
            f"{context:7d}  {context / a:9.0f} {context / c:9.0f} {c / a:7.2f}x"
            f"                   {1 / b:9.1f} {1 / d:9.1f} {d / b:7.2f}x"
        )


if __name__ == "__main__":
    main()
