from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dsv4_model.quantization import (
    dequantize_fp4,
    dequantize_fp8_blocks,
    fp4_round_trip,
    fp8_round_trip,
    hadamard,
    pack_fp4,
    pow2ceil,
    quantize_fp4,
    quantize_fp8_blocks,
    round_to_e2m1,
    unpack_fp4,
)
from tests.fixtures_path import SHARED


@pytest.fixture(scope="module")
def vectors() -> dict[str, Tensor]:
    if SHARED is None:
        pytest.skip("shared fixtures are not present")
    return load_file(SHARED / "golden_tiny" / "unit_vectors.safetensors")


def random(*shape: int, seed: int = 0) -> Tensor:
    spread = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=spread) * torch.exp2(torch.randn(*shape, generator=spread) * 4)


def test_reference_vectors_fp8(vectors: dict[str, Tensor]) -> None:
    assert torch.equal(fp8_round_trip(vectors["act_in"], 64), vectors["act64_ue8m0_roundtrip"])
    codes = vectors["act128_q_u8"].view(torch.float8_e4m3fn).float().reshape(6, 4, 128)
    expected = (codes * vectors["act128_scale_f32"][..., None]).reshape(6, 512)
    assert torch.equal(fp8_round_trip(vectors["act_in"].float(), 128), expected)


def test_reference_vectors_fp4_and_hadamard(vectors: dict[str, Tensor]) -> None:
    assert torch.equal(hadamard(vectors["had_in"]), vectors["had_out"])
    assert torch.equal(fp4_round_trip(vectors["had_out"]), vectors["fp4_roundtrip_of_had_out"])
    assert torch.equal(round_to_e2m1(vectors["e2m1_in"].clamp(-6, 6)), vectors["e2m1_rne"])


def test_pow2ceil_at_and_around_every_power() -> None:
    powers = torch.exp2(torch.arange(-120, 121, dtype=torch.float64)).float()
    above = torch.nextafter(powers, torch.tensor(torch.inf))
    below = torch.nextafter(powers, torch.tensor(0.0))
    assert torch.equal(pow2ceil(powers), powers)
    assert torch.equal(pow2ceil(above), 2 * powers)
    assert torch.equal(pow2ceil(below), powers)


def test_e2m1_ties_go_to_the_even_code() -> None:
    given = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, -0.25, -5.0, 0.2500001, 4.9999995])
    expected = torch.tensor([0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0, -0.0, -4.0, 0.5, 4.0])
    rounded = round_to_e2m1(given)
    assert torch.equal(rounded, expected)
    assert torch.equal(torch.signbit(rounded), torch.signbit(expected))


def test_every_packed_byte_survives_and_the_low_nibble_comes_first() -> None:
    every = torch.arange(256, dtype=torch.int16).to(torch.uint8).view(torch.int8).reshape(2, 128)
    assert torch.equal(pack_fp4(unpack_fp4(every)), every)
    assert unpack_fp4(torch.tensor([0x71], dtype=torch.int8)).tolist() == [0.5, 6.0]
    assert unpack_fp4(torch.tensor([-0x80], dtype=torch.int8)).tolist() == [0.0, 0.0]
    assert math.copysign(1, unpack_fp4(torch.tensor([-0x80], dtype=torch.int8))[1]) == -1


@pytest.mark.parametrize("shape", [(128, 128), (200, 130), (1, 2), (129, 257)])
def test_fp8_weights_come_back_within_rounding_and_then_exactly(shape: tuple[int, int]) -> None:
    weight = random(*shape)
    stored, scale = quantize_fp8_blocks(weight)
    assert stored.dtype == torch.float8_e4m3fn and stored.shape == shape
    assert scale.dtype == torch.float8_e8m0fnu
    assert scale.shape == (-(-shape[0] // 128), -(-shape[1] // 128))
    back = dequantize_fp8_blocks(stored, scale, torch.float32)
    grid = scale.float().repeat_interleave(128, 0).repeat_interleave(128, 1)[: shape[0], : shape[1]]
    # e4m3: half a step is 2^-4 of a normal value, or half of 2^-9 scales below the normal range
    assert torch.all((back - weight).abs() <= weight.abs() * 2**-4 + grid * 2**-10)
    again = dequantize_fp8_blocks(*quantize_fp8_blocks(back), torch.float32)
    assert torch.equal(again, back)
    assert torch.equal(dequantize_fp8_blocks(stored, scale, torch.bfloat16).float(), back)


@pytest.mark.parametrize("shape", [(3, 64), (5, 130), (2, 2)])
def test_fp4_weights_come_back_within_rounding_and_then_exactly(shape: tuple[int, int]) -> None:
    weight = random(*shape)
    packed, scale = quantize_fp4(weight)
    assert packed.dtype == torch.int8 and packed.shape == (shape[0], shape[1] // 2)
    assert scale.shape == (shape[0], -(-shape[1] // 32))
    back = dequantize_fp4(packed, scale, torch.float32)
    grid = scale.float().repeat_interleave(32, 1)[:, : shape[1]]
    assert torch.all((back - weight).abs() <= torch.maximum(weight.abs() / 4, grid / 4))
    assert torch.equal(dequantize_fp4(*quantize_fp4(back), torch.float32), back)
    assert torch.equal(fp4_round_trip(weight), back)


def test_all_zero_weights_stay_zero() -> None:
    zero = torch.zeros(130, 64)
    assert torch.equal(dequantize_fp8_blocks(*quantize_fp8_blocks(zero), torch.float32), zero)
    assert torch.equal(dequantize_fp4(*quantize_fp4(zero), torch.float32), zero)


def test_groups_are_independent_and_the_last_may_be_short() -> None:
    x = torch.cat((torch.full((1, 64), 1e3), torch.full((1, 20), 1e-2)), -1)
    rounded = fp8_round_trip(x, 64)
    assert rounded.shape == x.shape
    assert torch.allclose(rounded[:, 64:], x[:, 64:], rtol=2**-4)
    assert fp8_round_trip(x.bfloat16(), 64).dtype == torch.bfloat16


def test_round_trips_pass_gradients_straight_through() -> None:
    for function in (lambda t: fp8_round_trip(t, 64), fp4_round_trip):
        x = random(2, 128).requires_grad_()
        weights = random(2, 128, seed=1)
        torch.autograd.backward((function(x) * weights).sum())
        assert x.grad is not None and torch.equal(x.grad, weights)


@pytest.mark.parametrize("n", [1, 2, 64, 128])
def test_hadamard_is_the_sylvester_matrix_and_its_own_inverse(n: int) -> None:
    matrix = torch.ones(1, 1)
    while matrix.shape[0] < n:
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)), 0)
    x = torch.randn(3, n, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(hadamard(x), x @ matrix / math.sqrt(n), atol=1e-5)
    assert torch.allclose(hadamard(hadamard(x)), x, atol=1e-5)


def test_hadamard_refuses_other_sizes() -> None:
    with pytest.raises(ValueError, match="power of two, not 96"):
        hadamard(torch.zeros(2, 96))
