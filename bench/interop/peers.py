"""The servers of other people that can be had here, each over the same weights.

Where they are is told by the environment: DSV4_LLAMA_SERVER (the program), DSV4_TRANSFORMERS (the program
`transformers` of an environment with its serving extra), DSV4_VLLM (the python of an environment with vLLM).
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.interop.checkpoints import as_gguf, for_transformers
from bench.interop.served import Served, free_port, process

LLAMA_SERVER, TRANSFORMERS, VLLM = "DSV4_LLAMA_SERVER", "DSV4_TRANSFORMERS", "DSV4_VLLM"
VLLM_MODEL = "tiny"


class NotHereError(Exception):
    """A peer that isn't on this machine; says which variable would name it."""


@contextmanager
def own_server(folder: Path, model: str = "nano", key: str | None = None) -> Iterator[Served]:
    """`dsv4 serve`, as users start it."""
    port, key = free_port(), key or secrets.token_hex(16)
    program = str(Path(sys.executable).with_name("dsv4"))
    version = _first_line([program, "--version"])
    command = [program, "serve", "--model", model, "--port", str(port), "--ephemeral"]
    own = {
        "DSV4_SERVE_TOKEN": key,
        "DSV4_STATE_DIR": str(folder / "serve-state"),
        "DSV4_CONFIG_DIR": str(folder / "serve-config"),
    }
    with process(
        "dsv4 serve", version, command, port, folder / "serve.log", environment=own, key=key
    ) as served:
        yield served


@contextmanager
def llama_server(folder: Path) -> Iterator[Served]:
    """llama.cpp over the exported weights, its caches in fp32. Raises `NotHereError`."""
    program, port = _named(LLAMA_SERVER), free_port()
    command = [
        *(program, "-m", str(as_gguf(folder)), "--host", "127.0.0.1", "--port", str(port), "-c", "16384"),
        *("-np", "1", "-t", "1", "-tb", "1", "-ctk", "f32", "-ctv", "f32", "-fa", "off", "--no-warmup"),
        "--jinja",
    ]
    version = _first_line([program, "--version"])
    with process("llama-server", version, command, port, folder / "llama.log") as served:
        yield served


@contextmanager
def transformers_serve(folder: Path) -> Iterator[Served]:
    """`transformers serve` over the weights in its own naming. Raises `NotHereError`."""
    program, port = _named(TRANSFORMERS), free_port()
    where = str(for_transformers(folder))
    options = ("--device", "cpu", "--dtype", "float32", "--attn-implementation", "eager")
    command = [program, "serve", where, *options, "--host", "127.0.0.1", "--port", str(port)]
    cache = folder / "hub"
    (cache / "hub").mkdir(parents=True)
    own = {"HF_HOME": str(cache), "HF_HUB_OFFLINE": "1"}
    python = str(Path(program).with_name("python"))
    version = _first_line([python, "-c", "import transformers; print(transformers.__version__)"])
    with process("transformers serve", version, command, port, folder / "hf.log", environment=own) as served:
        yield served


@contextmanager
def vllm(folder: Path, checkpoint: Path) -> Iterator[Served]:
    """vLLM with V4's tokenizer mode and parsers over a small Llama. Raises `NotHereError`."""
    python, port = _named(VLLM), free_port()
    command = [
        *(python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(checkpoint)),
        *("--served-model-name", VLLM_MODEL, "--host", "127.0.0.1", "--port", str(port)),
        *("--dtype", "float32", "--max-model-len", "8192", "--enforce-eager", "--max-num-seqs", "4"),
        *("--tokenizer-mode", "deepseek_v4", "--tool-call-parser", "deepseek_v4"),
        *("--enable-auto-tool-choice", "--reasoning-parser", "deepseek_v4", "--enable-prompt-tokens-details"),
    ]
    own = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    version = _first_line([python, "-c", "import vllm; print(vllm.__version__)"])
    with process("vLLM", version, command, port, folder / "vllm.log", environment=own) as served:
        yield served


def _named(variable: str) -> str:
    found = os.environ.get(variable, "")
    if not found or not Path(found).exists():
        raise NotHereError(f"{variable} names no program")
    return found


def _first_line(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if any(map(str.isdigit, line))]
    return lines[-1].strip() if command[-1] != "--version" and lines else lines[0].strip() if lines else ""
