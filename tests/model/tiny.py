"""A byte-level tokenizer and a random model small enough for any test."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import torch

from dsv4_model.bpe.alphabet import byte_alphabet
from dsv4_model.config import ModelConfig
from dsv4_model.engine import Engine
from dsv4_model.tokenizer import REQUIRED_TOKENS, Tokenizer
from dsv4_model.transformer import DeepseekV4

CONTEXT = 700


def tokenizer_definition() -> dict[str, Any]:
    """The tokenizer.json of a vocabulary of 7 structural tokens (ids 0-6) and the 256 bytes (ids 7-262)."""
    names = [*REQUIRED_TOKENS, *byte_alphabet()]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": identifier,
                "content": text,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": False,
            }
            for identifier, text in enumerate(REQUIRED_TOKENS)
        ],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": {name: i for i, name in enumerate(names)}, "merges": []},
    }


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.from_json(json.dumps(tokenizer_definition()), name="tiny tokenizer")


def config(**changes: Any) -> ModelConfig:
    """Every kind of layer; sizes that are no multiple of 128, so that partial blocks are met."""
    raw: dict[str, Any] = {
        "vocab_size": 272,
        "hidden_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "head_dim": 64,
        "qk_rope_head_dim": 32,
        "q_lora_rank": 48,
        "o_groups": 2,
        "o_lora_rank": 40,
        "moe_intermediate_size": 64,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "num_hash_layers": 1,
        "num_nextn_predict_layers": 1,
        "compress_ratios": [0, 4, 128, 4, 0],
        "sliding_window": 16,
        "index_n_heads": 4,
        "index_head_dim": 64,
        "index_topk": 8,
        "max_position_embeddings": CONTEXT,
    }
    return ModelConfig.from_dict({**raw, **changes})


def model(*, with_mtp: bool = False, seed: int = 0, **changes: Any) -> DeepseekV4:
    """Random weights with logits a few units apart, so that argmax doesn't hang on the last bits."""
    built = DeepseekV4(config(**changes), with_mtp=with_mtp)
    built.reset_parameters(torch.Generator().manual_seed(seed))
    with torch.no_grad():
        built.embed.weight.mul_(50)
        built.head.weight.mul_(15)
    return built.eval()


@cache
def module() -> DeepseekV4:
    """The module whose weights `engine` runs: the reference."""
    return model()


@cache
def engine() -> Engine:
    """Shared by tests: an engine is immutable."""
    return Engine(module(), tokenizer(), "tiny")
