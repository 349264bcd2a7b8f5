"""The engine against a per-token reference, against itself in chunks, and as something to train."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dsv4_model.transformer import DeepseekV4
from tests.model.random_model import TINY, random_ids, random_model
from tests.model.reference import reference_logits


def in_chunks(model: DeepseekV4, ids: Tensor, chunk: int) -> Tensor:
    state = model.new_state(ids.shape[0])
    parts = [model(ids[:, a : a + chunk], state) for a in range(0, ids.shape[1], chunk)]
    return torch.cat(parts, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"index_topk": 3},
        {"hc_mult": 2, "hc_sinkhorn_iters": 3, "o_groups": 1, "rope_scaling": None},
        {"num_attention_heads": 3, "o_groups": 3, "sliding_window": 40, "num_experts_per_tok": 1},
        {"compress_ratios": (8, 4, 0, 4, 16), "num_hash_layers": 0, "sliding_window": 1},
    ],
    ids=["plain", "selection", "two-streams", "wide-window", "other-schedule"],
)
def test_equals_the_per_token_reference(changes: dict[str, object]) -> None:
    model = random_model(**changes)
    ids = random_ids(model.config, 1, 37)
    expected = reference_logits(model.config, model.state_dict(), ids[0].tolist())
    assert expected.std() > 0.1
    for chunk in (37, 5, 1):
        assert (in_chunks(model, ids, chunk)[0] - expected).abs().max() < 1e-4, chunk


@pytest.mark.parametrize("topk", [4, 512])
def test_any_chunking_gives_the_same_logits(topk: int) -> None:
    model = random_model(index_topk=topk, compress_ratios=(0, 4, 128, 4, 8), sliding_window=130)
    ids = random_ids(model.config, 2, 300)
    whole = in_chunks(model, ids, 300)
    for chunk in (127, 128, 129, 64, 299):
        assert (in_chunks(model, ids, chunk) - whole).abs().max() < 1e-4, chunk


def test_rows_of_a_batch_are_independent() -> None:
    model = random_model(index_topk=3)
    ids = random_ids(model.config, 3, 33)
    together = in_chunks(model, ids, 11)
    for row in range(3):
        alone = in_chunks(model, ids[row : row + 1], 33)[0]
        assert (together[row] - alone).abs().max() < 1e-4


def test_last_only_and_streams() -> None:
    model = random_model()
    ids = random_ids(model.config, 2, 9)
    full, streams = model(ids, model.new_state(2), return_streams=True)
    last = model(ids, model.new_state(2), last_only=True)
    assert streams.shape == (2, 9, 4, 48)
    assert last.shape == (2, 1, 97)
    assert torch.allclose(last, full[:, -1:], atol=1e-5)


def test_a_forked_sequence_leaves_its_origin_alone() -> None:
    model = random_model(index_topk=3)
    ids = random_ids(model.config, 1, 40)
    state = model.new_state()
    model(ids[:, :21], state)
    before = {(n, k): t.clone() for n, layer in enumerate(state.layers) for k, t in layer.tensors().items()}
    fork = state.fork()
    in_fork = model(ids[:, 21:], fork)
    assert (state.position, fork.position) == (21, 40)
    for n, layer in enumerate(state.layers):
        for kind, tensor in layer.tensors().items():
            assert torch.equal(tensor, before[n, kind])
    assert torch.equal(model(ids[:, 21:], state.clone()), in_fork)


def test_state_accounts_for_its_bytes() -> None:
    model = random_model()
    state = model.new_state()
    model(random_ids(model.config, 1, 30), state)
    size, index = TINY.head_dim, TINY.index_head_dim
    windows = (5 * 6) * size
    entries = 2 * (7 * (size + index)) + 2 * 3 * size
    rows = 2 * ((4 + 2) * 2 * (size + index) * 2) + 2 * (6 * size * 2)
    assert state.nbytes() == 4 * (windows + entries + rows)


def test_training_through_a_detached_expanded_prefix() -> None:
    model = random_model(index_topk=512).requires_grad_(True)
    prefix, rest = random_ids(model.config, 1, 21), random_ids(model.config, 3, 14, seed=2)
    state = model.new_state()
    with torch.no_grad():
        model(prefix, state)
    batch = state.detach().expand(3)
    got = model(rest, batch)
    whole = model(torch.cat((prefix.expand(3, -1), rest), 1), model.new_state(3))[:, 21:]
    assert (got - whole).abs().max() < 1e-4
    got.logsumexp(-1).sum().backward()
    without = {
        name
        for name, p in model.named_parameters()
        if (p.grad is None or not p.grad.abs().sum() > 0) and not name.startswith("mtp.")
    }
    # The index selects, the correction bias steers: this loss trains neither. Not every expert is chosen.
    idle = (".indexer.", "gate.bias", ".ffn.experts.")
    assert {name for name in without if not any(part in name for part in idle)} == set()
    assert state.position == 21 and batch.position == 35


def test_gradients_equal_those_of_the_reference() -> None:
    model = random_model(num_hidden_layers=3, compress_ratios=(0, 4, 8), index_topk=2)
    ids = random_ids(model.config, 1, 22)
    weights = {k: v.double() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    trained = {k: v.requires_grad_(True) for k, v in weights.items() if v.is_floating_point()}
    weigh = torch.randn(22, 97, generator=torch.Generator().manual_seed(3))
    (reference_logits(model.config, weights, ids[0].tolist()) * weigh).sum().backward()
    model.requires_grad_(True)
    (in_chunks(model, ids, 9)[0] * weigh).sum().backward()
    for name, parameter in model.named_parameters():
        wanted = trained[name].grad
        if wanted is None or name.endswith("gate.bias"):
            continue
        assert parameter.grad is not None, name
        assert (parameter.grad - wanted).abs().max() < 1e-4 * wanted.abs().max().clamp_min(1), name


def test_a_model_can_be_trained_after_it_served() -> None:
    model = random_model(hc_mult=3, num_hidden_layers=2)
    ids = random_ids(model.config, 2, 12)
    with torch.inference_mode():
        model(ids, model.new_state(2))
    model.requires_grad_(True)
    model(ids, model.new_state(2)).logsumexp(-1).sum().backward()
    assert model.layers[0].hc_attn_fn.grad is not None


def test_gradient_stops_at_a_detached_state() -> None:
    model = random_model().requires_grad_(True)
    prefix, rest = random_ids(model.config, 1, 10), random_ids(model.config, 1, 8, seed=3)
    state = model.new_state()
    earlier = model(prefix, state)
    assert earlier.requires_grad and state.layers[0].window.requires_grad
    cut = state.detach()
    assert not any(t.requires_grad for layer in cut.layers for t in layer.tensors().values())
    model(rest, cut).sum().backward()
    used = model.embed.weight.grad.abs().sum(-1).nonzero()[:, 0].tolist()
    assert used == sorted(set(rest[0].tolist()))


def test_draft_needs_an_mtp_block_and_ids_must_match_the_state() -> None:
    model = DeepseekV4(TINY, with_mtp=False)
    state = model.new_state()
    _, streams = model(random_ids(TINY, 1, 4), state, return_streams=True)
    with pytest.raises(ValueError, match="with_mtp=True"):
        model.draft(streams, random_ids(TINY, 1, 4), state)
    with pytest.raises(ValueError, match=r"\[1, S >= 1\]"):
        model(random_ids(TINY, 2, 4), state)


def test_autocast_keeps_logits_close() -> None:
    model = random_model()
    ids = random_ids(model.config, 2, 20)
    exact = model(ids, model.new_state(2))
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(ids, model.new_state(2))
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).abs().mean() < 0.1 * exact.abs().mean()


def test_bf16_model_runs_in_bf16() -> None:
    exact = random_model()
    model = DeepseekV4(TINY, dtype=torch.bfloat16)
    model.load_state_dict(exact.state_dict())
    ids = random_ids(TINY, 2, 20)
    with torch.no_grad():
        rough, streams = model(ids, model.new_state(2), return_streams=True)
    assert (streams.dtype, rough.dtype) == (torch.bfloat16, torch.float32)
    assert model.layers[0].hc_attn_fn.dtype == torch.float32
    wanted = exact(ids, exact.new_state(2))
    assert (rough - wanted).abs().mean() < 0.1 * wanted.abs().mean()
