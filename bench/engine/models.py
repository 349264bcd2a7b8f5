"""The models that engines are compared on, as a model in memory and as a GGUF file."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from dsv4_model.checkpoint import load_model
from dsv4_model.config import ModelConfig, YarnScaling
from dsv4_model.engine import Engine
from dsv4_model.gguf_export import export_gguf
from dsv4_model.nano import WEIGHTS
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


@dataclass(frozen=True, slots=True)
class Subject:
    """A model under measurement."""

    name: str
    model: DeepseekV4

    @property
    def config(self) -> ModelConfig:
        """Its configuration."""
        return self.model.config

    def engine(self) -> Engine:
        """This project's engine over it."""
        return Engine(self.model, Tokenizer.from_file(TOKENIZER), self.name)

    def gguf(self, folder: Path) -> Path:
        """The model written as fp32 GGUF in ``folder``."""
        file = folder / f"{self.name}.gguf"
        export_gguf(self.model, file, tokenizer=TOKENIZER, name=self.name)
        return file


def subject(name: str, longest: int) -> Subject:
    """``nano``, trained, or ``tiny``, random, able to hold ``longest`` tokens and some more.

    YaRN depends on the original context only, so a longer maximum changes no result.
    """
    if name == "nano":
        return Subject(name, _widened(WEIGHTS, longest + ROOM))
    return Subject(name, random_model(TINY, max_position_embeddings=max(65536, longest + ROOM)).eval())


def _widened(weights: Path, context: int) -> DeepseekV4:
    raw = json.loads((weights / "config.json").read_text("utf-8"))
    if raw["max_position_embeddings"] >= context:
        return load_model(weights)
    with TemporaryDirectory() as folder:
        for file in weights.iterdir():
            (Path(folder) / file.name).symlink_to(file)
        (Path(folder) / "config.json").unlink()
        raw["max_position_embeddings"] = context
        (Path(folder) / "config.json").write_text(json.dumps(raw), "utf-8")
        return load_model(folder)


def selecting(topk: int) -> DeepseekV4:
    """The tiny model with an indexer that has to choose after ``4 * topk`` tokens."""
    return random_model(replace(TINY, index_topk=topk)).eval()
