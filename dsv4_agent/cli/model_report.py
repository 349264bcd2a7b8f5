"""What `dsv4 model info` says: gathered once, then written as JSON or as tables."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any, Final

from dsv4_model import accounting
from dsv4_model.accounting import CacheFormat, Component, Flops
from dsv4_model.config import AttentionKind, ConfigError, ModelConfig
from dsv4_model.fit import Fit, Verdict, gigabytes, judge
from dsv4_model.machine import read_machine
from dsv4_model.stored_size import StoredSizeError, StoredWeights, read_stored_weights

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

NANO: Final = "nano"
USUAL_CONTEXT: Final = 131_072
_COMPARED: Final = (131_072, 262_144, 1_000_000, 1_048_576)
_WIDTH: Final = 80
_MAX_CONFIG: Final = 16_000_000  # bytes; whoever names a weight file instead shouldn't wait for it to be read
_LABELS: Final = {
    Component.ROUTED_EXPERTS: "routed experts",
    Component.DENSE_FP8: "other FP8",
    Component.BF16: "bf16",
    Component.FP32: "fp32",
    Component.INT64: "tables of expert ids",
    Component.MTP: "draft stages",
}
_VERDICTS: Final = {
    Verdict.FITS: "it fits",
    Verdict.FITS_WITH_EXPERT_OFFLOAD: "it fits with its experts left on disk",
    Verdict.TOO_LARGE: "it is too large",
    Verdict.UNKNOWN: "can't be told",
}


class ModelInputError(Exception):
    """What was given can't be used; the text is the one line that the user reads."""


@dataclass(frozen=True, slots=True)
class Report:
    """A model, a context and a cache format, and what follows from them."""

    name: str
    config: ModelConfig
    context: int
    cache: CacheFormat
    stored: StoredWeights | None
    fit: Fit


def gather(name: str, context: int | None, cache: CacheFormat) -> Report:
    """Read the configuration, the headers of the weights and the machine. Raises `ModelInputError`."""
    try:
        config, folder = _open(name)
        most = config.max_position_embeddings
        if context is not None and context > most:
            raise ModelInputError(
                f"--context {context} is more than this model can hold: "
                f"max_position_embeddings is {most}; choose at most that"
            )
        tokens = context if context is not None else min(USUAL_CONTEXT, most)
        stored = None if folder is None else read_stored_weights(folder)
        complete = stored is not None and stored.complete
        fit = judge(
            config,
            read_machine(folder or Path(name).parent),
            context=tokens,
            cache=cache,
            weights=stored.sizes if stored is not None and complete else None,
            on_disk=complete,
        )
        report = Report(name, config, tokens, cache, stored, fit)
        as_values(report)  # impossible sizes overflow here, while there is someone to tell
    except (ConfigError, StoredSizeError) as error:
        raise ModelInputError(str(error)) from error
    except OSError as error:
        raise ModelInputError(f"{error.filename or name}: {error.strerror or error}") from error
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ModelInputError(f"{name}: its config.json holds impossible values ({error})") from error
    return report


def _open(name: str) -> tuple[ModelConfig, Path | None]:
    """The configuration, and the folder that holds weights unless a lone file was named."""
    if name == NANO:
        from dsv4_model.nano import WEIGHTS

        return ModelConfig.from_file(WEIGHTS), WEIGHTS
    path = Path(name)
    if not path.exists():
        raise ModelInputError(f"there is no {name!r}: name a checkpoint folder, a config.json, or nano")
    if path.is_dir():
        found = (path / "config.json", path / "inference" / "config.json")
        file = next((file for file in found if file.is_file()), None)
        if file is None:
            raise ModelInputError(
                f"the folder {name!r} has no config.json: copy it from the model's repository"
            )
        return ModelConfig.from_file(file), path
    if not path.is_file() or path.stat().st_size > _MAX_CONFIG:
        raise ModelInputError(f"{name!r} is not a config.json: name that file, or the checkpoint's folder")
    return ModelConfig.from_file(path), None


