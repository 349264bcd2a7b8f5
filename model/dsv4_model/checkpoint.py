"""Checkpoints of DeepSeek-V4 in the official format: open, load into a model, save."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from dsv4_model.checkpoint_reader import (
    Checkpoint,
    CheckpointError,
    TensorInfo,
    open_checkpoint,
    scale_name_of,
)
from dsv4_model.checkpoint_writer import save_checkpoint
from dsv4_model.config import ModelConfig
from dsv4_model.transformer import DeepseekV4

__all__ = ["Checkpoint", "CheckpointError", "TensorInfo", "load_model", "open_checkpoint", "save_checkpoint"]


def load_model(path: str | Path, dtype: torch.dtype = torch.float32, with_mtp: bool = False) -> DeepseekV4:
    """Build the model that ``config.json`` describes and fill it from the checkpoint in the same folder.

    Every name, shape and stored dtype is checked before memory for the weights is taken. Draft tensors
    (``mtp.*``) that the model doesn't use are skipped; any other unknown tensor is an error.

    Args:
        path: checkpoint folder.
        dtype: working dtype of the matrices; what the model keeps in fp32 stays fp32.
        with_mtp: also load the draft block.

    Raises:
        ConfigError: ``config.json`` describes something this engine can't run.
        CheckpointError: anything wrong with the weights; names file, tensor and remedy.
    """
    checkpoint = open_checkpoint(path)
    file = checkpoint.path / "config.json"
    if not file.is_file():
        raise CheckpointError("is missing.", "Copy it from the model's repository.", file=file)
    config = ModelConfig.from_file(file)
    _check_sizes(checkpoint, config)
    with torch.device("meta"):
        model = DeepseekV4(config, dtype=dtype, with_mtp=with_mtp)
    expected = model.state_dict()
    _check_names(checkpoint, expected)
    for name, target in expected.items():
        checkpoint.check(name, target.dtype, tuple(target.shape))
    weights = {
        name: _checked(checkpoint, config, name, target).to(target.dtype, copy=True)
        for name, target in expected.items()
    }
    model.load_state_dict(weights, assign=True)
    return model.eval()


def _check_sizes(checkpoint: Checkpoint, config: ModelConfig) -> None:
    """The sizes that decide how much there is to build, before a corrupt digit makes us build a giant."""
    checkpoint.check("embed.weight", torch.float32, (config.vocab_size, config.hidden_size))
    gate = (config.n_routed_experts, config.hidden_size)
    checkpoint.check("layers.0.ffn.gate.weight", torch.float32, gate)


def _check_names(checkpoint: Checkpoint, expected: Iterable[str]) -> None:
    wanted = set(expected)
    for name in sorted(wanted):
        checkpoint.info(name)
    scales = {scale_name_of(name) for name in wanted if name.endswith(".weight")}
    for name in sorted(set(checkpoint.tensors) - wanted - scales):
        if not name.startswith("mtp."):
            raise CheckpointError(
                "the model described by config.json has no such tensor.",
                "config.json and weights belong to different models; take both from one place.",
                file=checkpoint.tensors[name].file,
                tensor=name,
            )


def _checked(checkpoint: Checkpoint, config: ModelConfig, name: str, target: Tensor) -> Tensor:
    value = checkpoint.tensor(name, target.dtype, tuple(target.shape))
    if not value.is_floating_point() and value.numel():
        low, high = int(value.min()), int(value.max())
        if low < 0 or high >= config.n_routed_experts:
            raise CheckpointError(
                f"names expert {low if low < 0 else high}, but there are {config.n_routed_experts}.",
                "The file is corrupt; download it again.",
                file=checkpoint.info(name).file,
                tensor=name,
            )
    return value
