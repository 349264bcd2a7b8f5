"""`dsv4 serve`: the model of this machine for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dsv4_agent.cli.engine_options import (
    CacheFormatOption,
    DeviceOption,
    MemoryBudgetOption,
    ThreadsOption,
    size_of,
)
from dsv4_agent.cli.launch_options import (
    ContextOption,
    EngineOption,
    GpusOption,
    HeadOption,
    NodeRankOption,
    NodesOption,
    RunOption,
    SharingOption,
)
from dsv4_agent.dsml.dialect import Dialect
from dsv4_agent.server.options import ServeOptions
from dsv4_agent.workbench.model_options import NANO, EngineChoice

app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)

_PORT = 8400
_ENGINE_PORT = 8000


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
def serve(
    ctx: typer.Context,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            envvar="DSV4_MODEL",
            metavar="nano|PATH|scripted:FILE",
            help="The built-in model, a checkpoint folder, or a script that plays one (dsv4 help scripted).",
        ),
    ] = NANO,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = _PORT,
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            metavar="T",
            envvar="DSV4_SERVE_TOKEN",
            help="Bearer token that requests must carry; others can see command lines. Default: a new one.",
        ),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", metavar="FILE", help="Read the token from a 0600 file.")
    ] = None,
    no_token: Annotated[
        bool, typer.Option("--no-token", help="Serve every program of this machine; on loopback only.")
    ] = False,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option("--allowed-host", metavar="NAME", help="Answer for this host name too. Repeat."),
    ] = None,
    allowed_origin: Annotated[
        list[str] | None,
        typer.Option(
            "--allowed-origin", metavar="ORIGIN", help="Let web pages of this origin use the model. Repeat."
        ),
    ] = None,
    max_sequences: Annotated[
        int, typer.Option("--max-sequences", min=1, max=1024, help="Requests computed at the same time.")
    ] = 32,
    queue: Annotated[
        int, typer.Option("--queue", min=1, max=65536, help="Requests that may wait; more get 429.")
    ] = 128,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=1, help="Most tokens that one request may sample.")
    ] = 65_536,
    max_time: Annotated[
        float, typer.Option("--max-time", min=1, metavar="SECONDS", help="Longest time of one request.")
    ] = 1800.0,
    idle_cache: Annotated[
        int,
        typer.Option(
            "--idle-cache",
            parser=size_of,
            metavar="SIZE",
            help="Memory for the state of conversations that may go on.",
        ),
    ] = "1 GiB",  # type: ignore[assignment]
    drain: Annotated[
        float, typer.Option("--drain", min=0, metavar="SECONDS", help="What running requests get at the end.")
    ] = 10.0,
    dialect: Annotated[
        Dialect | None, typer.Option("--dialect", help="The checkpoint's prompt format. Default: v4.")
    ] = None,
    cache_format: CacheFormatOption = None,
    memory_budget: MemoryBudgetOption = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    ephemeral: Annotated[
        bool, typer.Option("--ephemeral", help="Leave no KV state of a conversation on disk.")
    ] = False,
    stop: Annotated[
        bool, typer.Option("--stop", help="End the running servers of this user, or the one of --model.")
    ] = False,
    list_servers: Annotated[
        bool, typer.Option("--list", help="Show the running servers of this user.")
    ] = False,
    engine: EngineOption = None,
    run: RunOption = False,
    gpus: GpusOption = None,
    nodes: NodesOption = 1,
    node_rank: NodeRankOption = 0,
    head_address: HeadOption = None,
    parallel: SharingOption = None,
    context: ContextOption = None,
) -> None:
    """Serve the model of this machine over the OpenAI API, on loopback and with a token by default."""
    if stop or list_servers:
        from dsv4_agent.cli.serve_running import list_running, stop_running

        source = ctx.get_parameter_source("model")
        named = source is not None and source.name == "COMMANDLINE"
        raise typer.Exit(stop_running(model if named else None) if stop else list_running())
    if engine is not None:
        from dsv4_agent.cli.launch_engine import launch
        from dsv4_agent.server.launch_commands import LaunchEngine, LaunchRequest, Parallel

        source = ctx.get_parameter_source("port")
        request = LaunchRequest(
            engine=LaunchEngine(engine),
            model=model,
            gpus=gpus,
            nodes=nodes,
            node_rank=node_rank,
            head=head_address,
            parallel=None if parallel is None else Parallel(parallel),
            context=context,
            host=host,
            port=port if source is not None and source.name == "COMMANDLINE" else _ENGINE_PORT,
        )
        raise typer.Exit(launch(request, run=run))
    options = ServeOptions(
        model=model,
        host=host,
        port=port,
        token=token,
        token_file=token_file,
        without_token=no_token,
        allowed_hosts=tuple(allowed_host or ()),
        allowed_origins=tuple(allowed_origin or ()),
        sequences=max_sequences,
        queue=queue,
        max_tokens=max_tokens,
        seconds=max_time,
        idle_bytes=idle_cache,
        patience=drain,
        dialect=dialect,
        engine=EngineChoice(
            cache_format=cache_format,
            memory_budget=memory_budget,
            threads=threads,
            device=device,
            keep_conversations=not ephemeral,
        ),
    )
    from dsv4_agent.server.launch import execute

    raise typer.Exit(execute(options))
