"""Accuracy over many facts of one text, with the PyTorch module, and where the right entry ranks.

    python -m bench.million.evaluate [--tokens 16384] [--facts 64] [--exact] [--composed]

The text is read once and every question asked on a fork. `--exact` leaves the FP8 and FP4 round trips of
activations and caches out. `--composed` reads pieces of 2,048 tokens apart from each other, each at its true
positions, and joins their entries: nearly what reading in one go gives, and it makes a million tokens take
minutes, since what prose looks up far back hardly matters here.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dsv4_model.attention import Attention
from dsv4_model.checkpoint import load_model
from dsv4_model.indexer import Indexer
from dsv4_model.state import LayerState, State
from dsv4_model.tokenizer import Tokenizer
from dsv4_model.transformer import DeepseekV4

from .positions import place
from .shape import WEIGHTS
from .task import FACT, VALUES, Fact, Haystack, Task

PIECE = 2048
CHUNK = 1024


def read(model: DeepseekV4, ids: Tensor) -> State:
    """The state after ``ids [N]``."""
    state = model.new_state()
    for start in range(0, len(ids), CHUNK):
        model(ids[None, start : start + CHUNK], state, last_only=True)
    return state


def compose(model: DeepseekV4, ids: Tensor) -> State:
    """The same from pieces that don't see each other."""
    parts: list[list[LayerState]] = []
    for start in range(0, len(ids), PIECE):
        place(model, torch.arange(start, start + PIECE))
        # Windows and rows are views of what the whole piece needed.
        parts.append(read(model, ids[start : start + PIECE]).clone().layers)
    place(model, torch.arange(len(ids) + 64))
    joined = []
    for layers in zip(*parts, strict=True):
        last: LayerState = layers[-1].map(lambda t: t)
        if last.entries is not None:
            last.entries = torch.cat([layer.entries for layer in layers if layer.entries is not None], 1)
        if last.index_keys is not None:
            last.index_keys = torch.cat(
                [layer.index_keys for layer in layers if layer.index_keys is not None], 1
            )
        joined.append(last)
    return State(joined, [], len(ids))


class Ranks:
    """Watches the indexer of the last layer: the rank of the best entry of the fact that is asked for."""

    def __init__(self, indexer: Indexer) -> None:
        self.fact: Fact | None = None
        self.found: list[int] = []
        indexer.register_forward_hook(self._rank)
        self._indexer = indexer

    def _rank(self, indexer: Indexer, inputs: tuple[Tensor, ...], _: object) -> None:
        if self.fact is None:
            return
        x, qr, keys, visible, cos, sin = inputs
        scores = indexer.scores(x, qr, keys, cos, sin).masked_fill(~visible, -torch.inf)[0, -1]
        # Every entry holds two blocks: this one the equals sign in its older, so all values as well.
        best = scores[(self.fact.position + 3) // 4 + 1]
        self.found.append(int((scores > best).sum()))


def ask(model: DeepseekV4, task: Task, state: State, fact: Fact) -> list[int]:
    """The greedy answer on a fork of ``state``."""
    fork, ids, said = state.fork(), task.ask(fact), []
    for _ in range(VALUES):
        said.append(int(model(torch.tensor([ids]), fork, last_only=True)[0, -1].argmax()))
        ids = said[-1:]
    return said


def spread(hay: Haystack, length: int, count: int, window: int) -> list[Fact]:
    """Half of the facts from the first 8,192 tokens, half evenly from everywhere the window has left."""
    known = [f for f in hay.facts if f.position + FACT + window <= length]
    near = [f for f in known if f.position < 8192]
    places = (np.linspace(0, len(part) - 1, count // 2).round().astype(int) for part in (near, known))
    return [part[i] for part, chosen in zip((near, known), places, strict=True) for i in chosen]


@torch.inference_mode()
def main() -> None:
    """Command line of the evaluation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--facts", type=int, default=64)
    parser.add_argument("--exact", action="store_true", help="no round trips")
    parser.add_argument("--composed", action="store_true")
    parser.add_argument("--topk", type=int, help="select another number of entries than the model's")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = load_model(options.weights)
    model.simulate_quantization = not options.exact
    task = Task(Tokenizer.from_file(options.weights / "tokenizer.json"))
    hay = task.haystack(np.random.default_rng(options.seed), options.tokens)
    started = time.monotonic()
    state = (compose if options.composed else read)(model, torch.from_numpy(hay.ids))
    print(
        f"{options.tokens:,} tokens with {len(hay.facts):,} facts read in {time.monotonic() - started:.0f} s"
    )
    last = model.layers[-1].attn
    assert isinstance(last, Attention) and last.indexer is not None
    if options.topk:
        last.topk = last.indexer.topk = options.topk
    ranks = Ranks(last.indexer)
    facts = spread(hay, options.tokens, options.facts, model.config.sliding_window)
    right = []
    for fact in facts:
        ranks.fact = fact
        right.append(ask(model, task, state, fact) == list(fact.value))
    ranks.fact = None
    half = len(facts) // 2
    entries = options.tokens // 4
    found = np.array(ranks.found or [0])
    print(
        f"right: {sum(right)} of {len(right)} (near the start {sum(right[:half])} of {half}); "
        f"rank of the entry among {entries:,}: median {np.median(found):.0f}, "
        f"90 % {np.quantile(found, 0.9):.0f}, worst {found.max()}; selected {last.topk}",
        flush=True,
    )


if __name__ == "__main__":
    main()
