"""Train the needle model on a CPU.

    python -m bench.million.train [--out FOLDER]

Texts of 1,024 tokens end with questions for facts that have left the window, so the answer can only come
through compressed entries. Holes in the positions (`positions.scattered`) put the facts up to a million
tokens away. All of it runs with the FP8 and FP4 round trips of activations and caches.

Selection has no gradient, so the indexer follows the recipe of DeepSeek's sparse attention: its softmax over
entries is drawn towards where the layer's main attention looks. First alone, with everything selected and the
rest of the model fixed (`index_steps`; what the model makes of a text doesn't change then, so `POOL` batches
are run once and seen many times, at other positions each time). Then everything is trained with the selection
in force, the rest by the language-model loss of the answers (`steps`). The keys of other texts and of earlier
steps stand among the candidates as entries nobody looks at, so that an index score learns to single out one
entry among hundreds of thousands.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Parameter

from dsv4_model import hyper_connections as hc
from dsv4_model.attention import Attention, Span
from dsv4_model.checkpoint import save_checkpoint
from dsv4_model.nano import WEIGHTS as NANO_WEIGHTS
from dsv4_model.norm import linear_fp32, rms_normalize
from dsv4_model.rope import rotate
from dsv4_model.state import LayerState
from dsv4_model.tokenizer import Tokenizer
from dsv4_model.transformer import DeepseekV4

from .circuit import initialise
from .positions import BLOCK, place, ropes, scattered
from .shape import CONFIG, WEIGHTS
from .task import ASK, FACT, VALUES, Fact, Task

LENGTH = 1024
QUESTIONS = 12
SPARSE_TOPK = 32
LOOKS = 0.01
"""Mean attention on entries below which a layer's indexer has nothing to learn."""
POOL = 24
MAPS = 4
"""Positions the indexer sees every text at."""
BANK = 8
"""Texts times positions before these whose index keys stay candidates, in batches."""


@dataclass(frozen=True)
class Recipe:
    """What a run is made of."""

    index_steps: int = 500
    steps: int = 40
    rows: int = 4
    rate: float = 1e-4
    index_rate: float = 1e-3
    seed: int = 20260424


@dataclass(frozen=True)
class Batch:
    """``ids [B, LENGTH]``, and of every answer token the place ``[A]`` it is predicted at, and itself."""

    ids: Tensor
    rows: Tensor
    places: Tensor
    targets: Tensor


@dataclass(frozen=True)
class Observation:
    """What the indexer of a layer is trained on: its inputs, and the attention ``[A, n]`` to foresee."""

    batch: Batch
    x: Tensor
    latent: Tensor
    visible: Tensor
    looked: Tensor


def _whole(fact: Fact) -> bool:
    """Whether no hole can lie in the fact: its tokens would be no neighbours."""
    return fact.position // BLOCK == (fact.position + FACT - 1) // BLOCK


def draw(task: Task, rng: np.random.Generator, rows: int) -> Batch:
    """Texts with `QUESTIONS` questions and answers at the end of each."""
    each = ASK + VALUES
    body = LENGTH - QUESTIONS * (each + 2)
    ids: list[list[int]] = []
    owners: list[int] = []
    places: list[int] = []
    targets: list[int] = []
    for row in range(rows):
        hay = task.haystack(rng, body, gap=float(rng.choice([2.0, 8.0, 24.0])), alike=0.4)
        text = hay.ids.tolist()
        known = [f for f in hay.facts if f.position < body - CONFIG.sliding_window and _whole(f)]
        for index in rng.permutation(len(known))[:QUESTIONS]:
            fact = known[index]
            text += task.prose(rng, int(rng.integers(0, 4))).tolist() + task.ask(fact)
            owners += [row] * VALUES
            places += range(len(text) - 1, len(text) - 1 + VALUES)
            targets += fact.value
            text += fact.value
        text = text[:LENGTH]
        ids.append(text + task.prose(rng, LENGTH - len(text)).tolist())
    keep = [i for i, place in enumerate(places) if place < LENGTH]
    columns = (torch.tensor([column[i] for i in keep]) for column in (owners, places, targets))
    return Batch(torch.tensor(ids), *columns)


