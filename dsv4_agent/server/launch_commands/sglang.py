"""`sglang serve` for DeepSeek-V4."""

from __future__ import annotations

from typing import Final

from dsv4_agent.server.launch_commands.checkpoint import Drafts
from dsv4_agent.server.launch_commands.errors import LaunchError
from dsv4_agent.server.launch_commands.plan import Command, Layout, Parallel

_PORT: Final = "20000"


def commands(layout: Layout) -> tuple[Command, ...]:
    """What to run on this node. Raises `LaunchError` for data parallelism, which isn't known here."""
    if layout.parallel is Parallel.DATA:
        raise LaunchError("data parallelism with SGLang isn't known here: use --parallel tensor, or vLLM")
    request = layout.request
    return (
        (
            *("sglang", "serve", "--model-path", layout.checkpoint.name),
            *("--host", request.host, "--port", str(request.port)),
            *("--tp", str(layout.all_gpus), "--trust-remote-code"),
            *_nodes(layout),
            *(("--context-length", str(layout.window)) if layout.shortened else ()),
            *("--reasoning-parser", "deepseek-v4", "--tool-call-parser", "deepseekv4"),
            *_speculation(layout),
            "--enable-cache-report",
        ),
    )


def remarks(layout: Layout) -> list[str]:
    """What should be known about SGLang here."""
    if layout.checkpoint.drafts is Drafts.DSPARK:
        return ["how SGLang uses DSpark's drafts isn't known here: no speculative decoding is set"]
    if layout.checkpoint.drafts is Drafts.MTP:
        return ["the speculative settings are a preset: see SGLang's cookbook for your GPUs"]
    return []


def _nodes(layout: Layout) -> Command:
    request = layout.request
    if request.nodes == 1:
        return ()
    return (
        *("--nnodes", str(request.nodes), "--node-rank", str(request.node_rank)),
        *("--dist-init-addr", f"{request.head}:{_PORT}"),
    )


def _speculation(layout: Layout) -> Command:
    if layout.checkpoint.drafts is not Drafts.MTP:
        return ()
    return (
        *("--speculative-algorithm", "EAGLE", "--speculative-num-steps", "3"),
        *("--speculative-eagle-topk", "1", "--speculative-num-draft-tokens", "4"),
    )
