"""The official reference model, executed in fp32: logits, streams, routing and index selections."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dsv4_model.config import ModelConfig
from dsv4_model.transformer import DeepseekV4
from tests.fixtures_path import SHARED

pytestmark = pytest.mark.skipif(SHARED is None, reason="shared fixtures are not present")
TOLERANCE = 1e-4
PROMPT = 300


def golden_folder() -> Path:
    assert SHARED is not None
    return SHARED / "golden_tiny" / "fp32"


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(golden_folder() / "golden.safetensors")


@pytest.fixture(scope="module")
def model() -> DeepseekV4:
    model = DeepseekV4(ModelConfig.from_file(golden_folder()))
    weights = load_file(golden_folder() / "model.safetensors")
    model.load_state_dict({k: v if k.endswith("tid2eid") else v.float() for k, v in weights.items()})
    return model


def run_chunks(model: DeepseekV4, ids: Tensor, sizes: Callable[[int], int]) -> tuple[Tensor, Tensor]:
    state, logits, streams = model.new_state(), [], []
    with torch.no_grad():
        while state.position < ids.shape[1]:
            size = sizes(state.position)
            out, x = model(ids[:, state.position : state.position + size], state, return_streams=True)
            logits.append(out)
            streams.append(x)
    return torch.cat(logits, 1)[0], torch.cat(streams, 1)


def test_state_dict_keys_are_the_official_names(model: DeepseekV4) -> None:
    assert set(model.state_dict()) == set(load_file(golden_folder() / "model.safetensors"))


def test_prefill(model: DeepseekV4, golden: dict[str, Tensor]) -> None:
    logits, _ = run_chunks(model, golden["input_ids"][None, :PROMPT], lambda _: PROMPT)
    assert (logits - golden["prefill_logits"]).abs().max() < TOLERANCE


def test_prefill_then_single_token_steps(model: DeepseekV4, golden: dict[str, Tensor]) -> None:
    logits, _ = run_chunks(model, golden["input_ids"][None], lambda p: PROMPT if p == 0 else 1)
    assert (logits[PROMPT:] - golden["decode_logits"]).abs().max() < TOLERANCE


@pytest.mark.parametrize(
    ("chunk", "count"), [(1, 134), (3, 141), (127, 410), (128, 410), (129, 410), (410, 410)]
)
def test_chunked_prefill(model: DeepseekV4, golden: dict[str, Tensor], chunk: int, count: int) -> None:
    logits, _ = run_chunks(model, golden["input_ids"][None, :count], lambda _: chunk)
    expected = torch.cat((golden["prefill_logits"], golden["decode_logits"]))[:count]
    assert (logits - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize("chunk", [7, 64, 299])
def test_mtp(model: DeepseekV4, golden: dict[str, Tensor], chunk: int) -> None:
    ids = golden["input_ids"][None]
    _, streams = run_chunks(model, ids[:, :PROMPT], lambda _: PROMPT)
    state, logits = model.new_state(), []
    with torch.no_grad():
        while (start := state.mtp_position) < PROMPT - 1:
            end = min(start + chunk, PROMPT - 1)
            out, _ = model.draft(streams[:, start:end], ids[:, start + 1 : end + 1], state)
            logits.append(out)
    assert state.position == 0
    assert (torch.cat(logits, 1)[0] - golden["mtp_logits"]).abs().max() < TOLERANCE


def test_streams_routing_and_selection_of_every_layer(model: DeepseekV4, golden: dict[str, Tensor]) -> None:
    seen: dict[str, object] = {}
    handles = []
    for n, block in enumerate(model.layers):
        named = {f"block.{n}": block, f"gate.{n}": block.ffn.gate, f"indexer.{n}": block.attn.indexer}
        for name, module in named.items():
            if module is not None:
                hook = module.register_forward_hook(lambda m, i, out, name=name: seen.update({name: out}))
                handles.append(hook)
    try:
        run_chunks(model, golden["input_ids"][None, :PROMPT], lambda _: PROMPT)
    finally:
        for handle in handles:
            handle.remove()
    probes = golden["probe_positions"]
    for n in range(6):
        streams = seen[f"block.{n}"][0]  # type: ignore[index]
        assert (streams[0, probes] - golden[f"hc_out.{n}"]).abs().max() < TOLERANCE
        weights, experts = seen[f"gate.{n}"]  # type: ignore[misc]
        order = experts[probes].argsort(-1)
        wanted = golden[f"route_idx.{n}"].argsort(-1)
        assert torch.equal(experts[probes].gather(1, order), golden[f"route_idx.{n}"].gather(1, wanted))
        routed = weights[probes].gather(1, order) - golden[f"route_w.{n}"].gather(1, wanted)
        assert routed.abs().max() < TOLERANCE
    for n in (2, 4, 5):
        mask = seen[f"indexer.{n}"][0]  # type: ignore[index]
        for t, expected in enumerate(golden[f"index_topk_sorted.{n}"].tolist()):
            assert mask[t].nonzero()[:, 0].tolist() == sorted(e for e in expected if e >= 0), (n, t)
