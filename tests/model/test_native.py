"""The native back end against the PyTorch reference: operation by operation, then whole passes."""

from __future__ import annotations

import ctypes
import math

import pytest
import torch
from torch import Tensor

from dsv4_model import hyper_connections as hc
from dsv4_model.cache.formats import CacheFormat
from dsv4_model.cache.kv_cache import KVCache
from dsv4_model.cache.layout import CacheLayout
from dsv4_model.cache.pages import PagePool
from dsv4_model.indexer import top_k_mask
from dsv4_model.kernels.library import NativeUnavailableError, load_library, physical_cores
from dsv4_model.kernels.native import NativePasses, _matrix
from dsv4_model.matrix import Matrix
from dsv4_model.passes import Passes, Piece, Rows
from dsv4_model.quantization import quantize_fp4, quantize_fp8_blocks
from dsv4_model.torch_passes import TorchPasses
from dsv4_model.weights import ModelWeights
from tests.model import tiny

try:
    load_library()
    ISAS = [isa for isa in ("amx", "avx512", "avx2", "generic") if load_library().dsv4_open(1, isa.encode())]
except NativeUnavailableError as error:
    pytest.skip(f"no native library: {error}", allow_module_level=True)

FORMATS = list(CacheFormat)
SPLITS = [[400], [1] * 150 + [250], [3] * 50 + [250], [130, 4, 66, 200], [128] * 3 + [16]]


def weights(*, rounds: bool = False, mtp: bool = False) -> ModelWeights:
    model = tiny.model(with_mtp=mtp)
    model.simulate_quantization = rounds
    return ModelWeights.of_module(model)


def layout(w: ModelWeights, choice: CacheFormat = CacheFormat.FP32) -> CacheLayout:
    return CacheLayout.of(w.config, choice, with_mtp=w.mtp is not None)


def new_cache(where: CacheLayout) -> KVCache:
    return KVCache(where, PagePool(where.page_bytes))


def fed(passes: Passes, cache: KVCache, ids: list[int], splits: list[int]) -> Tensor:
    """Logits of all tokens, fed in chunks."""
    rows, at = [], 0
    for count in splits:
        cache.prepare(count)
        logits, _ = passes.forward([Piece(cache, ids[at : at + count], Rows.ALL)])
        rows.append(logits)
        at += count
    return torch.cat(rows)


