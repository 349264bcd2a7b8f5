"""A weight matrix as it is stored: plain, in FP8 blocks, or packed FP4."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from dsv4_model.quantization import dequantize_fp4, dequantize_fp8_blocks

__all__ = ["Matrix", "MatrixKind"]


class MatrixKind(IntEnum):
    """Element storage; the numbers are shared with the native back end."""

    FP32 = 0
    BF16 = 1
    FP8 = 2
    FP4 = 3


@dataclass(frozen=True, slots=True, eq=False)
class Matrix:
    """``[rows, columns]``, used as ``y = x W^T``.

    FP32 and BF16: ``data [rows, columns]``. FP8: float8_e4m3fn with ``scale`` (float8_e8m0fnu)
    ``[ceil(rows / 128), ceil(columns / 128)]``. FP4: int8 ``[rows, columns / 2]``, the even element in the
    low nibble, with ``scale [rows, ceil(columns / 32)]``.
    """

    kind: MatrixKind
    data: Tensor
    scale: Tensor | None
    rows: int
    columns: int

    @classmethod
    def of(cls, weight: Tensor, scale: Tensor | None = None) -> Matrix:
        """Recognise the storage by the dtype of ``weight``; other floats become fp32."""
        weight = weight.detach().contiguous()
        rows, columns = weight.shape
        if scale is not None:
            scale = scale.detach().contiguous()
        match weight.dtype:
            case torch.float8_e4m3fn if scale is not None:
                return cls(MatrixKind.FP8, weight, scale, rows, columns)
            case torch.int8 | torch.uint8 if scale is not None:
                return cls(MatrixKind.FP4, weight, scale, rows, 2 * columns)
            case torch.bfloat16:
                return cls(MatrixKind.BF16, weight, None, rows, columns)
            case _:
                return cls(MatrixKind.FP32, weight.float(), None, rows, columns)

    @property
    def nbytes(self) -> int:
        """Bytes of weight and scale."""
        return self.data.nbytes + (0 if self.scale is None else self.scale.nbytes)

    def dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The values, ``[rows, columns]``; exact in fp32 and, for FP8 and FP4, in bf16."""
        match self.kind:
            case MatrixKind.FP8:
                assert self.scale is not None
                return dequantize_fp8_blocks(self.data, self.scale, dtype)
            case MatrixKind.FP4:
                assert self.scale is not None
                return dequantize_fp4(self.data, self.scale, dtype)
            case _:
                return self.data.to(dtype)

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """Weight, and scale if there is one."""
        return (self.data,) if self.scale is None else (self.data, self.scale)

    def map(self, function: Callable[[Tensor], Tensor]) -> Matrix:
        """The same matrix with ``function`` applied to weight and scale."""
        scale = None if self.scale is None else function(self.scale)
        return Matrix(self.kind, function(self.data), scale, self.rows, self.columns)

    def to(self, device: torch.device | str) -> Matrix:
        """The same matrix on another device."""
        return self.map(lambda tensor: tensor.to(device))
