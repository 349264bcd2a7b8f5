"""Train V4-Nano's MTP block, which drafts the token after the next; the main model stays as it is.

    python -m dsv4_model.nano.train_mtp --data RUNS/data --out RUNS/mtp [--minutes 25]

The block is distilled: it learns the frozen model's own distribution, because a draft is accepted where the
two agree. Like the main trainer it is seeded and resumable, and `export --train RUNS/mtp` adds the block to
the shipped checkpoint.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dsv4_model.checkpoint import load_model
from dsv4_model.nano import WEIGHTS
from dsv4_model.nano.examples import Batch, Examples
from dsv4_model.nano.shape import CONFIG
from dsv4_model.nano.train import PREFIX_EVERY, Recipe, Trainer
from dsv4_model.norm import rms_normalize
from dsv4_model.state import State
from dsv4_model.tokenizer import Tokenizer
from dsv4_model.transformer import Block, DeepseekV4, MtpBlock

MODEL_OF_BLOCK = 1
"""Main layer whose weights the block starts with: the one that copies."""
RECIPE = Recipe(rate=2e-3, decisive_weight=1.0, bare_share=0.0, warmup=20)
CHAIN_EVERY = 2
"""Steps from one with a second pass, which learns to draft from drafts, to the next."""
CHAINED_SHARE = 0.5
"""Share of positions whose stream comes from the block itself in a second pass."""
FITTED_EPISODES = 48
RIDGE = 1e-3


class MtpTrainer(Trainer):
    """The trainer of the main model, with only the MTP block to learn."""

    _prefix_streams: Tensor
    _prefix_main: State | None = None

    def _build(self, start: Path | None) -> DeepseekV4:
        model = DeepseekV4(CONFIG)
        main = load_model(start or WEIGHTS)
        model.load_state_dict(main.state_dict(), strict=False)
        begin(model, self.examples)
        model.requires_grad_(False)
        model.mtp.requires_grad_(True)
        return model

    def _blocks(self) -> nn.ModuleList:
        return self.model.mtp

    def prefix(self) -> State:
        """The state after the shared prompt; the block's own part is at most `PREFIX_EVERY` steps old."""
        ids = torch.from_numpy(self.examples.prefix.astype(np.int64)).unsqueeze(0)
        with torch.no_grad():
            if self._prefix_main is None:
                self._prefix_main = self.model.new_state()
                _, self._prefix_streams = self.model(ids, self._prefix_main, return_streams=True)
            if self._prefix is None or self.step % PREFIX_EVERY == 0:
                following = torch.tensor([[int(self.examples.ids[0])]])  # every episode opens alike
                self._prefix = self._prefix_main.fork()
                self.model.draft(self._prefix_streams, torch.cat((ids[:, 1:], following), 1), self._prefix)
        return self._prefix

    def loss(self, batch: Batch, *, fresh: bool) -> tuple[Tensor, Tensor]:
        """Distance to the main model's predictions, and the share of sampled tokens where the two agree.

        A first pass drafts from the main model's streams. In some steps a second one takes part of them from
        the first, as a chain of drafts does.
        """
        rows = batch.ids.shape[0]
        state = self.model.new_state(rows) if fresh else self.prefix().expand(rows)
        chained = state.fork()
        with torch.no_grad():
            logits, streams = self.model(batch.ids[:, :-1], state, return_streams=True)
        teacher = logits[:, 1:].log_softmax(-1)
        streams, following = streams[:, :-1], batch.ids[:, 1:-1]
        drafted, own = self.model.draft(streams, following, state)
        weights = batch.weights[:, 1:]
        sampled = weights >= 1.0
        same = drafted.detach().argmax(-1) == teacher.argmax(-1)
        agree = (same & sampled).sum() / sampled.sum().clamp(min=1)
        loss = _distance(drafted, teacher, weights)
        if self.step % CHAIN_EVERY:
            return loss, agree
        own = torch.cat((streams[:, :1], own[:, :-1]), 1)
        swapped = torch.rand(own.shape[:2]) < CHAINED_SHARE
        swapped[:, 0] = False
        drafted, _ = self.model.draft(torch.where(swapped[..., None, None], own, streams), following, chained)
        loss = loss + _distance(drafted, teacher, weights * swapped)
        return loss, agree


def _distance(drafted: Tensor, teacher: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of the Kullback-Leibler divergence from the main model's distribution."""
    divergence = (teacher.exp() * (teacher - drafted.log_softmax(-1))).sum(-1)
    return (divergence * weights).sum() / weights.sum().clamp(min=1)


@torch.no_grad()
def begin(model: DeepseekV4, examples: Examples) -> None:
    """Start the MTP block as a main layer that is fed one token later than the main model's streams.

    Its joining maps are fitted, by least squares over some episodes, so that what they make of the streams at
    t and the token at t + 1 is what that layer reads at t + 1.
    """
    block, like = model.mtp[0], model.layers[MODEL_OF_BLOCK]
    assert isinstance(block, MtpBlock) and isinstance(like, Block)
    source = {**like.state_dict(), **{k: v for k, v in model.state_dict().items() if k.startswith("hc_head")}}
    source["norm.weight"] = model.norm.weight
    shapes = {name: value.shape for name, value in block.state_dict().items()}
    block.load_state_dict({k: v for k, v in source.items() if shapes.get(k) == v.shape}, strict=False)
    read: list[Tensor] = []
    hook = like.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    d, h = model.config.hidden_size, model.config.hc_mult
    square, product = torch.zeros(2 * d, 2 * d), torch.zeros(2 * d, d)
    for i in range(min(FITTED_EPISODES, len(examples))):
        low, high = examples.offsets[i], examples.offsets[i + 1]
        episode = np.concatenate((examples.prefix, examples.ids[low:high])).astype(np.int64)
        ids = torch.from_numpy(episode).unsqueeze(0)
        _, streams = model(ids, model.new_state(), return_streams=True)
        embedded = rms_normalize(model.embed(ids[:, 1:]), model.config.rms_norm_eps)
        inputs = torch.cat(
            (
                embedded.unsqueeze(2).expand(-1, -1, h, -1),
                rms_normalize(streams[:, :-1], model.config.rms_norm_eps),
            ),
            -1,
        ).reshape(-1, 2 * d)
        square += inputs.T @ inputs
        product += inputs.T @ read.pop()[:, 1:].reshape(-1, d)
    hook.remove()
    square += RIDGE * square.diagonal().mean() * torch.eye(2 * d)
    joined = torch.linalg.solve(square, product).T
    block.e_proj.weight.copy_(joined[:, :d])
    block.h_proj.weight.copy_(joined[:, d:])


def main() -> None:
    """Command line of the trainer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of recorded shards")
    parser.add_argument("--out", type=Path, required=True, help="folder for state.pt and log.jsonl")
    parser.add_argument(
        "--start", type=Path, help="checkpoint folder of the main model; else the shipped one"
    )
    parser.add_argument("--minutes", type=float, default=25, help="training time in all, over all runs")
    parser.add_argument(
        "--decay", type=float, default=0.6, help="share of the time in which the rate falls to 0"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rate", type=float, default=RECIPE.rate)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(RECIPE.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_file(WEIGHTS / "tokenizer.json")
    recipe = replace(RECIPE, rate=options.rate)
    trainer = MtpTrainer(options.data, tokenizer, recipe, options.out, options.start)
    trainer.run(options.minutes, options.decay)


if __name__ == "__main__":
    main()
