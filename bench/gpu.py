"""The engine on a GPU beside transformers: prefill, decode, the share of memory bandwidth that decoding uses.
Without a GPU it says so and ends.

python bench/gpu.py [--folder CHECKPOINT] [--prompt 2048] [--tokens 128]

Without --folder the model is random, 0.7 B parameters in the released formats, and transformers runs the same
weights de-quantised to fp32; with --folder only this engine runs. This program has never been run on a GPU.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dsv4_model.cache.formats import CacheFormat
from dsv4_model.cache.kv_cache import KVCache
from dsv4_model.cache.layout import CacheLayout
from dsv4_model.cache.pages import PagePool
from dsv4_model.checkpoint import load_model, save_checkpoint
from dsv4_model.config import ModelConfig
from dsv4_model.matrix import Matrix
from dsv4_model.passes import Piece
from dsv4_model.placement import placed
from dsv4_model.transformer import DeepseekV4
from dsv4_model.weights import ModelWeights, matrices_of

if TYPE_CHECKING:
    from dsv4_model.kernels.gpu.passes import TritonPasses

COPY_BYTES = 1 << 30
CHUNK = 512
RANDOM = ModelConfig(
    vocab_size=32_768,
    hidden_size=2048,
    num_hidden_layers=6,
    num_attention_heads=32,
    head_dim=512,
    q_lora_rank=1024,
    o_groups=4,
    o_lora_rank=1024,
    moe_intermediate_size=1024,
    n_routed_experts=16,
    num_experts_per_tok=4,
    num_hash_layers=1,
    num_nextn_predict_layers=0,
    compress_ratios=(0, 4, 128, 4, 128, 4),
)


def seconds(work: Callable[[], object]) -> float:
    """Of the device's work, to its end."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def copy_bandwidth() -> float:
    """Bytes per second, read and written, of the best of ten copies within the device's memory."""
    source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * COPY_BYTES / min(seconds(lambda: target.copy_(source)) for _ in range(10))


def ours(passes: TritonPasses, prompt: list[int], count: int) -> tuple[float, float]:
    """Seconds of the prompt and of ``count`` greedy tokens after it."""
    pool = PagePool(passes.layout.page_bytes, "cuda")

    def feed(cache: KVCache, ids: list[int]) -> int:
        best = 0
        for low in range(0, len(ids), CHUNK):
            part = ids[low : low + CHUNK]
            cache.prepare(len(part))
            best = int(passes.forward([Piece(cache, part)])[0].argmax())
        return best

    def decode(cache: KVCache, tokens: int) -> None:
        token = 7
        for _ in range(tokens):
            token = feed(cache, [token])

    cache = KVCache(passes.layout, pool)
    feed(cache, prompt)  # compiles
    decode(cache, 2)
    cache = KVCache(passes.layout, pool)
    return seconds(lambda: feed(cache, prompt)), seconds(lambda: decode(cache, count))


def theirs(model: DeepseekV4, prompt: list[int], count: int) -> tuple[float, float]:
    """The same of transformers."""
    from transformers import DynamicCache

    from tests.model.test_transformers_parity import twin

    peer = twin(model).to("cuda")

    def feed(cache: DynamicCache, ids: list[int]) -> int:
        best = 0
        with torch.inference_mode():
            for low in range(0, len(ids), CHUNK):
                part = torch.tensor([ids[low : low + CHUNK]], device="cuda")
                logits = peer(input_ids=part, past_key_values=cache, logits_to_keep=1).logits
                best = int(logits[0, -1].argmax())
        return best

    def decode(cache: DynamicCache, tokens: int) -> None:
        token = 7
        for _ in range(tokens):
            token = feed(cache, [token])

    feed(DynamicCache(config=peer.config), prompt)
    cache = DynamicCache(config=peer.config)
    return seconds(lambda: feed(cache, prompt)), seconds(lambda: decode(cache, count))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--prompt", type=int, default=2048)
    parser.add_argument("--tokens", type=int, default=128)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("bench/gpu.py: PyTorch sees no CUDA device here; nothing was measured.")
        return
    if find_spec("triton") is None:
        print("bench/gpu.py: Triton is not installed (pip install 'dsv4-agent[gpu]'); nothing was measured.")
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder
        if folder is None:
            folder = Path(scratch) / "random"
            made = DeepseekV4(RANDOM)
            made.reset_parameters(torch.Generator().manual_seed(0))
            save_checkpoint(made, folder)
        report(folder, options.prompt, options.tokens, peers=options.folder is None)


def report(folder: Path, length: int, count: int, *, peers: bool) -> None:
    """Measure and print."""
    from dsv4_model.kernels.gpu.passes import TritonPasses

    copied = copy_bandwidth()
    weights = placed(ModelWeights.open(folder, with_mtp=False), "cuda")
    layout = CacheLayout.of(weights.config, CacheFormat.FP8_FP4)
    chance = torch.Generator().manual_seed(0)
    prompt = torch.randint(0, weights.config.vocab_size, (length,), generator=chance).tolist()
    print(f"{datetime.now(UTC):%Y-%m-%d}, {torch.cuda.get_device_name()}, PyTorch {torch.__version__}")
    print(f"A copy within the device moves {copied / 1e9:,.0f} GB/s.\n")
    print(f"{'':34}{'prefill tok/s':>15}{'decode tok/s':>15}{'weights GB/s':>15}{'of a copy':>11}")

    def row(name: str, taken: tuple[float, float], held: int) -> None:
        rate = held * count / taken[1]
        print(
            f"{name:34}{length / taken[0]:>15,.0f}{count / taken[1]:>15,.1f}{rate / 1e9:>15,.0f}"
            f"{rate / copied:>11.0%}"
        )

    read = read_matrices(weights)
    held = sum(matrix.nbytes for matrix in read)
    for name, capture in (("dsv4, graphs", True), ("dsv4, launched one by one", False)):
        row(name, ours(TritonPasses(weights, layout, capture=capture), prompt, count), held)
    if peers:
        model = load_model(folder)
        dense = sum(4 * matrix.rows * matrix.columns for matrix in read)
        row("transformers, fp32 weights", theirs(model, prompt, count), dense)


def read_matrices(weights: ModelWeights) -> list[Matrix]:
    """The matrices that a decoded token reads; of the routed experts as many as it takes."""
    every = [matrix for matrix in matrices_of(weights) if matrix is not weights.embed]
    for layer in weights.layers:
        for number in range(weights.config.num_experts_per_tok):
            every += layer.experts[number].matrices
    return every


if __name__ == "__main__":
    main()
