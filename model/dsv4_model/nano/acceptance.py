"""How often the main model agrees with what the MTP block drafts.

    python -m dsv4_model.nano.acceptance [--checkpoint FOLDER] [--episodes 60] [--depth 2] [--free]

Episodes have names never seen in training and seeds of their own. A draft counts as accepted where its first
choice is the main model's; a chained one counts only where those before it were accepted, as in speculative
decoding at temperature 0. `--free` measures on what the model itself says instead of on the oracle's words.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor

from dsv4_model.checkpoint import load_model
from dsv4_model.nano import WEIGHTS
from dsv4_model.nano.data.families import draw
from dsv4_model.nano.data.names import Split
from dsv4_model.nano.data.record import Episode, record
from dsv4_model.nano.data.workspace import interpreter_with_hints
from dsv4_model.tokenizer import Tokenizer
from dsv4_model.transformer import DeepseekV4

FIRST_SEED = 900_000
MOST_TOKENS = 200


def episodes(
    count: int, tokenizer: Tokenizer, first: int = FIRST_SEED
) -> Iterator[tuple[list[int], Episode]]:
    """`(prompt, episode)` of solved tasks with held-out names, played by the oracle."""
    for seed in range(first, first + count):
        with interpreter_with_hints() if seed % 5 < 2 else nullcontext():
            recorded = asyncio.run(record(draw(seed, Split.HELD_OUT), seed, tokenizer))
        if recorded is not None:
            yield recorded


@torch.inference_mode()
def accepted(model: DeepseekV4, prefix: list[int], episode: Episode, depth: int) -> Tensor:
    """`[depth, 2]`: by depth, how many drafts of sampled tokens were accepted and how many were made."""
    ids = torch.tensor([prefix + [i for i, _ in episode]])
    sampled = [False] * len(prefix) + [s for _, s in episode]
    state = model.new_state()
    logits, streams = model(ids, state, return_streams=True)
    choices = logits[0].argmax(-1)
    counts = torch.zeros(depth, 2, dtype=torch.long)
    done = 0
    for at in range(len(sampled) - 2):
        if not sampled[at + 2]:
            continue
        drafted, own = model.draft(
            streams[:, done : at + 1], ids[:, done + 1 : at + 2], state, last_only=True
        )
        done = at + 1
        chain = state.fork()
        for step in range(depth):
            target = at + 1 + step  # whose prediction the draft forestalls
            if step:
                drafted, own = model.draft(own[:, -1:], ids[:, target : target + 1], chain)
            right = int(drafted[0, -1].argmax()) == int(choices[target])
            counts[step] += torch.tensor([right, 1])
            follows = target + 2 < len(sampled) and sampled[target + 2]
            if not (right and follows and int(choices[target]) == int(ids[0, target + 1])):
                break
    return counts


@torch.inference_mode()
def own_words(model: DeepseekV4, prefix: list[int], episode: Episode, end: int) -> Episode:
    """The episode up to the first sampled token, and on from there what the model says."""
    opening = [i for i, _ in episode[: next(at for at, (_, sampled) in enumerate(episode) if sampled)]]
    state = model.new_state()
    said: list[int] = []
    chunk = prefix + opening
    while len(said) < MOST_TOKENS and end not in said:
        said.append(int(model(torch.tensor([chunk]), state, last_only=True)[0, -1].argmax()))
        chunk = said[-1:]
    return [(i, False) for i in opening] + [(i, True) for i in said]


def main() -> None:
    """Command line of the measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=WEIGHTS)
    parser.add_argument("--episodes", type=int, default=60)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--free", action="store_true", help="on the model's own words")
    options = parser.parse_args()
    logging.disable(logging.ERROR)
    tokenizer = Tokenizer.from_file(WEIGHTS / "tokenizer.json")
    model = load_model(options.checkpoint, with_mtp=True)
    total = torch.zeros(options.depth, 2, dtype=torch.long)
    for prefix, episode in episodes(options.episodes, tokenizer):
        said = own_words(model, prefix, episode, tokenizer.eos_id) if options.free else episode
        total += accepted(model, prefix, said, options.depth)
    for depth, (right, made) in enumerate(total.tolist(), 1):
        print(f"draft {depth}: {right} of {made} accepted, {right / max(made, 1):.1%}")


if __name__ == "__main__":
    main()
