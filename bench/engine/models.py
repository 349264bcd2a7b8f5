"""The models that engines are compared on, as a model in memory and as a GGUF file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from dsv4_model.checkpoint import load_model
from dsv4_model.config import ModelConfig, YarnScaling
from dsv4_model.engine import CacheFormat, Engine, EngineOptions
from dsv4_model.gguf_export import export_gguf
from dsv4_model.nano import WEIGHTS
from dsv4_model.prefix_store import PrefixStore
from dsv4_model.tokenizer import Tokenizer
from dsv4_model.transformer import DeepseekV4
from tests.model.random_model import random_model

ROOM = 4096
"""Tokens of context beyond the longest one measured."""

TINY = ModelConfig(
    vocab_size=4096,
    hidden_size=256,
    num_hidden_layers=6,
    num_attention_heads=4,
    head_dim=64,
    qk_rope_head_dim=16,
    q_lora_rank=128,
    o_groups=2,
    o_lora_rank=64,
    moe_intermediate_size=128,
    n_routed_experts=8,
    num_experts_per_tok=2,
    num_hash_layers=2,
    num_nextn_predict_layers=0,
    compress_ratios=(0, 0, 4, 128, 4, 128),
    sliding_window=128,
    index_n_heads=8,
    index_head_dim=64,
    index_topk=512,
    rope_scaling=YarnScaling(),
)
"""9 M parameters; every kind of layer and routing. Its parameters are random, none at a neutral value."""

TOKENIZER = WEIGHTS / "tokenizer.json"


class Subject:
    """A model under measurement.

    Args:
        load: makes the de-quantised fp32 weights, which the peers run; called when they are first needed.
        folder: the checkpoint that this project's engine opens, packed as it is; None for a random model.
    """

    def __init__(self, name: str, load: Callable[[], DeepseekV4], folder: Path | None = None) -> None:
        self.name = name
        self.folder = folder
        self._load = load

    @cached_property
    def model(self) -> DeepseekV4:
        """The weights in fp32."""
        return self._load()

    @property
    def config(self) -> ModelConfig:
        """Its configuration."""
        return self.model.config

    def engine(self, threads: int, store: PrefixStore | None = None) -> Engine:
        """This project's engine over it. It doesn't draft: one pass a token, as with the peers."""
        # The format of released models, whatever the weights are stored in.
        cache = CacheFormat.FP8_FP4
        options = EngineOptions(threads=threads, speculate=False, store=store, cache_format=cache)
        if self.folder is not None:
            return Engine.load(self.folder, options=options)
        return Engine(self.model, Tokenizer.from_file(TOKENIZER), self.name, options)

    def gguf(self, folder: Path) -> Path:
        """The model written as fp32 GGUF in ``folder``."""
        file = folder / f"{self.name}.gguf"
        export_gguf(self.model, file, tokenizer=TOKENIZER, name=self.name)
        return file

    def active_bytes(self) -> int:
        """Bytes of fp32 weights that one decoded token reads: all but embeddings and unchosen experts."""
        c = self.config
        skipped = 1 - c.num_experts_per_tok / c.n_routed_experts
        total = 0.0
        for name, value in self.model.state_dict().items():
            if name == "embed.weight" or name.endswith("tid2eid"):
                continue
            total += 4 * value.numel() * (1 - skipped if ".ffn.experts." in name else 1)
        return int(total)


def subject(name: str, longest: int, folder: Path | None = None) -> Subject:
    """``nano``, trained, or ``tiny``, random, able to hold ``longest`` tokens and some more.

    A wider context changes no result (YaRN depends on the original one), but the configuration must name it:
    ``folder`` takes the widened checkpoint.
    """
    room = longest + ROOM
    if name == "tiny":
        return Subject(name, lambda: random_model(TINY, max_position_embeddings=max(65536, room)).eval())
    if folder is None:
        return Subject(name, lambda: load_model(WEIGHTS), WEIGHTS)
    widened = folder / "nano"
    widened.mkdir()
    for file in WEIGHTS.iterdir():
        if file.name != "config.json":
            (widened / file.name).symlink_to(file)
    raw = json.loads((WEIGHTS / "config.json").read_text("utf-8"))
    raw["max_position_embeddings"] = max(raw["max_position_embeddings"], room)
    (widened / "config.json").write_text(json.dumps(raw), "utf-8")
    return Subject(name, lambda: load_model(widened), widened)


def selecting(topk: int) -> DeepseekV4:
    """The tiny model with an indexer that has to choose after ``4 * topk`` tokens."""
    return random_model(replace(TINY, index_topk=topk)).eval()
