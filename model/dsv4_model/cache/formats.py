"""How cache entries are stored (section 3.2 of the dossier): plain floats, or FP8 rows and FP4 index keys.

A *row* is one rotated KV vector, of the window or compressed. A *key block* holds the index keys of one page
of one layer, channels first and keys last, so that a scan reads whole vectors of neighbouring keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from dsv4_model.accounting import CacheFormat
from dsv4_model.config import ConfigError, ModelConfig
from dsv4_model.quantization import FP4_GROUP, FP4_MAX, FP8_MAX, pow2ceil, round_to_e2m1, unpack_fp4

__all__ = ["KEYS_PER_PAGE", "PAGE_TOKENS", "CacheFormat", "KeyFormat", "RowFormat", "Storage"]

PAGE_TOKENS = 128
"""Tokens of a page: the least common multiple of the two compression ratios."""
KEYS_PER_PAGE = 32
KV_GROUP = 64
_ROW_ALIGNMENT = 8


class Storage(IntEnum):
    """Element storage; the numbers are shared with the native back end."""

    FP32 = 0
    BF16 = 1
    FP8 = 2
    FP4 = 3


_ROWS = {
    CacheFormat.FP32: Storage.FP32,
    CacheFormat.BF16: Storage.BF16,
    CacheFormat.FP8: Storage.FP8,
    CacheFormat.FP8_FP4: Storage.FP8,
}
_KEYS = {
    CacheFormat.FP32: Storage.FP32,
    CacheFormat.BF16: Storage.BF16,
    CacheFormat.FP8: Storage.FP8,
    CacheFormat.FP8_FP4: Storage.FP4,
}
_DTYPES = {Storage.FP32: torch.float32, Storage.BF16: torch.bfloat16}


@dataclass(frozen=True, slots=True)
class RowFormat:
    """Rows of ``size`` channels, the last ``rotary`` of which are never quantised.

    FP8: ``size - rotary`` e4m3 bytes, ``rotary`` bf16, one ue8m0 scale a group of 64, padded to 8 bytes: 584
    bytes at the released 512 channels.
    """

    storage: Storage
    size: int
    rotary: int

    @property
    def groups(self) -> int:
        """Scales of one FP8 row."""
        return -(-(self.size - self.rotary) // KV_GROUP)

    @property
    def nbytes(self) -> int:
        """Bytes of one row."""
        if self.storage is Storage.FP8:
            raw = self.size - self.rotary + 2 * self.rotary + self.groups
            return -(-raw // _ROW_ALIGNMENT) * _ROW_ALIGNMENT
        return self.size * _DTYPES[self.storage].itemsize

    def encode(self, rows: Tensor) -> Tensor:
        """fp32 ``[..., size]`` to uint8 ``[..., nbytes]``."""
        rows = rows.float()
        if self.storage is not Storage.FP8:
            return rows.to(_DTYPES[self.storage]).contiguous().view(torch.uint8)
        plain, rotary = rows[..., : -self.rotary], rows[..., -self.rotary :]
        codes, scales = _fp8_groups(plain, KV_GROUP)
        parts = [codes.view(torch.uint8), rotary.to(torch.bfloat16).contiguous().view(torch.uint8), scales]
        used = sum(part.shape[-1] for part in parts)
        if used < self.nbytes:
            parts.append(scales.new_zeros(*scales.shape[:-1], self.nbytes - used))
        return torch.cat(parts, -1)

    def decode(self, stored: Tensor) -> Tensor:
        """The inverse of `encode`: uint8 ``[..., nbytes]`` to fp32 ``[..., size]``."""
        if self.storage is not Storage.FP8:
            return stored.contiguous().view(_DTYPES[self.storage]).float()
        plain = self.size - self.rotary
        codes = stored[..., :plain].contiguous().view(torch.float8_e4m3fn).float()
        rotary = stored[..., plain : plain + 2 * self.rotary].contiguous().view(torch.bfloat16).float()
        start = plain + 2 * self.rotary
        scales = _from_exponents(stored[..., start : start + self.groups])
        grid = scales.repeat_interleave(KV_GROUP, -1)[..., :plain]
        return torch.cat((codes * grid, rotary), -1)


@dataclass(frozen=True, slots=True)
class KeyFormat:
    """Blocks of 32 index keys of ``size`` channels, channels first.

    FP4 (68 bytes a key at 128 channels): for each four channels 64 bytes, byte ``4 i + c`` holding channel c
    of key i in the low and of key 16 + i in the high nibble; then one ue8m0 scale a group of 32 channels and
    key. FP8 (132): e4m3 ``[size, 32]``, then one fp32 scale a key.
    """

    storage: Storage
    size: int

    @property
    def rotated(self) -> bool:
        """Whether keys and queries take the Hadamard transform: only it makes coarse storage benign."""
        return self.storage in (Storage.FP8, Storage.FP4)

    @property
    def nbytes(self) -> int:
        """Bytes of a block of 32 keys."""
        match self.storage:
            case Storage.FP4:
                return KEYS_PER_PAGE * (self.size // 2 + self.size // FP4_GROUP)
            case Storage.FP8:
                return KEYS_PER_PAGE * (self.size + 4)
            case _:
                return KEYS_PER_PAGE * self.size * _DTYPES[self.storage].itemsize

    def encode(self, keys: Tensor) -> Tensor:
        """fp32 ``[blocks, 32, size]`` (already Hadamard-transformed) to uint8 ``[blocks, nbytes]``."""
        keys = keys.float()
        blocks = keys.shape[0]
        match self.storage:
            case Storage.FP4:
                codes, scales = _fp4_codes(keys)
                # [blocks, half, i, quad, c] -> [blocks, quad, i, c, half]
                codes = codes.view(blocks, 2, 16, self.size // 4, 4).permute(0, 3, 2, 4, 1)
                packed = codes[..., 0] | (codes[..., 1] << 4)
                return torch.cat((packed.reshape(blocks, -1), scales.transpose(1, 2).reshape(blocks, -1)), 1)
            case Storage.FP8:
                amax = keys.abs().amax(-1, keepdim=True).clamp_min(1e-4)
                scale = pow2ceil(amax * (1 / FP8_MAX))
                values = (keys / scale).clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn)
                columns = values.view(torch.uint8).transpose(1, 2).reshape(blocks, -1)
                return torch.cat((columns, scale.reshape(blocks, -1).contiguous().view(torch.uint8)), 1)
            case _:
                columns = keys.transpose(1, 2).to(_DTYPES[self.storage])
                return columns.reshape(blocks, -1).contiguous().view(torch.uint8)

    def decode(self, stored: Tensor) -> Tensor:
        """The inverse of `encode`: uint8 ``[blocks, nbytes]`` to fp32 ``[blocks, 32, size]``."""
        blocks = stored.shape[0]
        plain = KEYS_PER_PAGE * self.size
        match self.storage:
            case Storage.FP4:
                packed = stored[:, : plain // 2].reshape(blocks, self.size // 4, 16, 4)
                values = unpack_fp4(packed).view(blocks, self.size // 4, 16, 4, 2)
                keys = values.permute(0, 4, 2, 1, 3).reshape(blocks, KEYS_PER_PAGE, self.size)
                scales = _from_exponents(stored[:, plain // 2 :].reshape(blocks, -1, KEYS_PER_PAGE))
                return keys * scales.transpose(1, 2).repeat_interleave(FP4_GROUP, -1)
            case Storage.FP8:
                columns = stored[:, :plain].contiguous().view(torch.float8_e4m3fn).float()
                scales = stored[:, plain:].contiguous().view(torch.float32).view(blocks, KEYS_PER_PAGE, 1)
                return columns.view(blocks, self.size, KEYS_PER_PAGE).transpose(1, 2) * scales
            case _:
                columns = stored.contiguous().view(_DTYPES[self.storage]).float()
                return columns.view(blocks, self.size, KEYS_PER_PAGE).transpose(1, 2)


def row_format(choice: CacheFormat, config: ModelConfig) -> RowFormat:
    """The rows of ``config`` in the chosen format. Raises `ConfigError` for a shape it can't hold."""
    if choice in (CacheFormat.FP8, CacheFormat.FP8_FP4) and (config.head_dim - config.qk_rope_head_dim) % 2:
        raise ConfigError("head_dim", config.head_dim, f"a {choice} cache needs even channel counts")
    return RowFormat(_ROWS[choice], config.head_dim, config.qk_rope_head_dim)


