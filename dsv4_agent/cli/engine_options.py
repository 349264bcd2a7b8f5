"""Options of the commands that load a model: how the engine in this process runs."""

from __future__ import annotations

from typing import Annotated

import typer

from dsv4_agent.workbench.sizes import parse_size
from dsv4_model.accounting import CacheFormat


def size_of(text: str) -> int:
    """Bytes of a size as people write it; for options."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


CacheFormatOption = Annotated[
    CacheFormat | None,
    typer.Option("--cache-format", help="How the KV cache is stored. Default: as the model was trained."),
]
MemoryBudgetOption = Annotated[
    int | None,
    typer.Option(
        "--memory-budget",
        parser=size_of,
        metavar="SIZE",
        help="Most memory for experts, e.g. '20 GiB'; the others are read from disk when needed.",
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="cpu|cuda|LIST",
        help="Where the model goes; a list as 'cuda:0,cuda:1' splits its layers. Default: the CPU.",
    ),
]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, help="CPU threads. Default: one a physical core.")
]
NoServerOption = Annotated[
    bool,
    typer.Option(
        "--no-server",
        envvar="DSV4_NO_SERVER",
        help="Load the model here, even where a dsv4 serve of yours has it already.",
    ),
]
