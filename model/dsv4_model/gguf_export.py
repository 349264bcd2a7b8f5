"""Write a DeepSeek-V4 checkpoint as a GGUF file, for llama.cpp and the servers built on it.

A second engine with the same weights is an independent check of this one, and lets users of llama.cpp run
what was trained here. The draft block (``mtp.*``) is left out.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from dsv4_model.checkpoint_reader import INDEX_NAME, open_checkpoint
from dsv4_model.config import ModelConfig
from dsv4_model.gguf_metadata import (
    ARCHITECTURE,
    Vocabulary,
    definition_of,
    vocabulary,
    write_hyperparameters,
    write_tokenizer,
)
from dsv4_model.gguf_tensors import (
    ExportError,
    GgufTensor,
    GgufType,
    Weights,
    array_of,
    check_servable,
    plan,
    weights_of,
)
from dsv4_model.tokenizer import Tokenizer, find_tokenizer
from dsv4_model.transformer import DeepseekV4

if TYPE_CHECKING:
    from gguf import GGUFWriter

__all__ = ["ExportError", "ExportReport", "GgufType", "export_gguf"]

_RELEASED_VOCABULARY = 129_280
_METADATA_ROOM = 16_000_000  # tokens, merges and headers of the largest vocabulary, generously


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written.

    Attributes:
        file: the finished file.
        size: its bytes.
        tensors: how many it holds.
        exact_text: whether llama.cpp will split text exactly as this project's tokenizer does. If not, the
            ids are the same but prompts should be sent as token ids rather than text.
    """

    file: Path
    size: int
    tensors: int
    exact_text: bool


