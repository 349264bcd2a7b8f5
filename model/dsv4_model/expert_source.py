"""Weights of a checkpoint whose routed experts are streamed instead of mapped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Items
from typing import overload

import torch

from dsv4_model.checkpoint_reader import Checkpoint
from dsv4_model.config import ModelConfig
from dsv4_model.expert_store import ExpertStore
from dsv4_model.weights import CheckpointSource, ExpertWeights

__all__ = ["LayerExperts", "StreamedSource"]


class LayerExperts(Items[ExpertWeights]):
    """The routed experts of one layer, in memory only while they are used or as long as the budget lasts."""

    def __init__(self, store: ExpertStore, layer: int) -> None:
        self.store, self.layer = store, layer

    def __len__(self) -> int:
        return self.store.files.experts

    @overload
    def __getitem__(self, index: int) -> ExpertWeights: ...
    @overload
    def __getitem__(self, index: slice) -> Items[ExpertWeights]: ...
    def __getitem__(self, index: int | slice) -> ExpertWeights | Items[ExpertWeights]:
        """One expert, or a slice of them; see `several`."""
        found = range(len(self))[index]
        return self.several((found,))[0] if isinstance(found, int) else self.several(found)

    def several(self, experts: Iterable[int]) -> list[ExpertWeights]:
        """These experts, read side by side where they aren't in memory; they stay there while they are held.

        Raises:
            ExpertBudgetError: they don't fit beside what is held already.
            CheckpointError: a file can't be read.
        """
        return self.store.lease(self.layer, experts)

    def announce(self, experts: Iterable[int]) -> None:
        """Start reading what will soon be asked for."""
        self.store.announce(self.layer, experts)

    def announce_likely(self) -> None:
        """Start reading what will probably be asked for: the guess for a layer that routes by score."""
        self.store.announce(self.layer, self.store.likely(self.layer))

    def groups(self, experts: Iterable[int]) -> Iterator[list[tuple[int, ExpertWeights]]]:
        """See `ExpertStore.groups`."""
        return self.store.groups(self.layer, experts)


class StreamedSource(CheckpointSource):
    """All tensors mapped, but routed experts from a ``store`` that holds at most ``budget`` bytes of them.

    Whoever makes one closes its store, once nothing uses the weights any more.

    Raises:
        ConfigError, CheckpointError: what is wrong with the folder, as far as routed experts are concerned.
        ExpertBudgetError: ``budget`` is too small for one token, or can't be had on ``device``.
    """

    def __init__(
        self, checkpoint: Checkpoint, budget: int, *, device: torch.device | str = "cpu", readers: int = 2
    ) -> None:
        super().__init__(checkpoint)
        config = ModelConfig.from_file(checkpoint.path)
        self.store = ExpertStore(checkpoint, config, budget, device=device, readers=readers)

    def experts(self, prefix: str, config: ModelConfig) -> Items[ExpertWeights]:
        """The layer's experts, none of them read."""
        self._used.update(self.store.files.names(prefix))
        return LayerExperts(self.store, self.store.files.prefixes.index(prefix))
