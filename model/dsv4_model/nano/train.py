"""Train V4-Nano from recorded episodes.

    python -m dsv4_model.nano.train --data RUNS/data --out RUNS/train [--minutes 90]

Seeded and resumable: `state.pt` in the output folder is replaced every few minutes, and the same command goes
on from it. The learning rate warms up, stays, and falls to zero over the last part of the time given
(`--decay`), so a run may be cut and continued with another length. `log.jsonl` holds the losses. `--start`
begins from a checkpoint folder, such as the shipped weights, instead of from `initialise`.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsv4_model.checkpoint import load_model
from dsv4_model.nano import WEIGHTS
from dsv4_model.nano.data import declines, phrasing
from dsv4_model.nano.data.names import ADJECTIVES, NOUNS, VERBS
from dsv4_model.nano.examples import Batch, Examples, Relabelling, batches, copy_batch
from dsv4_model.nano.initialise import initialise
from dsv4_model.nano.muon import Muon
from dsv4_model.nano.shape import CONFIG
from dsv4_model.state import State
from dsv4_model.tokenizer import Tokenizer
from dsv4_model.transformer import Block, DeepseekV4

PAD = 2
FIRST_PIECE = 32
FIXED_SHARE = 0.04
KEEP_WITH = "OK misspelt"
SPOKEN = (*phrasing.all_texts(), *declines.all_texts())
PREFIX_EVERY = 16
"""Steps between computations of the shared prompt's state; gradients don't flow through it."""


@dataclass(frozen=True)
class Recipe:
    """What a run is made of.

    `bare_share` of the batches go without the shared prompt in front, which makes a step half as long; in the
    last part of the cool-down (`bare_until` of it) none does.
    """

    rate: float = 1e-3
    head_rate: float = 1e-3
    warmup: int = 100
    tokens: int = 1536
    context_weight: float = 0.03
    decisive_weight: float = 6.0
    copy_share: float = 0.06
    bare_share: float = 0.1
    bare_until: float = 0.5
    weight_decay: float = 0.05
    balance: float = 1e-3
    clip: float = 1.0
    seed: int = 20260424


def relabelling(tokenizer: Tokenizer, examples: Examples) -> Relabelling:
    """Which pieces are only parts of names: words of the generator's lists that the oracle never says itself.

    A piece that is sampled in more than a small share of episodes belongs to the fixed phrases.
    """
    lists = {tokenizer.id_of(word) for word in NOUNS + VERBS + ADJECTIVES}
    owners = np.repeat(np.arange(len(examples)), np.diff(examples.offsets))
    pairs = np.unique(np.stack([examples.ids.astype(np.int64), owners]), axis=1)
    share = np.bincount(pairs[0], minlength=CONFIG.vocab_size) / max(len(examples), 1)
    fixed = set(examples.prefix.tolist()) | set(np.flatnonzero(share > FIXED_SHARE).tolist())
    spoken = {i for text in SPOKEN for i in tokenizer.encode(text, False)}
    names = sorted(i for i in lists if i is not None and i not in fixed and i not in spoken)
    keep = tokenizer.encode(KEEP_WITH, False)
    return Relabelling(np.asarray(names), np.asarray(keep[-1:]))


def parameter_kinds(
    model: DeepseekV4,
) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """`(matrices, tables, vectors)`: what Muon trains, and what AdamW trains with and without weight decay.

    Tables are the two-dimensional weights that are no maps between hidden states: the embedding, the head,
    routers, position biases and the maps of the hyper-connections. What is frozen is in none of the three.
    """
    matrices: list[nn.Parameter] = []
    tables: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim < 2:
            vectors.append(parameter)
        elif (
            name in ("embed.weight", "head.weight") or "hc_" in name or name.endswith(("gate.weight", "ape"))
        ):
            tables.append(parameter)
        else:
            matrices.append(parameter)
    return matrices, tables, vectors


class Trainer:
    """A model, its optimiser and how far it has come."""

    def __init__(
        self, data: Path, tokenizer: Tokenizer, recipe: Recipe, out: Path, start: Path | None = None
    ) -> None:
        self.data, self.tokenizer, self.recipe, self.out = data, tokenizer, recipe, out
        self.examples = Examples.load(data)
        self.step = 0
        self.seconds = 0.0
        self.model = self._build(start)
        matrices, tables, vectors = parameter_kinds(self.model)
        decay = recipe.weight_decay
        groups = [{"params": tables, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
        self.optimisers: tuple[torch.optim.Optimizer, ...] = (
            Muon(matrices, lr=recipe.rate, weight_decay=decay),
            torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.95), fused=True),
        )
        self._prefix: State | None = None
        self._loads: dict[nn.Module, Tensor] = {}
        for block in self._blocks():
            assert isinstance(block, Block)
            if block.ffn.gate.bias is not None:
                block.ffn.gate.register_forward_hook(self._count)
        self._resume()

    def _build(self, start: Path | None) -> DeepseekV4:
        """The model before the first step; what needs no gradient isn't trained."""
        model = DeepseekV4(CONFIG, with_mtp=False)
        initialise(model, self.recipe.seed)
        if start is not None:
            model.load_state_dict(load_model(start).state_dict())
        return model

    def _blocks(self) -> Iterable[nn.Module]:
        """The blocks that are trained; their routers are kept balanced."""
        return self.model.layers

    def _count(self, gate: nn.Module, _: object, output: tuple[Tensor, Tensor]) -> None:
        self._loads[gate] = output[1].flatten().bincount(minlength=CONFIG.n_routed_experts)

    def _resume(self) -> None:
        file = self.out / "state.pt"
        if file.is_file():
            saved = torch.load(file, weights_only=True)
            self.model.load_state_dict(saved["model"])
            for optimiser, state in zip(self.optimisers, saved["optimisers"], strict=True):
                optimiser.load_state_dict(state)
            self.step, self.seconds = saved["step"], saved["seconds"]
            print(f"continuing from step {self.step}")

    def save(self) -> None:
        """Replace `state.pt` atomically."""
        part = self.out / "state.part"
        torch.save(
            {
                "model": self.model.state_dict(),
                "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
                "step": self.step,
                "seconds": self.seconds,
            },
            part,
        )
        part.replace(self.out / "state.pt")

    def prefix(self) -> State:
        """The state after the shared prompt, at most `PREFIX_EVERY` steps old."""
        if self._prefix is None or self.step % PREFIX_EVERY == 0:
            ids = torch.from_numpy(self.examples.prefix.astype(np.int64)).unsqueeze(0)
            with torch.no_grad():
                self._prefix = self.model.new_state()
                self.model(ids, self._prefix, last_only=True)
        return self._prefix

    def loss(self, batch: Batch, *, fresh: bool) -> tuple[Tensor, Tensor]:
        """Weighted cross entropy, and the share of sampled tokens predicted right."""
        rows = batch.ids.shape[0]
        state = self.model.new_state(rows) if fresh else self.prefix().expand(rows)
        logits = self.model(batch.ids[:, :-1], state)
        targets = batch.ids[:, 1:]
        losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        weights = batch.weights.flatten()
        sampled = (batch.weights >= 1.0).float()
        right = ((logits.detach().argmax(-1) == targets) * sampled).sum() / sampled.sum().clamp(min=1)
        return (losses * weights).sum() / weights.sum().clamp(min=1), right

    def update(self, batch: Batch, rate: float, *, fresh: bool) -> tuple[float, float, float]:
        """One step; returns loss, accuracy and gradient norm."""
        loss, right = self.loss(batch, fresh=fresh)
        self.model.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.step()
        self._balance()
        self.step += 1
        return loss.item(), right.item(), norm.item()

    @torch.no_grad()
    def _balance(self) -> None:
        """Loss-free balancing: raise the bias of idle experts, lower that of busy ones."""
        for gate, load in self._loads.items():
            bias = gate.bias
            assert isinstance(bias, Tensor)
            bias += self.recipe.balance * torch.sign(load.float().mean() - load)

    def run(self, minutes: float, decay: float) -> None:
        """Train until `minutes` in all have passed; in the last share `decay` of them the rate falls to 0."""
        recipe = self.recipe
        total = minutes * 60
        started, before = time.monotonic(), self.seconds
        epoch = 0
        # What to do is decided at the first token of thinking, of an answer and of a tool's name.
        marks = (self.tokenizer.id_of(text) for text in ("<think>", "</think>", 'invoke name="'))
        decisive = [mark for mark in marks if mark is not None]
        with (self.out / "log.jsonl").open("a", encoding="utf-8") as log:
            sums = np.zeros(3)
            counted, tokens, saved = 0, 0, time.monotonic()
            while True:
                rng = np.random.default_rng((recipe.seed, self.step, epoch))
                epoch += 1
                self.examples = Examples.load(self.data)  # recording may still go on
                names = relabelling(self.tokenizer, self.examples)
                print(f"{len(self.examples)} episodes, {len(names.names)} exchangeable pieces", flush=True)
                for drawn in batches(
                    self.examples,
                    recipe.tokens,
                    rng,
                    context_weight=recipe.context_weight,
                    pad=PAD,
                    vocabulary=CONFIG.vocab_size,
                    relabelling=names,
                    decisive=decisive,
                    decisive_weight=recipe.decisive_weight,
                ):
                    self.seconds = before + time.monotonic() - started
                    left = (total - self.seconds) / (total * decay)
                    if left <= 0:
                        self.save()
                        return
                    copying = rng.random() < recipe.copy_share
                    bare = left > recipe.bare_until and rng.random() < recipe.bare_share
                    batch = drawn
                    if copying:
                        batch = copy_batch(CONFIG.vocab_size, FIRST_PIECE, rng, rows=4, length=384)
                    rate = recipe.rate * min(1.0, left, (self.step + 1) / recipe.warmup)
                    result = self.update(batch, rate, fresh=copying or bare)
                    if not math.isfinite(result[0]):
                        raise ArithmeticError(f"the loss is {result[0]} at step {self.step}; lower the rate")
                    if not copying:
                        sums += result
                        counted += 1
                    tokens += batch.weights.numel()
                    if self.step % 20 == 0 and counted:
                        loss, right, norm = (sums / counted).round(4).tolist()
                        entry = {
                            "step": self.step,
                            "seconds": round(self.seconds),
                            "loss": loss,
                            "right": right,
                            "norm": norm,
                            "rate": round(rate, 6),
                            "tokens": tokens,
                        }
                        log.write(json.dumps(entry) + "\n")
                        log.flush()
                        print(entry, flush=True)
                        sums[:], counted = 0, 0
                    if time.monotonic() - saved > 180:
                        self.save()
                        saved = time.monotonic()


def main() -> None:
    """Command line of the trainer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of recorded shards")
    parser.add_argument("--out", type=Path, required=True, help="folder for state.pt and log.jsonl")
    parser.add_argument("--tokenizer", type=Path, default=WEIGHTS, help="folder with tokenizer.json")
    parser.add_argument("--start", type=Path, help="checkpoint folder to begin from")
    parser.add_argument("--minutes", type=float, default=120, help="training time in all, over all runs")
    parser.add_argument(
        "--decay", type=float, default=0.3, help="share of the time in which the rate falls to 0"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rate", type=float, default=Recipe.rate)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(Recipe.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_file(options.tokenizer / "tokenizer.json")
    trainer = Trainer(options.data, tokenizer, Recipe(rate=options.rate), options.out, options.start)
    trainer.run(options.minutes, options.decay)


if __name__ == "__main__":
    main()