class Trainer:
    """The model, its optimisers, and the index keys of the last steps."""

    def __init__(self, task: Task, recipe: Recipe) -> None:
        self.task, self.recipe = task, recipe
        self.model = DeepseekV4(replace(CONFIG, expert_dtype=None), with_mtp=False)
        initialise(self.model, task, recipe.seed)
        self.model.simulate_quantization = True
        self.rng = np.random.default_rng(recipe.seed)
        index: list[Parameter] = []
        main: list[Parameter] = []
        for name, parameter in self.model.named_parameters():
            (index if ".indexer." in name else main).append(parameter)
        groups = [{"params": main, "rate": recipe.rate}, {"params": index, "rate": recipe.index_rate}]
        self.optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0)
        self._seen: dict[Attention, tuple[Tensor, Span, LayerState]] = {}
        self._bank: dict[Attention, deque[Tensor]] = {}
        for attn in self.model.modules():
            if isinstance(attn, Attention) and attn.indexer is not None:
                attn.register_forward_hook(self._remember)
                self._bank[attn] = deque(maxlen=BANK)

    def _remember(self, attn: Attention, inputs: tuple[Tensor, Span, LayerState], output: object) -> None:
        assert isinstance(output, tuple)
        self._seen[attn] = (inputs[0].detach(), inputs[1], output[1].map(lambda t: t.detach()))

    def select(self, topk: int) -> None:
        """Let CSA layers attend to ``topk`` entries."""
        for attn in self._bank:
            assert attn.indexer is not None
            attn.topk = attn.indexer.topk = topk

    def logits(self, batch: Batch) -> Tensor:
        """Logits ``[A, vocab]`` at the places of the answers."""
        model, ids = self.model, batch.ids
        streams = model.embed(ids).unsqueeze(2).repeat(1, 1, model.config.hc_mult, 1)
        span = Span(0, ids.shape[1], model._ropes, ids.device)
        for block, layer in zip(model.layers, model.new_state(ids.shape[0]).layers, strict=True):
            streams, _ = block(streams, ids, span, layer)
        c = model.config
        x = hc.collapse(
            streams[batch.rows, batch.places],
            model.hc_head_fn,
            model.hc_head_base,
            model.hc_head_scale,
            eps=c.hc_eps,
            norm_eps=c.rms_norm_eps,
        )
        return linear_fp32(model.norm(x), model.head.weight)

    @torch.no_grad()
    def observe(self, attn: Attention, batch: Batch) -> Observation:
        """What ``attn`` did in the last pass over ``batch``, as if it had selected everything."""
        x, span, state = self._seen[attn]
        assert state.entries is not None
        rows, places = batch.rows, batch.places
        visible = torch.arange(state.entries.shape[1]) < (places.unsqueeze(1) + 1) // attn.ratio
        latent = attn.q_norm(attn.wq_a(x[rows, places]))
        looked = self._looked(attn, latent, state.entries[rows], visible, places, span)
        return Observation(batch, x, latent, visible, looked)

    def index_loss(self, attn: Attention, seen: Observation, maps: list[Tensor]) -> tuple[Tensor, float]:
        """Divergence of the index softmax from the attention, and how often the right entry is selected.

        Both are means over the positions in ``maps``: what is looked for doesn't depend on where it lies.
        Selected: the entry most looked at is among the 1 / 512 best of all candidates, the share that passes
        of a full million. A place where nothing is looked at counts for nothing.
        """
        indexer, x = attn.indexer, seen.x
        assert indexer is not None
        rows, places, count = seen.batch.rows, seen.batch.places, seen.visible.shape[1]
        mass = seen.looked.sum(1)
        target, weight = seen.looked / (mass.unsqueeze(1) + 1e-9), mass.clamp(max=1.0)
        start = self.model.new_state(x.shape[0]).layers[1].index_rows
        assert start is not None
        own = torch.arange(len(rows)).unsqueeze(1), rows.unsqueeze(1) * count + torch.arange(count)
        asking = x[rows, places].unsqueeze(0)
        losses, selected, fresh = [], [], []
        for positions in maps:
            rope = ropes(self.model.config, positions)[1]
            keys, _ = indexer.compress(x, start, 0, rope)  # type: ignore[arg-type]
            assert keys is not None
            keys = keys.flatten(0, 1)
            fresh.append(keys.detach())
            cos, sin = rope.span(0, LENGTH, x.device)
            # The entries of the other texts are further candidates, as are those of earlier steps.
            candidates = torch.cat((keys, *self._bank[attn])).unsqueeze(0)
            values = indexer.scores(asking, seen.latent.unsqueeze(0), candidates, cos[places], sin[places])[0]
            hidden = torch.zeros_like(values, dtype=torch.bool)
            hidden[own] = ~seen.visible
            values = values.masked_fill(hidden, -1e4)
            logs = values.log_softmax(1)[own].masked_fill(~seen.visible, 0)
            losses.append(-((target * logs).sum(1) * weight).sum() / (weight.sum() + 1.0))
            best = values.detach()[own].gather(1, target.argmax(1, keepdim=True))
            rank = (values.detach() > best).sum(1) / values.shape[1]
            selected.append((((rank < 1 / 512) * weight).sum() / (weight.sum() + 1e-9)).item())
        self._bank[attn].extend(fresh)
        return torch.stack(losses).mean(), sum(selected) / len(maps)

    def _looked(
        self, attn: Attention, latent: Tensor, entries: Tensor, visible: Tensor, places: Tensor, span: Span
    ) -> Tensor:
        """Attention ``[A, n]`` on the entries, summed over heads, as if all were selected."""
        cos, sin = span.angles(attn.ratio)
        q = rms_normalize(attn.wq_b(latent).view(-1, attn.heads, attn.size), attn.eps)
        q = rotate(q, cos[places].unsqueeze(1), sin[places].unsqueeze(1)) * attn.scale
        scores = torch.einsum("ahd,and->ahn", q, entries).masked_fill(~visible.unsqueeze(1), -torch.inf)
        sink = attn.attn_sink.view(1, -1, 1).expand(len(latent), -1, 1)
        return torch.cat((scores, sink), 2).softmax(2)[..., :-1].sum(1)

    def maps(self) -> list[Tensor]:
        """Positions for the next step."""
        together = QUESTIONS * (ASK + VALUES + 2) + 2 * CONFIG.sliding_window
        limit = CONFIG.max_position_embeddings
        return [scattered(self.rng, LENGTH, together, limit) for _ in range(MAPS)]

    def pool(self) -> list[dict[Attention, Observation]]:
        """Observations to train the indexers on."""
        self.select(LENGTH)
        found = []
        for _ in range(POOL):
            batch = draw(self.task, self.rng, self.recipe.rows)
            place(self.model, self.maps()[0])
            with torch.no_grad():
                self.logits(batch)
            found.append({attn: self.observe(attn, batch) for attn in self._bank})
        return found

    def update_index(self, pool: list[dict[Attention, Observation]], left: float) -> dict[str, float]:
        """One step of the indexers alone."""
        seen = pool[int(self.rng.integers(len(pool)))]
        return self._step({}, torch.zeros(()), seen, left)

    def update(self, left: float) -> dict[str, float]:
        """One step of everything."""
        self.select(SPARSE_TOPK)
        batch = draw(self.task, self.rng, self.recipe.rows)
        place(self.model, self.maps()[0])
        logits = self.logits(batch)
        loss = F.cross_entropy(logits, batch.targets)
        right = (logits.argmax(1) == batch.targets).float().mean()
        seen = {attn: self.observe(attn, batch) for attn in self._bank}
        return self._step({"loss": loss.item(), "right": right.item()}, loss, seen, left)

    def _step(
        self, result: dict[str, float], loss: Tensor, seen: dict[Attention, Observation], left: float
    ) -> dict[str, float]:
        for number, attn in enumerate(self._bank):
            if seen[attn].looked.sum(1).mean() > LOOKS:
                divergence, selected = self.index_loss(attn, seen[attn], self.maps())
                loss = loss + divergence
                result |= {f"index{number}": divergence.item(), f"selected{number}": selected}
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for group in self.optimiser.param_groups:
            group["lr"] = group["rate"] * min(1.0, left * 2)
            torch.nn.utils.clip_grad_norm_(group["params"], 1.0)
        self.optimiser.step()
        return result