def key_format(choice: CacheFormat, config: ModelConfig) -> KeyFormat:
    """The index keys of ``config`` in the chosen format. Raises `ConfigError` for a shape it can't hold."""
    size = config.index_head_dim
    if choice in (CacheFormat.FP8, CacheFormat.FP8_FP4) and (size & (size - 1) or size % FP4_GROUP):
        raise ConfigError(
            "index_head_dim", size, f"a {choice} cache needs a power of two of at least {FP4_GROUP}"
        )
    return KeyFormat(_KEYS[choice], size)


def _fp8_groups(x: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """``(e4m3 [..., n], ue8m0 exponents uint8 [..., groups])`` of ``[..., n]``; section 2.8."""
    length = x.shape[-1]
    padded = torch.nn.functional.pad(x, (0, -length % group)).view(*x.shape[:-1], -1, group)
    scale = pow2ceil(padded.abs().amax(-1, keepdim=True).clamp_min(1e-4) * (1 / FP8_MAX))
    codes = (padded / scale).clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn)
    return codes.flatten(-2)[..., :length].contiguous(), _exponents(scale.squeeze(-1))


def _fp4_codes(x: Tensor) -> tuple[Tensor, Tensor]:
    """``(codes uint8 [..., n], ue8m0 exponents uint8 [..., n / 32])``; section 2.8."""
    groups = x.reshape(*x.shape[:-1], -1, FP4_GROUP)
    scale = pow2ceil(groups.abs().amax(-1, keepdim=True).clamp_min(FP4_MAX * 2.0**-126) / FP4_MAX)
    values = round_to_e2m1((groups / scale).clamp(-FP4_MAX, FP4_MAX)).flatten(-2)
    a = values.abs()
    index = torch.where(a < 2, a * 2, torch.where(a < 4, a + 2, a / 2 + 4)).to(torch.uint8)
    return index | (torch.signbit(values).to(torch.uint8) << 3), _exponents(scale.squeeze(-1))


def _exponents(scale: Tensor) -> Tensor:
    return (scale.contiguous().view(torch.int32) >> 23).to(torch.uint8)


def _from_exponents(exponents: Tensor) -> Tensor:
    return (exponents.to(torch.int32) << 23).contiguous().view(torch.float32)
