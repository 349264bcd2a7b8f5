"""Layers of the released size: a checkpoint larger than the memory it is given decodes all the same."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dsv4_model.checkpoint import open_checkpoint
from dsv4_model.kernels.library import NativeUnavailableError, load_library
from dsv4_model.layer_split import layer_sizes
from tests.model import tiny
from tests.model.flash_shaped import flash_config, layer_payloads, payload_bytes, write_flash_shaped

EXPERTS = 24
EXPERT = 3 * 4096 * 2048 * 17 // 32  # bytes: four bits a weight, eight a group of 32
BUDGET = 12 * EXPERT  # two layers' worth of one token
LIMIT = 600_000_000
ROOT = Path(__file__).parents[2]


def test_layers_have_the_released_sizes() -> None:
    config = flash_config(ratios=(0, 4, 128, 4), experts=256, vocabulary=129_280, hash_layers=2)
    sizes = layer_payloads(config)
    assert sizes == [3_566_148_952, 3_596_055_640, 3_568_596_312, 3_589_851_224]
    assert payload_bytes(config) - sum(sizes) == 2_118_393_876


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    try:
        load_library()
    except NativeUnavailableError as error:
        pytest.skip(str(error))
    config = flash_config(experts=EXPERTS)
    path = tmp_path_factory.mktemp("flash") / "m"
    need = payload_bytes(config) + 500_000_000
    if shutil.disk_usage(path.parent).free < need:
        pytest.skip(f"needs {need:,} bytes of disk")
    assert write_flash_shaped(path, config) == payload_bytes(config)
    (path / "tokenizer.json").write_text(json.dumps(tiny.tokenizer_definition()))
    yield path
    shutil.rmtree(path)  # too large to be kept with the other folders of past runs


def decode(folder: Path, name: str, *options: str) -> tuple[dict[str, Any], torch.Tensor]:
    out = folder.parent / f"{name}.pt"
    done = run(folder, out, *options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), torch.load(out)


def run(folder: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.model.flash_decode", str(folder), str(out), *options]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "model")])}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(resource, "RLIMIT_DATA"), reason="needs a limit on private memory")
def test_a_checkpoint_larger_than_the_memory_decodes_to_the_same_logits(folder: Path) -> None:
    checkpoint, config = open_checkpoint(folder), flash_config(experts=EXPERTS)
    total = sum(info.nbytes for info in checkpoint.tensors.values())
    routed = sum(layer_sizes(checkpoint.tensors, config)) - sum(
        layer_sizes(checkpoint.tensors, config, experts=False)
    )
    assert routed == 3 * EXPERTS * EXPERT and total > 2.3 * LIMIT

    whole, expected = decode(folder, "whole")
    options = ("--budget", str(BUDGET), "--limit", str(LIMIT))
    streamed, logits = decode(folder, "streamed", *options)
    assert streamed["back_end"] == whole["back_end"] == "NativePasses"
    assert expected.std() > 0.1 and torch.equal(logits, expected)

    # The kernel enforced the limit on private memory. Mapped files are outside of it, so all that was
    # resident is looked at too: the rest of the weights, the slots, and a remainder, but no routed expert.
    assert streamed["slots"] <= BUDGET
    assert streamed["at_end"]["RssAnon"] <= streamed["at_end"]["VmData"] <= LIMIT
    grown = streamed["at_end"]["VmHWM"] - streamed["at_start"]["VmHWM"]
    assert grown < (total - routed) + BUDGET + 150_000_000 < total
    assert max(whole["at_end"]["VmHWM"], total) > 1.4 * streamed["at_end"]["VmHWM"]
    assert streamed["bytes_read"] > routed  # experts made room for others and came back


@pytest.mark.slow
def test_the_limit_is_real_and_a_budget_beyond_it_is_refused_in_words(folder: Path) -> None:
    done = run(folder, folder.parent / "none.pt", "--budget", str(2 * LIMIT), "--limit", str(LIMIT))
    assert done.returncode != 0
    assert "bytes for routed experts can't be had on cpu. Lower the budget" in done.stderr
