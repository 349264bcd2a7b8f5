"""`dsv4 model export`: a checkpoint as a GGUF file for llama.cpp."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class ExportType(StrEnum):
    """`GgufType` of the model package, which isn't imported for a help text."""

    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    MXFP4 = "mxfp4"


def export(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A checkpoint folder, or nano.")],
    gguf: Annotated[Path, typer.Option("--gguf", metavar="FILE", help="The file to write.")],
    type: Annotated[
        ExportType,
        typer.Option("--type", help="What matrices are stored as; mxfp4: experts in FP4, the rest bf16."),
    ] = ExportType.F32,
    tokenizer: Annotated[
        Path | None, typer.Option("--tokenizer", help="A tokenizer.json; else the folder's own.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write a DeepSeek-V4 checkpoint as a GGUF file that llama.cpp runs."""
    try:
        line = _export(path, gguf, type, tokenizer, force)
    except _Refusal as refusal:
        from dsv4_agent.workbench.exit_codes import ExitCode

        print(f"dsv4: error: {_printable(str(refusal))}", file=sys.stderr)
        lacks_package = isinstance(refusal.__cause__, ImportError)
        raise typer.Exit(ExitCode.CONFIG if lacks_package else ExitCode.INPUT) from None
    print(_printable(line))


class _Refusal(Exception):
    """The one line that the user reads."""


def _export(path: str, file: Path, type: ExportType, tokenizer: Path | None, force: bool) -> str:
    try:
        from dsv4_model.checkpoint import CheckpointError
        from dsv4_model.config import ConfigError
        from dsv4_model.gguf_export import ExportError, GgufType, export_gguf
        from dsv4_model.nano import WEIGHTS
        from dsv4_model.tokenizer import TokenizerError
    except ImportError as error:
        raise _Refusal(
            f"exporting needs the export extra: pip install 'dsv4-agent[export]' ({error})"
        ) from error
    nano = path == "nano"
    try:
        report = export_gguf(
            WEIGHTS if nano else path,
            file,
            tokenizer=tokenizer,
            type=GgufType(type),
            force=force,
            name="V4-Nano" if nano else None,
        )
    except (CheckpointError, ConfigError, ExportError, TokenizerError) as error:
        raise _Refusal(str(error)) from error.__cause__ or error
    line = f"{report.file}: {report.size / 1e6:,.1f} MB, {report.tensors} tensors"
    if not report.exact_text:
        line += "; llama.cpp has no such text splitting: send prompts as token ids"
    return line


def _printable(text: str) -> str:
    """One line; paths and configuration values may hold anything, also what a terminal would obey."""
    line = "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
    encoding = sys.stdout.encoding or "utf-8"
    return line.encode(encoding, "replace").decode(encoding)
