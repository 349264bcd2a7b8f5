"""Options of `dsv4 serve --engine`: a model on GPUs, served by vLLM or SGLang."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class Engine(StrEnum):
    """The engines whose commands are known; the names are those of `launch_commands.LaunchEngine`."""

    VLLM = "vllm"
    SGLANG = "sglang"


class Sharing(StrEnum):
    """How GPUs share the work; the names are those of `launch_commands.Parallel`."""

    DATA = "data"
    TENSOR = "tensor"


EngineOption = Annotated[
    Engine | None,
    typer.Option("--engine", help="Print the command that serves --model on GPUs with this engine instead."),
]
RunOption = Annotated[bool, typer.Option("--run", help="With --engine: run the command, don't print it.")]
GpusOption = Annotated[
    str | None,
    typer.Option("--gpus", metavar="8xH200", help="With --engine: the GPUs of a node. Default: those here."),
]
NodesOption = Annotated[int, typer.Option("--nodes", min=1, help="With --engine: how many nodes.")]
NodeRankOption = Annotated[int, typer.Option("--node-rank", min=0, help="With --engine: which one this is.")]
HeadOption = Annotated[
    str | None, typer.Option("--head-address", metavar="IP", help="With --engine: the address of node 0.")
]
SharingOption = Annotated[
    Sharing | None,
    typer.Option(
        "--parallel", help="With --engine: data for many clients, tensor for the fastest single one."
    ),
]
ContextOption = Annotated[
    int | None, typer.Option("--context", min=1, metavar="TOKENS", help="With --engine: the window.")
]
