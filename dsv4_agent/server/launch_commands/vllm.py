"""`vllm serve` for DeepSeek-V4."""

from __future__ import annotations

import json
from typing import Final

from dsv4_agent.server.launch_commands.checkpoint import Drafts, Generation
from dsv4_agent.server.launch_commands.hardware import Architecture
from dsv4_agent.server.launch_commands.plan import Command, Layout, Parallel

_REASONING: Final = {"reasoning_parser": "deepseek_v4", "reasoning_start_str": "", "reasoning_end_str": ""}
_DATA_PORT: Final = "13345"
_RAY_PORT: Final = "6379"


def commands(layout: Layout) -> tuple[Command, ...]:
    """What to run on this node. Tensor parallelism over nodes goes through Ray, whose head serves."""
    request = layout.request
    if layout.parallel is Parallel.DATA or request.nodes == 1:
        return (_serve(layout),)
    if request.node_rank > 0:
        return (("ray", "start", "--address", f"{request.head}:{_RAY_PORT}", "--block"),)
    return (("ray", "start", "--head", "--port", _RAY_PORT), _serve(layout))


def remarks(layout: Layout) -> list[str]:
    """What should be known about vLLM here."""
    new = layout.checkpoint.generation is Generation.JULY or layout.checkpoint.drafts is Drafts.DSPARK
    found = [f"needs vLLM {'0.25' if new else '0.20'} or newer; a key for it goes into VLLM_API_KEY"]
    if layout.checkpoint.generation is Generation.PREVIEW:
        found.append('vLLM writes 0731\'s effort prompts for a preview checkpoint: set protocol = "tokens"')
    return found


def _serve(layout: Layout) -> Command:
    request = layout.request
    return (
        *("vllm", "serve", layout.checkpoint.name, "--trust-remote-code"),
        *("--host", request.host, "--port", str(request.port)),
        *("--kv-cache-dtype", "fp8", "--block-size", "256", "--enable-expert-parallel"),
        *_parallel(layout),
        *(("--max-model-len", str(layout.window)) if layout.shortened else ()),
        *("--tokenizer-mode", "deepseek_v4", "--tool-call-parser", "deepseek_v4"),
        *("--enable-auto-tool-choice", "--reasoning-parser", "deepseek_v4"),
        *("--reasoning-config", _json(_REASONING)),
        *_speculation(layout),
        *_blackwell(layout),
        "--enable-prompt-tokens-details",
    )


def _parallel(layout: Layout) -> Command:
    request, local = layout.request, layout.gpus.count
    if layout.parallel is Parallel.TENSOR:
        if request.nodes == 1:
            return ("--tensor-parallel-size", str(local))
        ray = ("--distributed-executor-backend", "ray")
        if local == 1:
            return (*ray, "--tensor-parallel-size", str(request.nodes))
        pipeline = ("--pipeline-parallel-size", str(request.nodes))
        return (*ray, "--tensor-parallel-size", str(local), *pipeline)
    every = ("--data-parallel-size", str(layout.all_gpus))
    if request.nodes == 1:
        return every
    return (
        *every,
        *("--data-parallel-size-local", str(local)),
        *("--data-parallel-start-rank", str(local * request.node_rank)),
        *("--data-parallel-address", str(request.head)),
        *("--data-parallel-rpc-port", _DATA_PORT),
        "--data-parallel-hybrid-lb",
    )


def _speculation(layout: Layout) -> Command:
    match layout.checkpoint.drafts:
        case Drafts.DSPARK:
            draft: dict[str, object] = {
                "method": "dspark",
                "num_speculative_tokens": 7,
                "draft_sample_method": "probabilistic",
            }
        case Drafts.MTP:
            tokens = 1 if layout.gpus.architecture is Architecture.HOPPER else 2
            draft = {"method": "mtp", "num_speculative_tokens": tokens}
        case Drafts.UNKNOWN:
            return ()
    return ("--speculative-config", _json(draft))


def _blackwell(layout: Layout) -> Command:
    if layout.gpus.architecture is not Architecture.BLACKWELL:
        return ()
    return ("--attention_config.indexer_kv_dtype", "mxfp4", "--moe-backend", "deep_gemm_mega_moe")


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
