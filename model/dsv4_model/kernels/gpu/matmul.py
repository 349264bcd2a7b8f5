"""Products with weights that stay as they are stored: FP32, BF16, FP8 in blocks, packed FP4."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from dsv4_model.kernels.gpu.numbers import (
    e2m1_value,
    e4m3_code,
    e4m3_value,
    fp8_exponent,
    narrow,
    power_of_two,
)
from dsv4_model.kernels.gpu.tuning import Tuning, block_of
from dsv4_model.matrix import Matrix, MatrixKind

__all__ = ["Grouping", "Stack", "multiply", "multiply_grouped", "round_activations"]

_FP8_BLOCK = 128
_FP4_GROUP = 32
_ACTIVATION_GROUP = 128


@dataclass(frozen=True, slots=True)
class Stack:
    """Equally shaped matrices of one kind, e.g. one of every expert: where each lies.

    ``table`` is int64 ``[count, 2]``: addresses of data and scale. ``kept`` keeps them alive.
    """

    table: Tensor
    kind: MatrixKind
    rows: int
    columns: int
    scale_columns: int
    kept: tuple[Matrix, ...]

    @classmethod
    def of(cls, matrices: tuple[Matrix, ...]) -> Stack:
        """Raises ValueError where they differ in kind or shape."""
        first = matrices[0]
        if any((m.kind, m.rows, m.columns) != (first.kind, first.rows, first.columns) for m in matrices):
            raise ValueError("the matrices of a stack must be of one kind and shape")
        where = [[m.data.data_ptr(), 0 if m.scale is None else m.scale.data_ptr()] for m in matrices]
        table = torch.tensor(where, dtype=torch.int64, device=first.data.device)
        wide = 0 if first.scale is None else first.scale.shape[1]
        return cls(table, first.kind, first.rows, first.columns, wide, matrices)


@dataclass(frozen=True, slots=True)
class Grouping:
    """(token, slot) pairs sorted by expert, cut into blocks of at most ``block`` pairs of one expert.

    ``order [pairs]`` says which pair each sorted place holds, ``tokens [pairs]`` whose it is. ``experts``,
    ``firsts`` and ``ends`` (int64, as many as there can be blocks) describe the blocks; expert -1: no block.
    """

    order: Tensor
    tokens: Tensor
    experts: Tensor
    firsts: Tensor
    ends: Tensor
    block: int

    @classmethod
    def of(cls, chosen: Tensor, count: int) -> Grouping:
        """Of ``chosen`` int64 ``[tokens, slots]`` among ``count`` experts; without waiting for the device."""
        slots = chosen.shape[1]
        flat = chosen.flatten()
        pairs = flat.numel()
        block = min(block_of(triton.cdiv(pairs, count), 16), 64)
        order = flat.argsort(stable=True)
        sizes = torch.zeros(count, dtype=torch.int64, device=flat.device)
        sizes.scatter_add_(0, flat, torch.ones_like(flat))
        firsts = sizes.cumsum(0) - sizes
        blocks = (sizes + block - 1) // block
        ends = blocks.cumsum(0)
        most = min(pairs, pairs // block + count)
        numbers = torch.arange(most, device=flat.device)
        owner = torch.searchsorted(ends, numbers, right=True)
        known = owner.clamp(max=count - 1)
        first = firsts[known] + (numbers - (ends - blocks)[known]) * block
        end = torch.minimum(firsts[known] + sizes[known], first + block)
        return cls(order, order // slots, torch.where(owner < count, owner, -1), first, end, block)


@triton.jit
def _aligned(address, TYPE: tl.constexpr):
    """A pointer. Unless the compiler is told that tensors are aligned, it loads each byte on its own."""
    return tl.multiple_of(address.to(tl.pointer_type(TYPE)), 16)


@triton.jit
def _tile(
    data,
    scale,
    row,
    valid,
    start,
    K,
    scale_columns,
    KIND: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """fp32 weights ``[BLOCK_K, rows]`` of a matrix that is not FP4."""
    k = start + tl.arange(0, BLOCK_K)
    mask = (k < K)[:, None] & valid[None, :]
    place = row[None, :] * K + k[:, None]
    if KIND == 0:
        w = tl.load(_aligned(data, tl.float32) + place, mask=mask, other=0.0)
    elif KIND == 1:
        w = tl.load(_aligned(data, tl.bfloat16) + place, mask=mask, other=0.0).to(tl.float32)
    else:
        codes = tl.load(_aligned(data, tl.uint8) + place, mask=mask, other=0)
        exponents = tl.load(
            _aligned(scale, tl.uint8) + (row // 128) * scale_columns + start // 128,
            mask=valid,
            other=1,
        )
        w = e4m3_value(codes) * power_of_two(exponents)[None, :]
    return w


@triton.jit
def _product(x, w, total, EXACT: tl.constexpr):
    return tl.dot(x, w, total, input_precision="tf32x3") if EXACT else tl.dot(narrow(x), narrow(w), total)


@triton.jit
def _multiply(
    x,
    y,
    table,
    gather,
    scatter,
    experts,
    firsts,
    ends,
    M,
    N,
    K,
    x_stride,
    y_stride,
    scale_columns,
    blocks_n,
    KIND: tl.constexpr,
    GROUPED: tl.constexpr,
    GATHER: tl.constexpr,
    SCATTER: tl.constexpr,
    EXACT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """``y = x W^T`` for one block of rows of ``x``, one of ``W``, one part of the inner dimension.

    The rows of ``W`` may come in independent groups of N, each with its own columns of ``x``.
    """
    part, split = tl.program_id(0), tl.program_id(2)
    if GROUPED:
        expert = tl.load(experts + tl.program_id(1))
        if expert < 0:
            return
        first = tl.load(firsts + tl.program_id(1))
        end = tl.load(ends + tl.program_id(1))
        table += 2 * expert
    else:
        first = tl.program_id(1).to(tl.int64) * BLOCK_M
        end = M
    data, scale = tl.load(table), tl.load(table + 1)
    place = first + tl.arange(0, BLOCK_M)
    present = place < end
    source = place
    if GATHER:
        source = tl.load(gather + place, mask=present, other=0)
    run = part // blocks_n
    n = (part % blocks_n) * BLOCK_N + tl.arange(0, BLOCK_N)
    valid = n < N
    row = (run * N + n).to(tl.int64)
    x += source[:, None] * x_stride + run * K
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    blocks_k = tl.cdiv(K, BLOCK_K)
    share = tl.cdiv(blocks_k, SPLITS)
    for block in range(split * share, tl.minimum((split + 1) * share, blocks_k)):
        if KIND == 3:
            # Even and odd channels apart: each packed byte is read once and nothing is interleaved.
            byte = block * (BLOCK_K // 2) + tl.arange(0, BLOCK_K // 2)
            # Even where K is odd enough to need a mask, this form of it lets loads stay wide.
            inside = byte < K // 2
            packed = tl.load(
                _aligned(data, tl.uint8) + row[None, :] * (K // 2) + byte[:, None],
                mask=inside[:, None] & valid[None, :],
                other=0,
            ).to(tl.int32)
            group = block * (BLOCK_K // 32) + tl.arange(0, BLOCK_K // 32)
            exponents = tl.load(
                _aligned(scale, tl.uint8) + row[None, :] * scale_columns + group[:, None],
                mask=(group < scale_columns)[:, None] & valid[None, :],
                other=1,
            )
            factor = tl.broadcast_to(power_of_two(exponents)[:, None, :], (BLOCK_K // 32, 16, BLOCK_N))
            factor = tl.reshape(factor, (BLOCK_K // 2, BLOCK_N))
            seen = present[:, None] & inside[None, :]
            even = tl.load(x + 2 * byte[None, :], mask=seen, other=0.0)
            odd = tl.load(x + 2 * byte[None, :] + 1, mask=seen, other=0.0)
            total = _product(even, e2m1_value(packed & 15) * factor, total, EXACT)
            total = _product(odd, e2m1_value(packed >> 4) * factor, total, EXACT)
        else:
            k = block * BLOCK_K + tl.arange(0, BLOCK_K)
            v = tl.load(x + k[None, :], mask=present[:, None] & (k < K)[None, :], other=0.0)
            w = _tile(data, scale, row, valid, block * BLOCK_K, K, scale_columns, KIND, BLOCK_K)
            total = _product(v, w, total, EXACT)
    target = place
    if SCATTER:
        target = tl.load(scatter + place, mask=present, other=0)
    target += split.to(tl.int64) * M
    tl.store(y + target[:, None] * y_stride + row[None, :], total, mask=present[:, None] & valid[None, :])


@triton.jit
def _round_activations(x, y, rows, N, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr, GROUP: tl.constexpr):
    r = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    n = tl.arange(0, BLOCK_N)
    mask = (r < rows)[:, None] & (n < N)[None, :]
    place = r[:, None] * N + n[None, :]
    v = tl.reshape(tl.load(x + place, mask=mask, other=0.0), (BLOCK_R, BLOCK_N // GROUP, GROUP))
    exponent = fp8_exponent(tl.max(tl.abs(v), 2))[:, :, None]
    v = tl.minimum(tl.maximum(v * power_of_two(254 - exponent), -448.0), 448.0)
    v = e4m3_value(e4m3_code(v)) * power_of_two(exponent)
    tl.store(y + place, tl.reshape(v, (BLOCK_R, BLOCK_N)), mask=mask)


def round_activations(x: Tensor, tuning: Tuning) -> Tensor:
    """``x [..., n]`` after the FP8 round trip in groups of 128 channels."""
    x = x.contiguous()
    y = torch.empty_like(x)
    n = x.shape[-1]
    rows = x.numel() // n
    _round_activations[(triton.cdiv(rows, tuning.tokens),)](
        x,
        y,
        rows,
        n,
        BLOCK_R=tuning.tokens,
        BLOCK_N=block_of(n, _ACTIVATION_GROUP),
        GROUP=_ACTIVATION_GROUP,
    )
    return y


def multiply(x: Tensor, stack: Stack, tuning: Tuning, *, exact: bool, groups: int = 1) -> Tensor:
    """fp32 ``x [..., groups * K]`` times the first matrix of ``stack``: ``[..., rows]``.

    ``groups``: runs of ``rows / groups`` weight rows, each for its own K columns of ``x``. ``exact``
    multiplies in fp32 (on tensor cores in three TF32 parts), else operands are rounded to bf16.
    """
    shape, x = x.shape, x.flatten(0, -2).contiguous()
    m, n, k = len(x), stack.rows // groups, stack.columns
    rows = 16 if m <= 16 else 32 if m <= 32 else 64
    columns, depth = tuning.matmul_columns, tuning.matmul_depth
    blocks_m, blocks_n = triton.cdiv(m, rows), triton.cdiv(n, columns)
    splits = _splits(blocks_m * blocks_n * groups, k, tuning)
    y = x.new_empty(splits, m, stack.rows)
    _multiply[(groups * blocks_n, blocks_m, splits)](
        x,
        y,
        stack.table,
        stack.table,
        stack.table,
        stack.table,
        stack.table,
        stack.table,
        m,
        n,
        k,
        x.shape[1],
        stack.rows,
        stack.scale_columns,
        blocks_n,
        KIND=int(stack.kind),
        GROUPED=False,
        GATHER=False,
        SCATTER=False,
        EXACT=exact,
        BLOCK_M=rows,
        BLOCK_N=columns,
        BLOCK_K=depth,
        SPLITS=splits,
        num_warps=4,
    )
    return (y[0] if splits == 1 else y.sum(0)).view(*shape[:-1], stack.rows)


def multiply_grouped(
    x: Tensor, stack: Stack, grouping: Grouping, tuning: Tuning, *, exact: bool, back: bool
) -> Tensor:
    """Each pair's row times its expert's matrix: fp32 ``[pairs, rows]``.

    With ``back`` the rows of ``x`` are pairs in sorted order and the result is in the order of pairs;
    without, ``x`` holds tokens and the result is sorted.
    """
    pairs, blocks_n = len(grouping.order), triton.cdiv(stack.rows, tuning.matmul_columns)
    splits = _splits(len(grouping.experts) * blocks_n, stack.columns, tuning)
    y = x.new_empty(splits, pairs, stack.rows)
    _multiply[(blocks_n, len(grouping.experts), splits)](
        x,
        y,
        stack.table,
        grouping.tokens,
        grouping.order,
        grouping.experts,
        grouping.firsts,
        grouping.ends,
        pairs,
        stack.rows,
        stack.columns,
        x.shape[1],
        stack.rows,
        stack.scale_columns,
        blocks_n,
        KIND=int(stack.kind),
        GROUPED=True,
        GATHER=not back,
        SCATTER=back,
        EXACT=exact,
        BLOCK_M=grouping.block,
        BLOCK_N=tuning.matmul_columns,
        BLOCK_K=tuning.matmul_depth,
        SPLITS=splits,
        num_warps=4,
    )
    return y[0] if splits == 1 else y.sum(0)


def _splits(programs: int, depth: int, tuning: Tuning) -> int:
    """How many parts the inner dimension is cut into so that the device has enough programs."""
    most = max(1, depth // (4 * tuning.matmul_depth))
    return max(1, min(tuning.programs // max(programs, 1), most, 16))
