"""Every Triton kernel, and whole passes, against PyTorch. pytest doesn't collect this file by itself:
`test_triton` runs it, in Triton's interpreter with TRITON_INTERPRET=1, and compiled where there is a GPU.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import triton
import triton.language as tl
from safetensors.torch import load_file
from torch import Tensor

from dsv4_model import hyper_connections as hc
from dsv4_model.cache.formats import CacheFormat
from dsv4_model.cache.layout import CacheLayout
from dsv4_model.cache.space import CacheSpace
from dsv4_model.checkpoint import open_checkpoint, save_checkpoint
from dsv4_model.expert_source import StreamedSource
from dsv4_model.kernels.gpu import numbers
from dsv4_model.kernels.gpu.index import coarse_queries
from dsv4_model.kernels.gpu.matmul import Grouping, Stack, multiply, multiply_grouped, round_activations
from dsv4_model.kernels.gpu.mixing import mix, unmix
from dsv4_model.kernels.gpu.passes import TritonPasses
from dsv4_model.kernels.gpu.plan import Plan
from dsv4_model.kernels.gpu.rows import Angles, encode_rows, finish_rows, rotate_back
from dsv4_model.kernels.gpu.tuning import natural_tuning
from dsv4_model.matrix import Matrix
from dsv4_model.norm import rms_normalize
from dsv4_model.passes import Piece, Rows, Stage
from dsv4_model.placement import place, placed
from dsv4_model.quantization import (
    fp4_round_trip,
    fp8_round_trip,
    hadamard,
    pow2ceil,
    quantize_fp4,
    quantize_fp8_blocks,
    round_to_e2m1,
)
from dsv4_model.rope import rotate
from dsv4_model.split_passes import SplitPasses
from dsv4_model.torch_passes import TorchPasses
from dsv4_model.weights import ModelWeights
from tests.fixtures_path import SHARED
from tests.model import tiny

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
TUNING = natural_tuning()


def random(*shape: int, seed: int = 0, spread: float = 1.0) -> Tensor:
    made = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * spread
    return made.to(DEVICE)


@triton.jit
def _numbers(x, bf16, fp8, fp4, e8, e4, values, codes, N: tl.constexpr):
    i = tl.arange(0, N)
    v = tl.load(x + i)
    tl.store(bf16 + i, numbers.bf16_bits(v))
    tl.store(fp8 + i, numbers.e4m3_code(tl.minimum(tl.maximum(v, -448.0), 448.0)))
    tl.store(fp4 + i, numbers.e2m1_value(numbers.e2m1_code(tl.minimum(tl.maximum(v, -6.0), 6.0))))
    tl.store(e8 + i, numbers.fp8_exponent(tl.abs(v)))
    tl.store(e4 + i, numbers.fp4_exponent(tl.abs(v)))
    tl.store(values + i, numbers.e4m3_value(tl.load(codes + i)))


def test_number_formats_agree_bit_for_bit() -> None:
    n = 4096
    ties = torch.tensor([0.0, -0.0, 448, 464, 2**-9, 2**-10, 3 * 2**-10, 0.25, 0.75, 1.25, 2.5, 3.5, 5, 6])
    x = torch.cat((random(n // 2), random(n // 2 - 28, spread=200), ties.to(DEVICE), -ties.to(DEVICE)))
    x = (
        x * 2.0 ** torch.randint(-8, 2, (n,), generator=torch.Generator().manual_seed(1)).to(DEVICE)
    ).contiguous()
    codes = (torch.arange(n, device=DEVICE) % 256).to(torch.uint8)
    codes = torch.where(codes & 0x7F == 0x7F, 0, codes)  # NaN
    out = [torch.empty(n, dtype=d, device=DEVICE) for d in (torch.uint16, torch.uint8, torch.float32)]
    exponents = [torch.empty(n, dtype=torch.int32, device=DEVICE) for _ in range(2)]
    values = torch.empty(n, device=DEVICE)
    _numbers[(1,)](x, *out, *exponents, values, codes, N=n)
    assert torch.equal(out[0].view(torch.int16), x.bfloat16().view(torch.int16))
    assert torch.equal(out[1], x.clamp(-448, 448).to(torch.float8_e4m3fn).view(torch.uint8))
    assert torch.equal(out[2].view(torch.int32), round_to_e2m1(x.clamp(-6, 6)).view(torch.int32))
    scale = pow2ceil(x.abs().clamp_min(1e-4) * (1 / 448))
    assert torch.equal(exponents[0], scale.view(torch.int32) >> 23)
    scale = pow2ceil(x.abs().clamp_min(6 * 2.0**-126) / 6)
    assert torch.equal(exponents[1], scale.view(torch.int32) >> 23)
    assert torch.equal(values, codes.view(torch.float8_e4m3fn).float())


def matrix(kind: str, rows: int, columns: int, seed: int = 0) -> Matrix:
    weight = random(rows, columns, seed=seed, spread=0.2)
    match kind:
        case "fp8":
            return Matrix.of(*quantize_fp8_blocks(weight))
        case "fp4":
            return Matrix.of(*quantize_fp4(weight))
        case "bf16":
            return Matrix.of(weight.bfloat16())
        case _:
            return Matrix.of(weight)


KINDS = ["fp32", "bf16", "fp8", "fp4"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("tokens", "groups"), [(1, 1), (70, 1), (3, 2)])
def test_products_with_stored_weights(kind: str, tokens: int, groups: int) -> None:
    w = matrix(kind, 2 * 150, 200)
    x = random(tokens, groups * 200, seed=1)
    dense = w.dense().view(groups, -1, 200)
    wanted = torch.einsum("tgk,gnk->tgn", x.view(tokens, groups, 200), dense).flatten(1)
    got = multiply(x, Stack.of((w,)), TUNING, exact=True, groups=groups)
    assert torch.allclose(got, wanted, atol=2e-5, rtol=1e-5)
    coarse = multiply(x, Stack.of((w,)), TUNING, exact=False, groups=groups)
    assert (coarse - wanted).abs().max() < 0.02 * wanted.abs().max()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tokens", [1, 40])
def test_products_of_grouped_experts(kind: str, tokens: int) -> None:
    experts = tuple(matrix(kind, 96, 128, seed=e) for e in range(5))
    x = random(tokens, 128, seed=9)
    chosen = random(tokens, 5, seed=3).topk(2, dim=-1).indices
    chosen[chosen == 1] = 4 if tokens == 1 else 0  # an expert that nobody takes
    grouping = Grouping.of(chosen, 5)
    stack = Stack.of(experts)
    there = multiply_grouped(x, stack, grouping, TUNING, exact=True, back=False)
    dense = torch.stack([e.dense() for e in experts])
    pairs = chosen.flatten()
    wanted = torch.einsum("pk,pnk->pn", x.repeat_interleave(2, 0), dense[pairs])
    assert torch.allclose(there, wanted[grouping.order], atol=2e-5, rtol=1e-5)
    inputs = x.repeat_interleave(2, 0)[grouping.order].contiguous()
    back = multiply_grouped(inputs, stack, grouping, TUNING, exact=True, back=True)
    assert torch.allclose(back, wanted, atol=2e-5, rtol=1e-5)


def test_activations_are_rounded_as_in_training() -> None:
    x = random(37, 300, spread=3)
    assert torch.equal(round_activations(x, TUNING), fp8_round_trip(x, 128))


@pytest.mark.parametrize("kind", ["fp8", "fp4"])
def test_bf16_products_lose_nothing_of_rounded_activations(kind: str) -> None:
    """Values of FP8 and FP4 times a power of two are bf16 values: the default mode only sums otherwise."""
    stack = Stack.of((matrix(kind, 160, 256),))
    x = round_activations(random(20, 256, seed=1), TUNING)
    exact, coarse = (multiply(x, stack, TUNING, exact=exact) for exact in (True, False))
    assert torch.allclose(exact, coarse, atol=1e-5, rtol=1e-6)


@pytest.mark.skipif(SHARED is None, reason="shared fixtures are not present")
@pytest.mark.parametrize("exact", [True, False])
def test_sites_on_recorded_inputs_of_a_model_that_rounds_its_activations(exact: bool) -> None:
    """Site by site, because a rounding to FP8 that tips early moves everything after it.

    In the default mode queries, probabilities and the input of ``wo_a`` are bf16, as the released model's
    are: 1.2 % of the attention's output. Feed-forward sites have nothing that bf16 can't hold.
    """
    assert SHARED is not None
    folder, n = SHARED / "golden_tiny" / "qat32", 128
    recorded = load_file(folder / "modules.safetensors") | load_file(folder / "golden.safetensors")
    weights = placed(replace(ModelWeights.open(folder), rounds_activations=True), DEVICE)
    space = CacheSpace.of(CacheLayout.of(weights.config, CacheFormat.FP32), [DEVICE], [range(6)])
    weights = replace(weights, mtp=None)
    passes = TritonPasses(weights, space.layout, exact=exact, capture=False)
    piece = Piece(space.new_cache(), recorded["input_ids"][:n].tolist())
    piece.cache.prepare(n)
    plan = Plan.of(passes.describe([piece], [0]), DEVICE)
    turns = passes._turns(plan)
    for number, layer in enumerate(weights.layers):
        told = {name: recorded[f"{name}.{number}"][:n].to(DEVICE) for name in _SITES}
        where = space.layout.layers[number]
        with torch.inference_mode():
            attended = passes._attention(told["attn_in"], layer, where, plan, turns[layer.ratio > 0])
            fed, _ = passes._feed_forwards[number](told["ffn_in"], plan.ids, TUNING, exact=exact)
        assert _share_above(1e-3, fed, told["ffn_out"]) == 0
        off = float((attended - told["attn_out"]).norm() / told["attn_out"].norm())
        print(f"layer {number}: attention {off:.1e}")
        assert off < (1e-3 if exact else 0.02)
        assert _share_above(1e-3 if exact else 0.02, attended, told["attn_out"]) <= 0.01


_SITES = ("attn_in", "attn_out", "ffn_in", "ffn_out")


def _share_above(bound: float, got: Tensor, wanted: Tensor) -> float:
    worst = (got - wanted).abs().amax(-1) / wanted.abs().max().clamp_min(1)
    return float((worst > bound).float().mean())


@pytest.mark.parametrize("tokens", [1, 50])
def test_hyper_connections(tokens: int) -> None:
    c, site = tiny.config(), placed(ModelWeights.of_module(tiny.module()), DEVICE).layers[1].attn_mixing
    streams, norm, y = random(tokens, 4, 96), random(96, seed=2), random(tokens, 96, seed=3)
    maps = hc.mixing(
        streams, site.fn, site.base, site.scale,
        iterations=c.hc_sinkhorn_iters, eps=c.hc_eps, norm_eps=c.rms_norm_eps,
    )  # fmt: skip
    mixed = mix(streams, site, norm, c, TUNING)
    assert torch.allclose(mixed.post.t(), maps.post, atol=1e-5)
    assert torch.allclose(mixed.comb.permute(1, 2, 0), maps.comb, atol=1e-5)
    wanted = rms_normalize(hc.pre(streams, maps.pre), c.rms_norm_eps) * norm
    assert torch.allclose(mixed.x, wanted, atol=1e-5, rtol=1e-5)
    assert torch.allclose(unmix(y, streams, mixed, TUNING), hc.post(y, streams, maps), atol=1e-5)


@pytest.mark.parametrize("choice", list(CacheFormat))
@pytest.mark.parametrize("size", [64, 192])
@pytest.mark.parametrize("rounds", [False, True])
def test_rows_are_encoded_to_the_reference_bytes(choice: CacheFormat, size: int, rounds: bool) -> None:
    layout = CacheLayout.of(tiny.config(head_dim=size), choice)
    x, weight = random(33, size, spread=4), 1 + 0.1 * random(size, seed=1)
    angles = Angles.of(torch.arange(33, device=DEVICE) * 7, random(16, seed=2))
    got = encode_rows(x, weight, angles, layout.rows, 1e-6, TUNING, rounds=rounds)
    turned = rotate(rms_normalize(x, 1e-6) * weight, angles.cos, angles.sin)
    if rounds:
        turned = torch.cat((fp8_round_trip(turned[:, :-32], 64), turned[:, -32:]), -1)
    wanted = layout.rows.encode(turned)
    same = (got == wanted).float().mean()  # a last bit of fp32 may tip a rounding
    assert torch.allclose(layout.rows.decode(got), layout.rows.decode(wanted), rtol=0.13, atol=1e-5)
    assert choice is CacheFormat.FP32 or same > 0.99


def test_queries_are_turned_and_turned_back() -> None:
    q = random(9, 3, 96)
    angles = Angles.of(torch.arange(9, device=DEVICE) + 100, random(16, seed=2))
    cos, sin = angles.cos.unsqueeze(1), angles.sin.unsqueeze(1)
    turned = finish_rows(q, angles, 1e-6, TUNING)
    assert torch.allclose(turned, rotate(rms_normalize(q, 1e-6), cos, sin), atol=1e-5)
    assert torch.allclose(rotate_back(q, angles, TUNING), rotate(q, cos, sin, inverse=True), atol=1e-5)


def test_index_queries_are_transformed_and_rounded() -> None:
    key = CacheLayout.of(tiny.config(), CacheFormat.FP8_FP4).key
    q = random(9, 3, 64)
    angles = Angles.of(torch.arange(9, device=DEVICE), random(16, seed=2))
    wanted = hadamard(rotate(q, angles.cos.unsqueeze(1), angles.sin.unsqueeze(1)))
    got = coarse_queries(q, angles, key, TUNING, rotates=True, fp4=False)
    assert torch.allclose(got, wanted, atol=1e-5)
    got = coarse_queries(q, angles, key, TUNING, rotates=True, fp4=True)
    assert (got != fp4_round_trip(wanted)).float().mean() < 0.01


class Pair:
    """The same timelines on both back ends; on the second in several ``runs`` of layers, if given."""

    def __init__(
        self,
        weights: ModelWeights,
        choice: CacheFormat,
        timelines: int = 1,
        runs: tuple[range, ...] = (),
        **options: bool,
    ) -> None:
        self.weights = placed(weights, DEVICE)
        self.layout = CacheLayout.of(weights.config, choice, with_mtp=weights.mtp is not None)
        options = {"exact": True, "capture": False} | options
        whole = range(len(self.weights.all_layers))
        spaces = [CacheSpace.of(self.layout, [DEVICE] * len(r), r) for r in ([whole], runs or [whole])]
        triton_passes = [
            TritonPasses(self.weights, part.layout, Stage(DEVICE, run), **options)
            for part, run in zip(spaces[1].parts, runs or [whole], strict=True)
        ]
        self.passes = (
            TorchPasses(self.weights, self.layout),
            SplitPasses(weights.config, tuple(triton_passes)) if runs else triton_passes[0],
        )
        self.caches = [[space.new_cache() for _ in range(timelines)] for space in spaces]
        self.chance = torch.Generator().manual_seed(7)

    def ids(self, count: int) -> list[int]:
        vocabulary = self.weights.config.vocab_size
        return torch.randint(0, vocabulary, (count,), generator=self.chance).tolist()

    def step(self, *counts: int, counted: bool = False) -> tuple[float, float]:
        """Largest difference of logits and streams, each relative to the largest value."""
        every = [self.ids(n) for n in counts]
        made, tables = [], []
        for passes, caches in zip(self.passes, self.caches, strict=True):
            pieces = [Piece(c, ids, Rows.ALL, Rows.ALL) for c, ids in zip(caches, every, strict=True)]
            for piece in pieces:
                piece.cache.prepare(len(piece.ids))
            c = self.weights.config
            table = torch.zeros(c.num_hidden_layers + 1, c.n_routed_experts, dtype=torch.int64)
            made.append(passes.forward(pieces, table if counted else None))
            tables.append(table)
        assert torch.equal(*tables)
        self.streams = made[0][1]
        self.every = every
        return _apart(made[0][0], made[1][0]), _apart(made[0][1], made[1][1])

    def draft(self) -> float:
        """The MTP block over the streams of the last step; its streams chained for one more."""
        made = []
        for passes, caches in zip(self.passes, self.caches, strict=True):
            pieces = [Piece(c, ids, Rows.ALL, Rows.ALL) for c, ids in zip(caches, self.every, strict=True)]
            made.append(passes.draft(pieces, self.streams))
        return max(_apart(made[0][0], made[1][0]), _apart(made[0][1], made[1][1]))


def _apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / a.abs().max().clamp_min(1e-9))


# fp32 sums differ in their order. In a coarse format that tips a rounding now and then, which moves an entry
# by its last bit; FP4 keys can then choose another entry.
TOLERANCE = {
    CacheFormat.FP32: 2e-6,
    CacheFormat.BF16: 2e-4,
    CacheFormat.FP8: 2e-3,
    CacheFormat.FP8_FP4: 0.2,
}


@pytest.mark.parametrize("choice", list(CacheFormat))
def test_passes_over_every_cache_format(choice: CacheFormat) -> None:
    """Chunks that cross blocks, pages and the window; selection is on from token 36."""
    pair = Pair(ModelWeights.of_module(tiny.model(with_mtp=True)), choice)
    worst = [pair.step(n) for n in (3, 1, 1, 37, 85, 1, 1, 2)]
    assert pair.caches[0][0].position == pair.caches[1][0].position == 131
    apart = max(max(each) for each in worst)
    print(f"\n{choice}: {apart:.1e}; drafts {pair.draft():.1e}")
    assert apart < TOLERANCE[choice]
    assert sorted(max(each) for each in worst)[len(worst) // 2] < 2e-4


def test_timelines_go_together_and_drafts_follow() -> None:
    pair = Pair(ModelWeights.of_module(tiny.model(with_mtp=True)), CacheFormat.FP32, 3)
    for counts in ((9, 1, 30), (1, 40, 1), (1, 1, 1)):
        assert max(pair.step(*counts, counted=True)) < 2e-6
        assert pair.draft() < 2e-6


def test_decode_steps_over_static_plans_are_the_same() -> None:
    """What a graph replays, and on a GPU does: batches filled up, page tables wider than needed."""
    pair = Pair(ModelWeights.of_module(tiny.model(with_mtp=True)), CacheFormat.FP32, 3, capture=True)
    assert max(pair.step(60, 3, 1)) < 2e-6
    for _ in range(4):
        assert max(pair.step(1, 1, 1)) < 2e-6
        assert pair.draft() < 2e-6


@pytest.mark.parametrize("capture", [False, True])
def test_layers_on_several_devices_are_passed_through_in_turn(capture: bool) -> None:
    """One graph a device: the first from the embeddings, the others from the streams of the one before."""
    runs = (range(1), range(1, 3), range(3, 5))
    weights = ModelWeights.of_module(tiny.model(with_mtp=True))
    pair = Pair(weights, CacheFormat.FP32, 3, runs, capture=capture)
    assert max(pair.step(60, 3, 1, counted=True)) < 2e-6
    for _ in range(3):
        assert max(pair.step(1, 1, 1)) < 2e-6
        assert pair.draft() < 2e-6


@pytest.mark.parametrize(
    ("exact", "rounds", "tolerance"), [(True, False, 2e-6), (True, True, 1e-3), (False, False, 0.02)]
)
def test_packed_weights_of_a_checkpoint(tmp_path: Path, exact: bool, rounds: bool, tolerance: float) -> None:
    save_checkpoint(tiny.model(with_mtp=True), tmp_path / "model")
    weights = replace(ModelWeights.open(tmp_path / "model"), rounds_activations=rounds)
    pair = Pair(weights, CacheFormat.FP32, exact=exact)
    worst = max(max(pair.step(n)) for n in (20, 1, 30))
    print(f"\nexact={exact}, rounds={rounds}: {worst:.1e}; drafts {pair.draft():.1e}")
    assert worst < tolerance


def test_streamed_experts_are_computed_in_main_memory(tmp_path: Path) -> None:
    model = tiny.model(with_mtp=True)
    save_checkpoint(model, tmp_path / "model", shard=True)
    source = StreamedSource(open_checkpoint(tmp_path / "model"), 3 * 9792)
    weights = ModelWeights.open(tmp_path / "model", source=source)
    pair = Pair(place(weights, [Stage(DEVICE, range(5))]), CacheFormat.FP32, capture=True)
    assert max(max(pair.step(n, counted=n > 1)) for n in (20, 1, 30)) < 1e-5
    assert pair.draft() < 1e-5
    source.store.close()


def test_a_model_that_rounds_its_activations() -> None:
    model = tiny.model(with_mtp=True)
    model.simulate_quantization = True
    pair = Pair(ModelWeights.of_module(model), CacheFormat.FP8_FP4)
    worst = sorted(max(pair.step(n)) for n in (6, 1, 1, 30, 1))
    print(f"\nrounded: {worst}")
    assert worst[0] < 1e-3 and worst[-1] < 0.3
