"""V4-Nano's shape, with the released window and a million positions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dsv4_model.nano.shape import CONFIG as NANO

WEIGHTS = Path(__file__).parent / "weights"

CONFIG = replace(
    NANO,
    num_nextn_predict_layers=0,
    compress_ratios=NANO.compress_ratios[: NANO.num_hidden_layers],
    sliding_window=128,
    index_topk=512,
    moe_intermediate_size=128,
    n_routed_experts=4,
    max_position_embeddings=1 << 20,
)
"""What can be seen of an older token is a compressed entry, and of 262,144 of those 512 are selected."""