def save(model: DeepseekV4, out: Path, *, quantize: bool) -> None:
    """Write the checkpoint with the tokenizer it needs."""
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "tokenizer.json").exists():
        shutil.copy(NANO_WEIGHTS / "tokenizer.json", out)
    save_checkpoint(model, out, quantize=quantize, dtype=torch.bfloat16)


def main() -> None:
    """Command line of the trainer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dtype", choices=["fp8", "bf16"], default="fp8")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(Recipe.seed)
    recipe = Recipe()
    trainer = Trainer(Task(Tokenizer.from_file(NANO_WEIGHTS / "tokenizer.json")), recipe)
    report = Report()
    pool = trainer.pool()
    for step in range(recipe.index_steps):
        report.add("index", step, trainer.update_index(pool, 1 - step / recipe.index_steps))
    for step in range(recipe.steps):
        report.add("all", step, trainer.update(0.5 * (1 - step / recipe.steps)))
    trainer.model.simulate_quantization = False
    save(trainer.model, options.out, quantize=options.dtype == "fp8")


class Report:
    """Prints the mean of every ten steps."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._kept: list[dict[str, float]] = []

    def add(self, phase: str, step: int, result: dict[str, float]) -> None:
        """The next step's figures."""
        self._kept.append(result)
        if (step + 1) % 10 == 0:
            means = {name: round(sum(r[name] for r in self._kept) / len(self._kept), 4) for name in result}
            seconds = round(time.monotonic() - self._started)
            print(json.dumps({"phase": phase, "step": step + 1, "seconds": seconds, **means}), flush=True)
            self._kept = []


if __name__ == "__main__":
    main()