def as_values(report: Report) -> dict[str, Any]:
    """Everything, ready for JSON. Bytes are integers; `kv_bytes` is without `partial_bytes`."""
    config, n, cache = report.config, report.context, report.cache
    kv, counted = accounting.kv_bytes(config, n, cache), accounting.parameters(config)
    weights, read = accounting.weight_bytes(config), accounting.weight_bytes_per_token(config)
    flops, compared = accounting.flops_per_token(config, n), accounting.flops_per_token_v32(n)
    stored = report.stored
    return {
        "model": report.name,
        "context": n,
        "max_context": config.max_position_embeddings,
        "cache_format": cache.value,
        "layers": {kind.value: _layers(config, kind) for kind in AttentionKind},
        "parameters": counted.total,
        "active_parameters": counted.active,
        "draft_parameters": counted.mtp,
        "weight_bytes": sum(weights.values()),
        "weight_bytes_by_component": {part.value: size for part, size in weights.items()},
        "weight_bytes_per_token": sum(read.values()),
        "weight_bytes_per_token_by_component": {part.value: size for part, size in read.items()},
        "expert_bytes": accounting.expert_bytes(config),
        "stored_bytes": None if stored is None else stored.total,
        "missing_files": [] if stored is None else list(stored.missing),
        "kv_bytes": kv.total,
        "kv_bytes_by_kind": kv.by_kind(),
        "partial_bytes": kv.partial,
        "bytes_per_token": accounting.bytes_per_token(config, cache),
        "restart_point_bytes": accounting.restart_point_bytes(config, cache),
        "comparison": [_comparison(report, tokens) for tokens in _contexts(report)],
        "flops_per_token": flops.total,
        "flops_per_token_by_part": _parts(flops),
        "flops_per_token_fp8_equivalent": flops.fp8_equivalent,
        "flops_of_v32": flops.total / compared.total,
        "flops_of_v32_fp8_equivalent": flops.fp8_equivalent / compared.fp8_equivalent,
        "prefill_flops": accounting.prefill_flops(config, n).total,
        "fit": asdict(report.fit),
    }


def _layers(config: ModelConfig, kind: AttentionKind) -> int:
    return sum(config.kind(layer) is kind for layer in range(config.num_hidden_layers))


def _contexts(report: Report) -> list[int]:
    most = report.config.max_position_embeddings
    return sorted({report.context, *(tokens for tokens in _COMPARED if tokens <= most)})


def _comparison(report: Report, tokens: int) -> dict[str, float]:
    held = accounting.kv_bytes(report.config, tokens, report.cache).total
    v32, gqa8 = accounting.V32_BYTES_PER_TOKEN * tokens, accounting.gqa8_bytes_per_token() * tokens
    return {
        "context": tokens,
        "kv_bytes": held,
        "v32_bytes": v32,
        "gqa8_bytes": gqa8,
        "of_v32": held / v32,
        "of_gqa8": held / gqa8,
    }


def _parts(flops: Flops) -> dict[str, float]:
    return {"linear": flops.linear, "attention_core": flops.attention_core, "indexer": flops.indexer}


def as_json_text(report: Report) -> str:
    """One indented JSON object and a newline; ASCII."""
    return json.dumps(as_values(report), indent=2) + "\n"


def as_text(report: Report) -> str:
    """Tables for a terminal of 80 columns; plain where stdout is no terminal or NO_COLOR is set."""
    from rich.console import Console

    dumb = os.environ.get("TERM", "") in ("", "dumb")
    styled = sys.stdout.isatty() and not dumb and not os.environ.get("NO_COLOR")
    page = StringIO()
    console = Console(
        file=page,
        width=_WIDTH,
        force_terminal=styled,
        color_system="standard" if styled else None,
        markup=False,
        highlight=False,
        emoji=False,
        legacy_windows=False,
    )
    for part in _page(report, unicode=(sys.stdout.encoding or "").lower().startswith("utf")):
        console.print(part)
    return "\n".join(line.rstrip() for line in page.getvalue().splitlines()).strip("\n") + "\n"


def _page(report: Report, *, unicode: bool) -> Iterable[RenderableType]:
    from rich.text import Text

    config = report.config
    kinds = ", ".join(f"{count} {kind}" for kind in AttentionKind if (count := _layers(config, kind)))
    counted = accounting.parameters(config)
    yield Text("".join(c if c.isprintable() else "?" for c in report.name), style="bold")
    yield (
        f"{config.num_hidden_layers} layers ({kinds}), {config.n_routed_experts} experts of which "
        f"{config.num_experts_per_tok} a token, up to {config.max_position_embeddings:,} tokens"
    )
    drafts = f", {_billions(counted.mtp)} in draft stages" if counted.mtp else ""
    yield f"{_billions(counted.total)} parameters, {_billions(counted.active)} active a token{drafts}"
    yield _weights(report, unicode)
    yield from _stored_lines(report.stored)
    yield _kv(report, unicode)
    cache = report.cache
    yield (
        f"One more token: {accounting.bytes_per_token(config, cache):,.2f} bytes. "
        f"A restart point: {gigabytes(accounting.restart_point_bytes(config, cache))}."
    )
    if _is_comparable(config):
        yield _compared(report, unicode)
    yield _flops(report, unicode)
    prefill = accounting.prefill_flops(config, report.context).total
    yield f"\nReading {report.context:,} tokens: {_flop_text(prefill)}FLOP."
    yield Text(f"\nOn this machine: {_VERDICTS[report.fit.verdict]}", style="bold")
    yield from (fill(line, _WIDTH) for line in report.fit.reasons)
    if report.fit.advice:
        yield Text("\nAdvice", style="bold")
        yield from (fill(f"- {line}", _WIDTH, subsequent_indent="  ") for line in report.fit.advice)


