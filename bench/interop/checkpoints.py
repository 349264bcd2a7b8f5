"""V4-Nano's weights in the forms that other programs load, and a Llama for servers without V4's layers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from dsv4_model.nano import WEIGHTS

TOKENIZER = WEIGHTS / "tokenizer.json"


def as_gguf(folder: Path) -> Path:
    """What `dsv4 model export nano --gguf` writes."""
    file = folder / "nano.gguf"
    program = Path(sys.executable).with_name("dsv4")
    subprocess.run([program, "model", "export", "nano", "--gguf", file], check=True, capture_output=True)
    return file


def for_transformers(folder: Path) -> Path:
    """A checkpoint in transformers' own naming, de-quantised, with the tokenizer beside it."""
    from dsv4_model.checkpoint import load_model
    from tests.model.test_transformers_parity import twin

    place = folder / "nano"
    twin(load_model(WEIGHTS)).save_pretrained(place, save_original_format=False)
    _add_tokenizer(place)
    return place


def random_llama(folder: Path) -> Path:
    """A tiny Llama with random weights over V4-Nano's vocabulary, where only the protocol counts."""
    return save_llama(new_llama(), folder / "llama")


def new_llama() -> Any:
    """Its weights are random, and the same each time."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=2048,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,  # of 64: no smaller ones on CPUs
        num_key_value_heads=2,
        max_position_embeddings=8192,
        bos_token_id=0,
        eos_token_id=1,
    )
    return LlamaForCausalLM(config)


def save_llama(model: Any, place: Path) -> Path:
    """A checkpoint with V4-Nano's tokenizer."""
    model.save_pretrained(place)
    _add_tokenizer(place)
    return place


def _add_tokenizer(place: Path) -> None:
    shutil.copyfile(TOKENIZER, place / "tokenizer.json")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<｜begin▁of▁sentence｜>",
        "eos_token": "<｜end▁of▁sentence｜>",
        "pad_token": "<｜▁pad▁｜>",
        "clean_up_tokenization_spaces": False,
    }
    (place / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
