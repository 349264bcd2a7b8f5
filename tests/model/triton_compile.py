"""Compile every kernel for a GPU that isn't there: `python -m tests.model.triton_compile CAPABILITY FOLDER`.

Passes of a model with the layer shapes of the Flash release run on the CPU with all launches replaced by
compilation for that compute capability, so that results are meaningless but every specialisation is met.
Prints the shared memory of each kernel; fails where one doesn't compile or needs more than the device has.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from dsv4_model.cache.formats import CacheFormat
from dsv4_model.cache.kv_cache import KVCache
from dsv4_model.cache.layout import CacheLayout
from dsv4_model.cache.pages import PagePool
from dsv4_model.checkpoint import save_checkpoint
from dsv4_model.kernels.gpu.passes import TritonPasses
from dsv4_model.passes import Piece, Rows
from dsv4_model.weights import ModelWeights
from tests.model import tiny

SHARED = {80: 163 << 10, 90: 227 << 10}
FLASH_LIKE = {
    "vocab_size": 512,
    "hidden_size": 4096,
    "num_hidden_layers": 3,
    "num_attention_heads": 64,
    "head_dim": 512,
    "qk_rope_head_dim": 64,
    "q_lora_rank": 1024,
    "o_groups": 8,
    "o_lora_rank": 1024,
    "moe_intermediate_size": 256,
    "n_routed_experts": 8,
    "num_experts_per_tok": 6,
    "num_hash_layers": 1,
    "compress_ratios": [0, 4, 128, 0],
    "sliding_window": 128,
    "index_n_heads": 64,
    "index_head_dim": 128,
    "index_topk": 512,
    "max_position_embeddings": 65536,
}


class NoDevice:
    """Stands where Triton expects the driver of a GPU."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


def main() -> None:
    capability, folder = int(sys.argv[1]), sys.argv[2]
    driver.set_active(NoDevice(capability))
    compiled: dict[tuple[str, str], int] = {}
    launch = JITFunction.run

    def compile_only(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel = launch(self, *arguments, grid=grid, warmup=True, **options)
        assert "cubin" in kernel.asm
        compiled[self.fn.__name__, kernel.hash] = kernel.metadata.shared
        return kernel

    JITFunction.run = compile_only
    save_checkpoint(tiny.model(with_mtp=True, **FLASH_LIKE), folder)
    weights = ModelWeights.open(folder)
    for choice in CacheFormat:
        layout = CacheLayout.of(weights.config, choice, with_mtp=True)
        passes = TritonPasses(weights, layout, capture=True)
        cache = KVCache(layout, PagePool(layout.page_bytes))
        for count in (4095, 1, 1, 512):
            cache.prepare(count)
            piece = Piece(cache, [7] * count, Rows.LAST, Rows.ALL)
            _, streams = passes.forward([piece])
            passes.draft([piece], streams)
    for (name, _), shared in sorted(compiled.items()):
        print(f"{name:24} {shared:>8,} B shared")
    print(f"{len(compiled)} kernels for compute capability {capability / 10}")
    assert max(compiled.values()) <= SHARED[capability]


if __name__ == "__main__":
    main()
