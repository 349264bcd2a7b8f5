"""`dsv4 model routing`: which experts a text uses, layer by layer."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

_MOST_TOKENS = 32_768


def routing(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A checkpoint folder, or nano.")],
    source: Annotated[str, typer.Argument(metavar="FILE|-", help="A text file; - is stdin.")] = "-",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Run a text through a model and show how its tokens spread over the experts of each layer."""
    from dsv4_agent.workbench.engines import missing_package
    from dsv4_agent.workbench.exit_codes import ExitCode

    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not UTF-8 text"
        print(f"dsv4: error: {source}: {reason}", file=sys.stderr)
        raise typer.Exit(ExitCode.INPUT) from None
    try:
        from dsv4_model.engine import Engine, EngineOptions
        from dsv4_model.routing import routing as statistics

        engine = Engine.load(model, options=EngineOptions(count_experts=True, speculate=False))
        tokens = engine.tokenizer.encode(text, False)[: min(_MOST_TOKENS, engine.context_window)]
        if not tokens:
            print("dsv4: error: the text is empty", file=sys.stderr)
            raise typer.Exit(ExitCode.INPUT)
        engine.sequence().sync(tokens)
    except typer.Exit:
        raise
    except ImportError as error:
        failure = missing_package(error)
        print(f"dsv4: error: {failure.line()}", file=sys.stderr)
        raise typer.Exit(failure.code) from None
    except Exception as error:  # the engine's errors share no base class, and each carries its remedy
        print(f"dsv4: error: {' '.join(str(error).split())}", file=sys.stderr)
        raise typer.Exit(ExitCode.INPUT) from None
    assert engine.expert_counts is not None
    layers = statistics(engine.expert_counts)
    if as_json:
        print(json.dumps({"tokens": len(tokens), "layers": [asdict(layer) for layer in layers]}))
        return
    print(f"{len(tokens):,} tokens, {engine.config.num_experts_per_tok} experts each")
    print("layer  entropy (bits)  evenness  busiest / mean  unused")
    for layer in layers:
        row = (layer.layer, layer.entropy, layer.evenness, layer.busiest, layer.unused)
        print("{:5d}  {:14.3f}  {:7.1%}  {:14.2f}  {:6d}".format(*row))
