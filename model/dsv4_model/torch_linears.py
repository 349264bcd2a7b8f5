"""Products with stored matrices in PyTorch, wherever the matrix lies."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from dsv4_model.matrix import Matrix
from dsv4_model.quantization import fp8_round_trip

__all__ = ["TorchLinears"]

_ACTIVATION_GROUP = 128


class TorchLinears:
    """``rounds``: inputs of a quantised model take the FP8 round trip of its training."""

    def __init__(self, *, rounds: bool) -> None:
        self.rounds = rounds
        self._dense: dict[int, Tensor] = {}

    def __call__(self, x: Tensor, matrix: Matrix, *, rounds: bool = False, keep: bool = True) -> Tensor:
        """``x W^T``; ``rounds``: the input is one that the quantisation-aware training rounded.

        ``keep`` the matrix expanded for the next time.
        """
        if rounds and self.rounds:
            x = fp8_round_trip(x, _ACTIVATION_GROUP)
        return F.linear(x, self.expanded(matrix) if keep else matrix.dense())

    def expanded(self, matrix: Matrix) -> Tensor:
        """The matrix in fp32, from now on kept."""
        found = self._dense.get(id(matrix))
        if found is None:
            found = self._dense[id(matrix)] = matrix.dense()
        return found
