"""Runs `triton_parity` and `triton_compile` in processes of their own: the interpreter must be chosen before
Triton is imported."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
INSTALLED = importlib.util.find_spec("triton") is not None
needs_triton = pytest.mark.skipif(
    not INSTALLED, reason="Triton is not installed: pip install 'dsv4-agent[gpu]'"
)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no CUDA device")


def run(*arguments: str, **variables: str) -> None:
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", **variables}
    command = [sys.executable, *arguments]
    result = subprocess.run(
        command, cwd=HERE.parent.parent, env=environment, capture_output=True, text=True, check=False
    )
    print(result.stdout, result.stderr)
    assert result.returncode == 0


@pytest.mark.slow
@needs_triton
def test_kernels_and_passes_agree_with_pytorch_in_the_interpreter() -> None:
    run("-m", "pytest", "tests/model/triton_parity.py", TRITON_INTERPRET="1")


@pytest.mark.slow
@needs_triton
@pytest.mark.parametrize("capability", ["80", "90"])
def test_every_kernel_of_a_large_model_compiles_without_a_gpu(capability: str, tmp_path: Path) -> None:
    variables = {"TRITON_CACHE_DIR": str(tmp_path / "cache"), "TRITON_INTERPRET": "0"}
    run("-m", "tests.model.triton_compile", capability, str(tmp_path / "model"), **variables)


@needs_triton
@needs_gpu
def test_kernels_and_passes_agree_with_pytorch_on_a_gpu() -> None:
    run("-m", "pytest", "tests/model/triton_parity.py", TRITON_INTERPRET="0")