def some_ids(count: int, seed: int = 0) -> list[int]:
    return torch.randint(7, 263, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def indexed(
    passes: NativePasses, table: Tensor, q: Tensor, weight: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """Scores of the first ``count`` keys of layer 1 and the chosen ones' numbers."""
    topk = passes.weights.config.index_topk
    scores, chosen = torch.empty(count), torch.empty(topk, dtype=torch.int32)
    call = (passes._engine, ctypes.byref(passes._model), ctypes.byref(passes._model.layer[1]))
    given = (table.data_ptr(), q.data_ptr(), weight.data_ptr(), count)
    passes._library.dsv4_index(*call, *given, scores.data_ptr(), chosen.data_ptr())
    return scores, chosen


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 30])
@pytest.mark.parametrize("shape", [(64, 96), (37, 48), (130, 160), (300, 528)])
def test_products_in_every_storage(isa: str, rows: int, shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    dense = torch.randn(shape, generator=generator) / math.sqrt(shape[1])
    kinds = [Matrix.of(dense), Matrix.of(dense.bfloat16()), Matrix.of(*quantize_fp8_blocks(dense))]
    kinds.append(Matrix.of(*quantize_fp4(dense)))
    x = torch.randn(rows, shape[1], generator=generator)
    library = load_library()
    engine = library.dsv4_open(2, isa.encode())
    for matrix in kinds:
        y = torch.empty(rows, shape[0])
        bound = _matrix(matrix)
        assert library.dsv4_matmul(engine, ctypes.byref(bound), x.data_ptr(), rows, y.data_ptr()) == 0
        torch.testing.assert_close(y, x @ matrix.dense().t(), atol=2e-5, rtol=2e-5)
    library.dsv4_close(engine)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("rows", [1, 5, 40])
def test_streams_are_mixed_down_and_up_as_in_the_reference(isa: str, rows: int) -> None:
    w = weights()
    passes = NativePasses(w, layout(w), threads=2, isa=isa)
    c, site = w.config, w.layers[1].ffn_mixing
    streams = torch.randn(rows, c.hc_mult, c.hidden_size)
    x, post = torch.empty(rows, c.hidden_size), torch.empty(rows, c.hc_mult)
    comb = torch.empty(rows, c.hc_mult, c.hc_mult)
    bound = passes._model.layer[1].ffn_mixing
    call = (passes._engine, ctypes.byref(passes._model))
    outputs = (x.data_ptr(), post.data_ptr(), comb.data_ptr())
    passes._library.dsv4_mix(*call, ctypes.byref(bound), streams.data_ptr(), rows, *outputs)
    maps = hc.mixing(
        streams,
        site.fn,
        site.base,
        site.scale,
        iterations=c.hc_sinkhorn_iters,
        eps=c.hc_eps,
        norm_eps=c.rms_norm_eps,
    )
    torch.testing.assert_close(x, hc.pre(streams, maps.pre), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(post, maps.post.t(), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(comb, maps.comb.permute(2, 0, 1), atol=1e-6, rtol=1e-5)
    y, out = torch.randn(rows, c.hidden_size), streams.clone()
    passes._library.dsv4_unmix(*call, y.data_ptr(), post.data_ptr(), comb.data_ptr(), rows, out.data_ptr())
    torch.testing.assert_close(out, hc.post(y, streams, maps), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("choice", FORMATS)
def test_rows_are_stored_bit_for_bit_as_in_the_reference(isa: str, choice: CacheFormat) -> None:
    w = weights()
    where = layout(w, choice)
    passes = NativePasses(w, where, threads=1, isa=isa)
    rows = torch.randn(40, w.config.head_dim) * torch.logspace(-7, 5, 40).unsqueeze(1)
    stored = torch.zeros(40, where.rows.nbytes, dtype=torch.uint8)
    call = (passes._engine, ctypes.byref(passes._model))
    passes._library.dsv4_encode_rows(*call, rows.data_ptr(), 40, stored.data_ptr())
    assert torch.equal(stored, where.rows.encode(rows))
    back = torch.empty_like(rows)
    passes._library.dsv4_decode_rows(*call, stored.data_ptr(), 40, back.data_ptr())
    assert torch.equal(back, where.rows.decode(stored))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("choice", FORMATS)
def test_index_scores_and_the_choice_among_equals(isa: str, choice: CacheFormat) -> None:
    w = weights()
    where, c = layout(w, choice), w.config
    passes = NativePasses(w, where, threads=1, isa=isa)
    keys = torch.randn(3, 32, c.index_head_dim)
    keys[1] = keys[0]  # equal scores across pages
    pages = torch.zeros(3, where.page_bytes, dtype=torch.uint8)
    start = where.layers[1].keys
    pages[:, start : start + where.key.nbytes] = where.key.encode(keys)
    table = torch.tensor([page.data_ptr() for page in pages])
    q, weight = torch.randn(c.index_n_heads, c.index_head_dim), torch.randn(c.index_n_heads)
    count = 90
    scores, chosen = indexed(passes, table, q, weight, count)
    stored = where.key.decode(pages[:, start : start + where.key.nbytes]).flatten(0, 1)[:count]
    coarse = TorchPasses(w, where)._coarse if where.key.storage.name == "FP4" else None
    if coarse is not None:
        from dsv4_model.quantization import fp4_round_trip

        q = fp4_round_trip(q)
    expected = (weight.unsqueeze(1) * (q @ stored.t()).relu()).sum(0)
    torch.testing.assert_close(scores, expected, atol=2e-5, rtol=2e-5)
    mask = top_k_mask(scores.unsqueeze(0), torch.ones(1, count, dtype=torch.bool), c.index_topk)
    assert chosen.tolist() == mask[0].nonzero()[:, 0].tolist()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", ["random", "ties", "sorted", "one"])
def test_a_long_choice_is_exact_however_the_scores_lie(isa: str, kind: str) -> None:
    """Thousands of keys: the cut is looked for between two guesses, which any arrangement must survive."""
    w = weights()
    where, c = layout(w), w.config
    passes = NativePasses(w, where, threads=1, isa=isa)
    pages = 160
    keys = torch.randn(pages, 32, c.index_head_dim, generator=torch.Generator().manual_seed(4))
    match kind:
        case "ties":
            keys = keys[:1].repeat(pages, 1, 1)
        case "sorted":
            keys = keys * torch.linspace(0, 1, pages).reshape(-1, 1, 1)
        case "one":
            keys = torch.zeros_like(keys)
            keys[7, 3] = 1.0
    memory = torch.zeros(pages, where.page_bytes, dtype=torch.uint8)
    start = where.layers[1].keys
    memory[:, start : start + where.key.nbytes] = where.key.encode(keys)
    table = torch.tensor([page.data_ptr() for page in memory])
    q, weight = torch.ones(c.index_n_heads, c.index_head_dim), torch.ones(c.index_n_heads)
    count = pages * 32 - 5
    scores, chosen = indexed(passes, table, q, weight, count)
    mask = top_k_mask(scores.unsqueeze(0), torch.ones(1, count, dtype=torch.bool), c.index_topk)
    assert chosen.tolist() == mask[0].nonzero()[:, 0].tolist()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    "splits", [[400], [1] * 150 + [250], [3] * 50 + [250], [130, 4, 66, 200], [128] * 3 + [16]]
)
def test_passes_equal_the_module_whatever_the_chunks(isa: str, splits: list[int]) -> None:
    w = weights()
    where = layout(w)
    ids = some_ids(sum(splits))
    module = tiny.model()
    with torch.inference_mode():
        expected = module(torch.tensor([ids]), module.new_state())[0]
    for passes in (NativePasses(w, where, threads=2, isa=isa), TorchPasses(w, where)):
        torch.testing.assert_close(fed(passes, new_cache(where), ids, splits), expected, atol=3e-5, rtol=1e-4)


@pytest.mark.parametrize("rounds", [False, True])
@pytest.mark.parametrize("choice", FORMATS)
def test_attention_with_quantised_caches_equals_the_reference(choice: CacheFormat, rounds: bool) -> None:
    """One layer at a time, since a flip of one rounding spreads from layer to layer."""
    attention_is_equal(weights(rounds=rounds), choice, 5, None)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("count", [2, 33])
@pytest.mark.parametrize("choice", [CacheFormat.BF16, CacheFormat.FP8_FP4])
def test_attention_of_many_heads_equals_the_reference(isa: str, count: int, choice: CacheFormat) -> None:
    """More heads than a tile holds, channels that don't fill one, keys of several tiles."""
    wide = {"num_attention_heads": 12, "head_dim": 104, "index_n_heads": 20, "index_head_dim": 128}
    attention_is_equal(ModelWeights.of_module(tiny.model(**wide)), choice, count, isa)


def attention_is_equal(w: ModelWeights, choice: CacheFormat, count: int, isa: str | None) -> None:
    where, ids = layout(w, choice), some_ids(400, seed=3)
    torch_passes = TorchPasses(w, where)
    native = NativePasses(w, where, threads=2, isa=isa)
    cache = new_cache(where)
    fed(torch_passes, cache, ids[:280], [280])
    new = ids[280 : 280 + count]
    for number in range(4):
        theirs, ours = cache.fork(), cache.fork()
        for one in (theirs, ours):
            one.prepare(count)
        x = torch.randn(count, w.config.hidden_size, generator=torch.Generator().manual_seed(number))
        spans = torch_passes._spans([Piece(theirs, new)], [280])
        expected = torch_passes._attention(x, w.layers[number], where.layers[number], spans)
        spans[0].cache.commit()
        chunks, kept = native._chunks([Piece(ours, new)], draft=False)
        y = torch.empty_like(x)
        layer = ctypes.byref(native._model.layer[number])
        call = (native._engine, ctypes.byref(native._model), layer, chunks, x.data_ptr(), y.data_ptr())
        assert native._library.dsv4_attend(*call) == 0
        assert kept
        close = torch.isclose(y, expected, atol=1e-4, rtol=1e-3)
        # A value on the edge between two codes may fall on either side.
        assert close.float().mean() > 0.98, (number, (y - expected).abs().max())
        rings = torch.isclose(_floats(ours), _floats(theirs), atol=1e-4, rtol=1e-3)
        assert rings.all()


def _floats(cache: KVCache) -> Tensor:
    rings = [cache.floats(r) for layer in cache.layout.layers for r in layer.rings if r is not layer.window]
    return torch.nan_to_num(torch.cat([ring.flatten() for ring in rings]), neginf=0.0)


def test_tokens_of_other_sequences_change_nothing_not_even_a_bit() -> None:
    w = weights()
    where = layout(w, CacheFormat.FP8_FP4)
    passes = NativePasses(w, where, threads=2)
    prompts = [some_ids(n, seed=n) for n in (5, 140, 260)]
    alone = []
    for ids in prompts:
        cache = new_cache(where)
        fed(passes, cache, ids, [len(ids)])
        alone.append(fed(passes, cache, [9, 10, 11], [1, 1, 1]))
    caches = [new_cache(where) for _ in prompts]
    for cache, ids in zip(caches, prompts, strict=True):
        fed(passes, cache, ids, [len(ids)])
    for step, token in enumerate((9, 10, 11)):
        for cache in caches:
            cache.prepare(1)
        logits, _ = passes.forward([Piece(cache, [token]) for cache in caches])
        for row, expected in zip(logits, alone, strict=True):
            assert torch.equal(row, expected[step])


def test_a_result_does_not_depend_on_the_number_of_threads() -> None:
    w = weights()
    where, ids = layout(w, CacheFormat.FP8_FP4), some_ids(300)
    results = [
        fed(NativePasses(w, where, threads=n), new_cache(where), ids, [200, 1, 1, 98]) for n in (1, 2, 3)
    ]
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.parametrize("isa", ISAS)
def test_products_of_many_rows_are_as_exact_as_in_fp32(isa: str) -> None:
    """Tiles of bfloat16 must not lose what fp32 holds, whatever the range and wherever a block ends."""
    generator = torch.Generator().manual_seed(5)
    library = load_library()
    engine = library.dsv4_open(2, isa.encode())
    for rows, (out, columns) in ((17, (37, 48)), (100, (24, 1040)), (33, (96, 2064))):
        dense = torch.randn(out, columns, generator=generator) / math.sqrt(columns)
        x = torch.randn(rows, columns, generator=generator) * torch.logspace(-12, 12, rows).unsqueeze(1)
        kinds = [Matrix.of(dense), Matrix.of(dense.bfloat16()), Matrix.of(*quantize_fp8_blocks(dense))]
        for matrix in (*kinds, Matrix.of(*quantize_fp4(dense))):
            for values in (x, x.bfloat16().float()):
                y = torch.empty(rows, out)
                bound = _matrix(matrix)
                library.dsv4_matmul(engine, ctypes.byref(bound), values.data_ptr(), rows, y.data_ptr())
                exact = values.double() @ matrix.dense().double().t()
                size = values.double().norm(dim=1, keepdim=True)
                assert ((y - exact) / size).abs().max() < 2e-7
    library.dsv4_close(engine)


@pytest.mark.parametrize("isa", ISAS)
def test_a_row_of_a_product_is_the_same_bits_beside_many_others(isa: str) -> None:
    dense = torch.randn(75, 320, generator=torch.Generator().manual_seed(1))
    x = torch.randn(300, 320, generator=torch.Generator().manual_seed(2))
    x[:20] = x[:20].bfloat16().float()  # needs fewer parts than its neighbours
    library = load_library()
    for matrix in (Matrix.of(dense), Matrix.of(*quantize_fp4(dense))):
        bound, found = _matrix(matrix), []
        for rows, threads in ((17, 1), (31, 2), (64, 1), (300, 3)):
            engine = library.dsv4_open(threads, isa.encode())
            y = torch.empty(rows, 75)
            library.dsv4_matmul(engine, ctypes.byref(bound), x.data_ptr(), rows, y.data_ptr())
            library.dsv4_close(engine)
            found.append(y[:17])
        assert all(torch.equal(one, found[0]) for one in found)


@pytest.mark.parametrize("isa", ISAS)
def test_a_row_of_a_product_is_the_same_bits_beside_few_others(isa: str) -> None:
    dense = torch.randn(96, 320, generator=torch.Generator().manual_seed(1))
    kinds = [Matrix.of(dense), Matrix.of(dense.bfloat16()), Matrix.of(*quantize_fp8_blocks(dense))]
    x = torch.randn(4, 320, generator=torch.Generator().manual_seed(2))
    library = load_library()
    engine = library.dsv4_open(1, isa.encode())
    for matrix in (*kinds, Matrix.of(*quantize_fp4(dense))):
        bound, found = _matrix(matrix), []
        for rows in (1, 2, 3, 4):
            y = torch.empty(rows, 96)
            library.dsv4_matmul(engine, ctypes.byref(bound), x.data_ptr(), rows, y.data_ptr())
            found.append(y[0])
        assert all(torch.equal(one, found[0]) for one in found)
    library.dsv4_close(engine)


def test_two_tokens_at_once_give_what_one_after_the_other_gives() -> None:
    """What self-speculation rests on: bit for bit, so that greedy choices are the same."""
    w = weights()
    where, ids = layout(w, CacheFormat.FP8_FP4), some_ids(500)
    passes = NativePasses(w, where, threads=2)
    single = fed(passes, new_cache(where), ids, [200] + [1] * 300)
    double = fed(passes, new_cache(where), ids, [200] + [2] * 150)
    assert torch.equal(single, double)


def test_the_draft_block_equals_the_module() -> None:
    w = weights(mtp=True)
    where, ids = layout(w), some_ids(60)
    module = tiny.model(with_mtp=True)
    state = module.new_state()
    with torch.inference_mode():
        _, streams = module(torch.tensor([ids]), state, return_streams=True)
        expected, out = module.draft(streams[:, :-1], torch.tensor([ids[1:]]), state)
    for passes in (NativePasses(w, where, threads=2), TorchPasses(w, where)):
        cache = new_cache(where)
        cache.prepare(60)
        _, ours = passes.forward([Piece(cache, ids, Rows.NONE, Rows.ALL)])
        rows, at = [], 0
        for count in (20, 1, 38):
            logits, drafted = passes.draft(
                [Piece(cache, ids[at + 1 : at + 1 + count], Rows.ALL, Rows.ALL)], ours[at : at + count]
            )
            rows.append(logits)
            at += count
        torch.testing.assert_close(torch.cat(rows), expected[0], atol=3e-5, rtol=1e-4)
        torch.testing.assert_close(drafted, out[0, -38:], atol=3e-5, rtol=1e-4)
        assert cache.draft_position == 59 and cache.position == 60


def test_experts_are_counted_where_asked() -> None:
    w = weights()
    where, c = layout(w), w.config
    tables = []
    for passes in (NativePasses(w, where, threads=2), TorchPasses(w, where)):
        counts = torch.zeros(c.num_hidden_layers + 1, c.n_routed_experts, dtype=torch.int64)
        cache = new_cache(where)
        cache.prepare(50)
        passes.forward([Piece(cache, some_ids(50))], counts)
        assert counts.sum() == 50 * c.num_hidden_layers * c.num_experts_per_tok
        tables.append(counts)
    assert torch.equal(*tables)
    with pytest.raises(ValueError, match="expert counts"):
        passes.forward([Piece(cache, [9])], torch.zeros(2, 2))


def test_nan_in_any_matrix_reaches_the_logits() -> None:
    """A corrupt weight must end as an error, not as a plausible answer."""
    for name in ("wq_b", "wkv", "wo_b"):
        module = tiny.model()
        with torch.no_grad():
            getattr(module.layers[2].attn, name).weight[3, 5] = float("nan")
        w = ModelWeights.of_module(module)
        where = layout(w)
        passes = NativePasses(w, where, threads=1)
        assert fed(passes, new_cache(where), some_ids(40), [40]).isnan().any(), name
        assert fed(passes, new_cache(where), some_ids(3), [1, 1, 1]).isnan().any(), name


def test_cores_are_counted() -> None:
    assert 1 <= physical_cores() <= 4096
