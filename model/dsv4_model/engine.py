"""The loaded model: where it came from, its tokenizer, and new sequences over it."""

from __future__ import annotations

from collections.abc import Sequence as Ids
from pathlib import Path
from typing import Protocol

import torch

from dsv4_model.checkpoint import load_model
from dsv4_model.config import ModelConfig
from dsv4_model.sequence import (
    ContextOverflowError,
    PrefillCancelledError,
    Sequence,
    SequenceError,
    StopReason,
    SyncReport,
)
from dsv4_model.tokenizer import Tokenizer, TokenizerError
from dsv4_model.transformer import DeepseekV4

__all__ = [
    "NANO",
    "Constraint",
    "ContextOverflowError",
    "Engine",
    "EngineError",
    "PrefillCancelledError",
    "Sequence",
    "SequenceError",
    "StopReason",
    "SyncReport",
]

NANO = "nano"
_NANO_WEIGHTS = Path(__file__).parent / "nano" / "weights"


class EngineError(Exception):
    """A model can't be made ready. Carries a remedy."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem} {remedy}")
        self.remedy = remedy


class Constraint(Protocol):
    """A grammar over tokens: asked before each sample, told each sampled or forced id."""

    def allowed(self) -> Ids[int] | None:
        """The ids that may come next; None leaves all."""
        ...

    def accept(self, token_id: int) -> None:
        """The id that came."""
        ...


class Engine:
    """One model in memory. Immutable once loaded; sequences made from it own all changing state."""

    def __init__(self, model: DeepseekV4, tokenizer: Tokenizer, name: str) -> None:
        vocabulary = model.config.vocab_size
        if tokenizer.size > vocabulary:
            raise EngineError(
                f"The tokenizer {tokenizer.name} has {tokenizer.size} ids but the model has {vocabulary}.",
                "Use the tokenizer.json that belongs to these weights.",
            )
        self.model = model
        self.tokenizer = tokenizer
        self.name = name

    @classmethod
    def load(
        cls, source: str | Path, *, threads: int | None = None, dtype: torch.dtype = torch.float32
    ) -> Engine:
        """Load a checkpoint folder, or ``"nano"``, the built-in model.

        Args:
            source: ``"nano"`` or a folder with ``config.json``, weights and, unless its vocabulary is the
                released one, ``tokenizer.json``.
            threads: CPU threads for this process; None leaves PyTorch's choice.
            dtype: working dtype of the matrices.

        Raises:
            EngineError: the built-in weights are absent, or tokenizer and weights don't belong together.
            CheckpointError, ConfigError, TokenizerError: what is wrong with the folder.
        """
        if threads is not None:
            if threads < 1:
                raise EngineError(f"threads is {threads}.", "Choose at least 1.")
            torch.set_num_threads(threads)
        path = _NANO_WEIGHTS if source == NANO else Path(source)
        if source == NANO and not (path / "config.json").is_file():
            raise EngineError(
                f"The built-in model is missing: there is no {path / 'config.json'}.",
                "Reinstall dsv4-agent, or train it with `python -m dsv4_model.nano.train`.",
            )
        model = load_model(path, dtype=dtype)
        return cls(model, _tokenizer(path, model.config), NANO if source == NANO else path.resolve().name)

    @property
    def config(self) -> ModelConfig:
        """Sizes and constants of the model."""
        return self.model.config

    @property
    def context_window(self) -> int:
        """Most tokens that one sequence can hold."""
        return self.config.max_position_embeddings

    def sequence(self) -> Sequence:
        """A new, empty timeline."""
        return Sequence(self)


def _tokenizer(folder: Path, config: ModelConfig) -> Tokenizer:
    own = folder / "tokenizer.json"
    if own.is_file():
        return Tokenizer.from_file(own)
    if config.vocab_size < 129_280:  # the released vocabulary can't be this one's
        raise TokenizerError(
            f"{own} does not exist.", "Copy the tokenizer.json that belongs to these weights."
        )
    return Tokenizer.deepseek_v4()
