"""Single parts: Sinkhorn maps, rotary tables, top-k ties, precision of the initial weights."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dsv4_model.config import YarnScaling
from dsv4_model.hyper_connections import sinkhorn
from dsv4_model.indexer import top_k_mask
from dsv4_model.rope import RopeTable, rope_frequencies, rotate
from tests.fixtures_path import SHARED
from tests.model.random_model import TINY, random_model

needs_fixtures = pytest.mark.skipif(SHARED is None, reason="shared fixtures are not present")


@pytest.fixture(scope="module")
def vectors() -> dict[str, Tensor]:
    assert SHARED is not None
    return load_file(SHARED / "golden_tiny" / "unit_vectors.safetensors")


@needs_fixtures
def test_sinkhorn_vectors(vectors: dict[str, Tensor]) -> None:
    mixes, scale, base = vectors["hc_mixes"], vectors["hc_scale"], vectors["hc_base"]
    logits = (mixes[:, 8:] * scale[2] + base[8:]).view(-1, 4, 4).permute(1, 2, 0)
    comb = sinkhorn(logits, 20, 1e-6).permute(2, 0, 1)
    assert (comb - vectors["hc_comb"]).abs().max() < 1e-6


def test_sinkhorn_gradient_is_that_of_plain_autograd() -> None:
    logits = torch.randn(4, 4, 9, generator=torch.Generator().manual_seed(0)) * 2
    weigh = torch.randn(4, 4, 9, generator=torch.Generator().manual_seed(1))
    ours, plain = logits.clone().requires_grad_(True), logits.clone().requires_grad_(True)
    (sinkhorn(ours, 20, 1e-6) * weigh).sum().backward()
    c = plain.softmax(1) + 1e-6
    c = c / (c.sum(0, keepdim=True) + 1e-6)
    for _ in range(19):
        c = c / (c.sum(1, keepdim=True) + 1e-6)
        c = c / (c.sum(0, keepdim=True) + 1e-6)
    (c * weigh).sum().backward()
    assert ours.grad is not None and plain.grad is not None
    assert (ours.grad - plain.grad).abs().max() < 1e-5


@needs_fixtures
@pytest.mark.parametrize(
    ("kind", "theta", "yarn"), [("main", 10000.0, None), ("compress", 160000.0, YarnScaling())]
)
def test_rope_tables(vectors: dict[str, Tensor], kind: str, theta: float, yarn: YarnScaling | None) -> None:
    table = RopeTable(64, theta, yarn)
    cos, sin = table.span(0, 2048, torch.device("cpu"))
    expected = vectors[f"rope_{kind}_cos"], vectors[f"rope_{kind}_sin"]
    # The vectors don't name their six positions: each must be a row of the table, the last one 2,047.
    for row_cos, row_sin in zip(*expected, strict=True):
        distance = ((cos - row_cos).abs() + (sin - row_sin).abs()).amax(1)
        assert distance.min() < 2e-4
    assert (cos[2047] - expected[0][-1]).abs().max() < 2e-4


def test_yarn_frequencies_of_the_released_models() -> None:
    got = rope_frequencies(64, 160000.0, YarnScaling())[[0, 8, 15, 16, 20, 24, 25, 31]]
    wanted = [
        1,
        0.05,
        0.00363553858,
        0.002265625,
        0.000296977778,
        1.953125e-05,
        5.37231267e-06,
        5.68052904e-07,
    ]
    assert torch.allclose(got, torch.tensor(wanted), rtol=1e-5, atol=0)


def test_rotation_and_its_inverse_cancel_and_spare_the_plain_channels() -> None:
    x = torch.randn(2, 5, 3, 12, generator=torch.Generator().manual_seed(0))
    cos, sin = RopeTable(8, 100.0, None).span(40, 5, x.device)
    turned = rotate(x, cos.unsqueeze(1), sin.unsqueeze(1))
    assert torch.equal(turned[..., :4], x[..., :4])
    assert (turned[..., 4:] - x[..., 4:]).abs().max() > 0.1
    back = rotate(turned, cos.unsqueeze(1), sin.unsqueeze(1), inverse=True)
    assert (back - x).abs().max() < 1e-5


def test_tables_grow_without_changing() -> None:
    table, device = RopeTable(8, 100.0, None), torch.device("cpu")
    early = table.span(3, 4, device)[0].clone()
    table.span(5000, 10, device)
    assert torch.equal(table.span(3, 4, device)[0], early)
    assert torch.equal(table.span(8, 3, device, step=4)[1], table.span(8, 9, device)[1][::4])


def test_top_k_breaks_ties_by_lower_index() -> None:
    scores = torch.tensor([[0.0, 1, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0], [5, 4, 3, 2, 1, 0]])
    visible = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 0], [0, 0, 0, 0, 1, 1]], dtype=torch.bool)
    chosen = [row.nonzero()[:, 0].tolist() for row in top_k_mask(scores, visible, 3)]
    assert chosen == [[0, 1, 4], [1, 2, 3], [4, 5]]


def test_initial_weights_are_reproducible_and_hash_tables_name_different_experts() -> None:
    one, other = (random_model(seed=5).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
    for n in range(TINY.num_hash_layers):
        table = one[f"layers.{n}.ffn.gate.tid2eid"]
        assert table.shape == (97, 2) and bool((table[:, 0] != table[:, 1]).all())
        assert f"layers.{n}.ffn.gate.bias" not in one
    assert f"layers.{TINY.num_hash_layers}.ffn.gate.bias" in one