def export_gguf(
    source: str | Path | DeepseekV4,
    target: str | Path,
    *,
    tokenizer: str | Path | None = None,
    type: GgufType = GgufType.F32,
    force: bool = False,
    name: str | None = None,
) -> ExportReport:
    """Write ``source`` as the GGUF file ``target``, which appears whole or not at all.

    Tensors are read, converted and written one at a time, so memory stays at the size of the largest.

    Args:
        source: checkpoint folder in the official format, or a model in memory.
        target: file to create.
        tokenizer: ``tokenizer.json``; None takes the folder's own, or the released one where it fits.
        type: what the large matrices are stored as.
        force: replace an existing file; never a device, nor a file of the source.
        name: ``general.name`` of the file; None takes the folder's.

    Raises:
        ExportError: no gguf package, a target that exists or can't be written, a shape llama.cpp can't run.
        CheckpointError, ConfigError, TokenizerError: what is wrong with the source.
    """
    target = Path(os.path.realpath(target))  # a link stays a link
    _check_target(target, force)
    if isinstance(source, DeepseekV4):
        config, weights, folder = source.config, weights_of(source), None
    else:
        folder = Path(source)
        checkpoint = open_checkpoint(folder)
        own = {*checkpoint.files, *(folder / name for name in (INDEX_NAME, "config.json", "tokenizer.json"))}
        _check_apart(target, own)
        weights = weights_of(checkpoint)
        config = ModelConfig.from_file(folder)
    check_servable(config)
    tensors = plan(config, type)
    for tensor in tensors:
        for part in tensor.sources:
            weights.check(part, tensor.shape[1:] if len(tensor.shape) == 3 else tensor.shape)
    if tokenizer is not None:
        _check_apart(target, {Path(tokenizer)})
    words = _vocabulary(tokenizer, folder, config)
    _check_space(target, tensors)
    label = name or (folder.resolve().name if folder is not None else "dsv4")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        _write(temporary, config, words, tensors, weights, type, label)
        _put_in_place(temporary, target, force)
    except OSError as error:
        raise _unwritable(target, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return ExportReport(target, target.stat().st_size, len(tensors), words.exact)


def _check_target(target: Path, force: bool) -> None:
    if target.is_dir():
        raise ExportError(f"{target} is a folder.", "Give the name of a file to write.")
    if target.exists() and not target.is_file():  # replacing a device would take it from every program
        raise ExportError(f"{target} is a device or a pipe.", "Give the name of a file to write.")
    if target.exists() and not force:
        raise ExportError(f"{target} exists already.", "Choose another name, or replace it with --force.")
    if not target.parent.is_dir():
        raise ExportError(f"there is no folder {target.parent}.", "Create it first.")


def _check_apart(target: Path, sources: Iterable[Path]) -> None:
    if target in {source.resolve() for source in sources}:
        problem = f"{target} belongs to the model that is to be exported."
        raise ExportError(problem, "Choose another name: it would be lost.")


def _check_space(target: Path, tensors: list[GgufTensor]) -> None:
    needed = sum(tensor.nbytes for tensor in tensors) + _METADATA_ROOM
    free = shutil.disk_usage(target.parent).free
    if needed > free:
        folder = target.parent.resolve()
        raise ExportError(
            f"the file needs {needed / 1e9:,.2f} GB, but {folder} has {free / 1e9:,.2f} GB free.",
            "Free some space, choose another folder, or a smaller type.",
        )


def _vocabulary(tokenizer: str | Path | None, folder: Path | None, config: ModelConfig) -> Vocabulary:
    if tokenizer is not None:
        path = Path(tokenizer)
    elif folder is not None and (folder / "tokenizer.json").is_file():
        path = folder / "tokenizer.json"
    elif config.vocab_size >= _RELEASED_VOCABULARY:
        path = find_tokenizer(folder)
    else:
        raise ExportError(
            f"{folder or 'the model'} has no tokenizer.json.", "Give the one that belongs to these weights."
        )
    Tokenizer.from_file(path)  # names everything that could be wrong with it
    return vocabulary(definition_of(path.read_text(encoding="utf-8")), config.vocab_size)


def _write(
    file: Path,
    config: ModelConfig,
    words: Vocabulary,
    tensors: list[GgufTensor],
    weights: Weights,
    precision: GgufType,
    label: str,
) -> None:
    gguf = _package()
    writer: GGUFWriter = gguf.GGUFWriter(file, ARCHITECTURE)
    try:
        writer.add_name(label)
        writer.add_file_type(gguf.LlamaFileType[_FILE_TYPES[precision]])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        write_hyperparameters(writer, config)
        write_tokenizer(writer, words, config)
        for tensor in tensors:
            kind = gguf.GGMLQuantizationType[tensor.type]
            writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.nbytes, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors:
            writer.write_tensor_data(array_of(tensor, weights))
    finally:
        writer.close()


_FILE_TYPES = {
    GgufType.F32: "ALL_F32",
    GgufType.F16: "MOSTLY_F16",
    GgufType.BF16: "MOSTLY_BF16",
    GgufType.MXFP4: "MOSTLY_MXFP4_MOE",
}


def _package() -> ModuleType:
    try:
        import gguf
    except ImportError as error:
        raise ExportError(
            f"the gguf package can't be imported ({error}).", "pip install 'dsv4-agent[export]'"
        ) from error
    return gguf


def _put_in_place(temporary: Path, target: Path, force: bool) -> None:
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
    if force:
        temporary.replace(target)
        return
    try:
        os.link(temporary, target)  # unlike a rename, never replaces what appeared meanwhile
    except FileExistsError:
        _check_target(target, force)
    except OSError:  # a file system without links
        _check_target(target, force)
        temporary.replace(target)


def _unwritable(target: Path, error: OSError) -> ExportError:
    # numpy reports a short write without an error number; nothing but a full disk is known to cause one.
    full = error.errno in (None, errno.ENOSPC, errno.EDQUOT)
    reason = "the disk is full" if full else (error.strerror or str(error))
    return ExportError(
        f"{target} can't be written: {reason}.",
        "Free some space or choose another folder; nothing was left behind."
        if full
        else "Check the folder's permissions; nothing was left behind.",
    )
