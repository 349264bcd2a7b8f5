"""Products with stored weights, each rounded as the model and the caller's wish for precision ask for."""

from __future__ import annotations

from torch import Tensor

from dsv4_model.kernels.gpu.matmul import Stack, multiply, round_activations
from dsv4_model.kernels.gpu.tuning import Tuning
from dsv4_model.matrix import Matrix, MatrixKind

__all__ = ["Products"]


class Products:
    """``rounds``: inputs take the FP8 round trip of the training. ``exact``: operands stay in fp32."""

    def __init__(self, tuning: Tuning, *, rounds: bool, exact: bool) -> None:
        self.tuning = tuning
        self.rounds = rounds
        self.exact = exact
        self._stacks: dict[int, Stack] = {}

    def linear(self, x: Tensor, matrix: Matrix) -> Tensor:
        """``x W^T`` for an ``x`` that the quantisation-aware training rounded."""
        if self.rounds:
            x = round_activations(x, self.tuning)
        return multiply(x, self.stack(matrix), self.tuning, exact=self.is_exact(matrix))

    def is_exact(self, matrix: Matrix) -> bool:
        """Weights in fp32 are an unquantised model's: rounding its activations would be a loss."""
        return self.exact or matrix.kind is MatrixKind.FP32

    def stack(self, matrix: Matrix) -> Stack:
        """The matrix as kernels find it."""
        found = self._stacks.get(id(matrix))
        if found is None:
            found = self._stacks[id(matrix)] = Stack.of((matrix,))
        return found
