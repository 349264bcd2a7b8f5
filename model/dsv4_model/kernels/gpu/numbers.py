"""Number formats inside kernels, by integer arithmetic: bit for bit what `dsv4_model.quantization` computes.

No hardware conversion is used, so that the same code serves GPUs without FP8 units and the interpreter.
"""

from __future__ import annotations

import os

import triton
import triton.language as tl

__all__ = [
    "bf16_bits",
    "e2m1_code",
    "e2m1_value",
    "e4m3_code",
    "e4m3_value",
    "fp4_exponent",
    "fp8_exponent",
    "hadamard",
    "narrow",
    "ordered_key",
    "power_of_two",
]

_INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")
# Adding 2^23 to a number in 0 .. 2^22 leaves it, rounded to nearest even, in the low bits.
_ROUNDER = tl.constexpr(8388608.0)


@triton.jit
def power_of_two(exponent):
    """fp32 ``2 ** (exponent - 127)`` of an int32 in 1 .. 254."""
    return (exponent.to(tl.int32) << 23).to(tl.float32, bitcast=True)


@triton.jit
def bf16_bits(x):
    """uint16 patterns of fp32 as bf16, to nearest even: conversions of the interpreter truncate."""
    bits = x.to(tl.int32, bitcast=True)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).to(tl.uint16)


@triton.jit
def narrow(x):
    """fp32 as bf16, for a product. In the interpreter, whose bf16 products are wrong, as equal fp32."""
    equal = (bf16_bits(x).to(tl.int32) << 16).to(tl.float32, bitcast=True)
    return equal if _INTERPRETED else x.to(tl.bfloat16)


@triton.jit
def e4m3_value(code):
    """fp32 of uint8 codes."""
    code = code.to(tl.int32)
    size = code & 0x7F
    normal = ((size << 20) + (120 << 23)).to(tl.float32, bitcast=True)
    value = tl.where(size < 8, size.to(tl.float32) * 0.001953125, normal)
    return tl.where(code >= 128, -value, value)


@triton.jit
def e4m3_code(x):
    """uint8 codes of fp32 in -448 .. 448, to nearest even."""
    bits = x.to(tl.int32, bitcast=True)
    size = bits & 0x7FFFFFFF
    normal = ((size + 0x7FFFF + ((size >> 20) & 1)) >> 20) - (120 << 3)
    a = tl.abs(x)
    small = (a * 512.0 + _ROUNDER).to(tl.int32, bitcast=True) & 0xFF
    code = tl.where(a < 0.015625, small, normal)
    return (code | ((bits >> 24) & 0x80)).to(tl.uint8)


@triton.jit
def e2m1_value(code):
    """fp32 of codes in 0 .. 15 (int32)."""
    size = code & 7
    normal = (((size >> 1) + 126) << 23 | (size & 1) << 22).to(tl.float32, bitcast=True)
    value = tl.where(size < 2, size.to(tl.float32) * 0.5, normal)
    return tl.where(code >= 8, -value, value)


@triton.jit
def e2m1_code(x):
    """int32 codes of fp32 in -6 .. 6, to nearest even."""
    a = tl.abs(x)
    fine = (a * 2.0 + _ROUNDER).to(tl.int32, bitcast=True) & 0xFF
    middle = (a + _ROUNDER).to(tl.int32, bitcast=True) & 0xFF
    coarse = (a * 0.5 + _ROUNDER).to(tl.int32, bitcast=True) & 0xFF
    code = tl.where(a <= 2.0, fine, tl.where(a <= 4.0, middle + 2, coarse + 4))
    return code | ((x.to(tl.int32, bitcast=True) >> 28) & 8)


@triton.jit
def fp8_exponent(amax):
    """Biased exponent (int32) of the scale of an FP8 group whose largest magnitude is ``amax``."""
    bits = (tl.maximum(amax, 1e-4) * 0.002232142857142857).to(tl.int32, bitcast=True)
    return (bits >> 23) + ((bits & 0x7FFFFF) != 0).to(tl.int32)


@triton.jit
def fp4_exponent(amax):
    """The same for an FP4 group: the smallest power of two >= amax / 6, without dividing."""
    bits = amax.to(tl.int32, bitcast=True)
    exponent = (bits >> 23) + ((bits & 0x7FFFFF) > 0x400000).to(tl.int32) - 2
    return tl.maximum(exponent, 1)


@triton.jit
def _butterflies(x, ROWS: tl.constexpr, SIZE: tl.constexpr, STEP: tl.constexpr):
    halves = tl.permute(tl.reshape(x, (ROWS, SIZE // (2 * STEP), 2, STEP)), (0, 1, 3, 2))
    a, b = tl.split(halves)
    return tl.reshape(tl.permute(tl.join(a + b, a - b), (0, 1, 3, 2)), (ROWS, SIZE))


@triton.jit
def hadamard(x, ROWS: tl.constexpr, SIZE: tl.constexpr, STEPS: tl.constexpr):
    """Walsh-Hadamard transform of ``[ROWS, SIZE]`` along the last axis; ``SIZE`` is ``2 ** STEPS``.

    The additions happen in the order of the reference, so that rounding to FP4 afterwards agrees.
    """
    for i in tl.static_range(0, STEPS):
        x = _butterflies(x, ROWS, SIZE, 1 << i)
    return x


@triton.jit
def ordered_key(score, number):
    """int64 keys whose order is: higher score, then lower ``number``."""
    score = tl.where(score == 0.0, 0.0, score)  # -0 and 0 are equal
    bits = score.to(tl.int32, bitcast=True)
    rising = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return (rising.to(tl.int64) << 32) | (0x7FFFFFFF - number.to(tl.int64))
