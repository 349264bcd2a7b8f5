"""The shape of V4-Nano: a DeepSeek-V4 configuration that two CPU cores can train."""

from __future__ import annotations

from dsv4_model.config import ModelConfig, YarnScaling

CONFIG = ModelConfig(
    vocab_size=2048,
    hidden_size=256,
    num_hidden_layers=4,
    num_attention_heads=4,
    head_dim=192,
    qk_rope_head_dim=64,
    q_lora_rank=128,
    o_groups=2,
    o_lora_rank=128,
    moe_intermediate_size=256,
    n_routed_experts=8,
    num_experts_per_tok=2,
    n_shared_experts=1,
    num_hash_layers=1,
    num_nextn_predict_layers=1,
    compress_ratios=(0, 4, 128, 4, 0),
    sliding_window=1024,
    index_n_heads=8,
    index_head_dim=64,
    index_topk=1024,
    hc_mult=4,
    hc_sinkhorn_iters=6,
    rope_scaling=YarnScaling(),
    max_position_embeddings=65536,
    routed_scaling_factor=1.5,
    expert_dtype="fp4",
)
"""Ratios, stream count, gate function and index head size stay inside what other servers accept."""
