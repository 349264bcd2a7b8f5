"""Random tiny models with nothing left at a neutral value, so that a forgotten term shows."""

from __future__ import annotations

from dataclasses import replace

import torch

from dsv4_model.config import ModelConfig, YarnScaling
from dsv4_model.transformer import DeepseekV4

TINY = ModelConfig(
    vocab_size=97,
    hidden_size=48,
    num_hidden_layers=5,
    num_attention_heads=4,
    head_dim=32,
    qk_rope_head_dim=16,
    q_lora_rank=24,
    o_groups=2,
    o_lora_rank=20,
    moe_intermediate_size=40,
    n_routed_experts=6,
    num_experts_per_tok=2,
    num_hash_layers=2,
    num_nextn_predict_layers=1,
    compress_ratios=(0, 4, 8, 4, 8, 0),
    sliding_window=7,
    index_n_heads=3,
    index_head_dim=16,
    index_topk=512,
    swiglu_limit=1.5,
    rope_scaling=YarnScaling(original_max_position_embeddings=4096),
)


def random_model(config: ModelConfig = TINY, seed: int = 0, **changes: object) -> DeepseekV4:
    """A model whose norms, sinks, biases, position biases, maps and hash tables are all random."""
    model = DeepseekV4(replace(config, **changes))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(seed)
    model.reset_parameters(generator)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith(("norm.weight", "hc_head_scale", "_scale")):
                parameter.add_(0.2 * noise)
            elif parameter.ndim == 1 or name.endswith("ape"):
                parameter.add_(0.7 * noise)
            elif "hc_" in name:
                parameter.add_(0.5 * noise)
            elif name == "embed.weight":
                parameter.copy_(noise)
    return model.requires_grad_(False)


def random_ids(config: ModelConfig, batch: int, count: int, seed: int = 1) -> torch.Tensor:
    """Token ids ``[batch, count]``."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, config.vocab_size, (batch, count), generator=generator)