def _is_comparable(config: ModelConfig) -> bool:
    """Whether the model plays in the league of those it is compared with; shares of a toy say nothing."""
    return config.max_position_embeddings >= _COMPARED[0]


def _table(title: str, *columns: str, unicode: bool) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(
        title=f"\n{title}",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD if unicode else box.ASCII,
        show_edge=False,
        pad_edge=False,
    )
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    return table


def _weights(report: Report, unicode: bool) -> Table:
    sizes, read = accounting.weight_bytes(report.config), accounting.weight_bytes_per_token(report.config)
    table = _table("Weights in the checkpoint's precision", "", "bytes", "read a token", unicode=unicode)
    for part, size in sizes.items():
        if size:
            table.add_row(_LABELS[part], gigabytes(size), gigabytes(read[part]) if part in read else "")
    table.add_row("total", gigabytes(sum(sizes.values())), gigabytes(sum(read.values())))
    table.add_row("one expert", gigabytes(accounting.expert_bytes(report.config)), "")
    return table


def _stored_lines(stored: StoredWeights | None) -> Iterable[str]:
    if stored is None:
        return
    line = f"In the folder: {stored.total:,} bytes of weights"
    if not stored.complete:
        line += f"; {len(stored.missing)} of {stored.files} files are absent or cut off"
    yield f"{line}."


def _kv(report: Report, unicode: bool) -> Table:
    kv = accounting.kv_bytes(report.config, report.context, report.cache)
    title = f"KV cache of {report.context:,} tokens in {report.cache.value}"
    table = _table(title, "", "bytes", unicode=unicode)
    labels = ("windows", "CSA entries", "HCA entries", "index keys")
    for label, size in zip(labels, kv.by_kind().values(), strict=True):
        table.add_row(label, gigabytes(size))
    table.add_row("total", gigabytes(kv.total))
    table.add_row("unfinished blocks (fp32), beside these", gigabytes(kv.partial))
    return table


def _compared(report: Report, unicode: bool) -> Table:
    columns = ("tokens", "this model", "V3.2", "GQA-8", "of V3.2", "of GQA-8")
    title = "KV cache beside V3.2 and bf16 GQA-8, 61 layers each"
    table = _table(title, *columns, unicode=unicode)
    for tokens in _contexts(report):
        row = _comparison(report, tokens)
        sizes = (gigabytes(row[key]) for key in ("kv_bytes", "v32_bytes", "gqa8_bytes"))
        shares = (f"{row[key]:.2%}" for key in ("of_v32", "of_gqa8"))
        table.add_row(f"{tokens:,}", *sizes, *shares)
    return table


def _flops(report: Report, unicode: bool) -> Table:
    compared = _is_comparable(report.config)
    columns = ("after tokens", "linear", "attention", "indexer", "sum")
    shares = ("of V3.2", "as FP8*") if compared else ()
    table = _table("FLOPs of one token", *columns, *shares, unicode=unicode)
    if compared:
        table.caption = "* share of V3.2 with bf16 attention counted double and FP4 half"
        table.caption_justify = "left"
    for tokens in _contexts(report):
        flops = accounting.flops_per_token(report.config, tokens)
        v32 = accounting.flops_per_token_v32(tokens)
        row = [_flop_text(part) for part in (*_parts(flops).values(), flops.total)]
        if compared:
            row += [f"{flops.total / v32.total:.1%}", f"{flops.fp8_equivalent / v32.fp8_equivalent:.1%}"]
        table.add_row(f"{tokens:,}", *row)
    return table


def _billions(count: int) -> str:
    return f"{count / 1e9:,.2f} B" if count >= 1e8 else f"{count / 1e6:,.2f} M"


def _flop_text(flops: float) -> str:
    for unit, factor in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9)):
        if flops >= factor:
            return f"{flops / factor:,.1f} {unit}"
    return f"{flops / 1e6:,.1f} M"
