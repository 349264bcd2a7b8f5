"""Which tensor of a checkpoint becomes which tensor of a GGUF file, in what shape and type.

GGUF lists dimensions fastest first; shapes here are row-major, as in PyTorch, and the writer turns them
round. Names are those of llama.cpp's architecture ``deepseek4``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from dsv4_model.checkpoint_reader import Checkpoint, scale_name_of
from dsv4_model.config import CSA_RATIO, ModelConfig
from dsv4_model.quantization import FP4_GROUP, quantize_fp4, unpack_fp4
from dsv4_model.transformer import DeepseekV4

__all__ = [
    "ExportError",
    "GgufTensor",
    "GgufType",
    "Weights",
    "array_of",
    "check_servable",
    "plan",
    "weights_of",
]

HCA_RATIO = 128
F16_MAX = 65504.0
MXFP4_BYTES = 17  # a scale byte and 32 nibbles


class ExportError(Exception):
    """A model that can't be written as a GGUF file. Carries a remedy."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem} {remedy}")
        self.problem = problem
        self.remedy = remedy


class GgufType(StrEnum):
    """What the large matrices are stored as; llama.cpp wants everything else in fp32.

    ``mxfp4`` is that for the routed experts and bf16 for the rest: every value of a released checkpoint,
    bit for bit, in the least space.
    """

    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    MXFP4 = "mxfp4"


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor of the file.

    Attributes:
        name: its name in the file.
        sources: official names; several are stacked along a new first dimension (the routed experts).
        shape: row-major.
        type: ``I32`` or the name of a `GgufType`, in capitals as in the GGUF format.
    """

    name: str
    sources: tuple[str, ...]
    shape: tuple[int, ...]
    type: str

    @property
    def nbytes(self) -> int:
        """Size in the file, without padding."""
        count = int(np.prod(self.shape))
        match self.type:
            case "MXFP4":
                return count // FP4_GROUP * MXFP4_BYTES
            case "F16" | "BF16":
                return 2 * count
            case _:
                return 4 * count


class Weights(Protocol):
    """Where values come from: a checkpoint on disk or a model in memory."""

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise `CheckpointError` unless ``name`` is there and has this shape."""
        ...

    def values(self, name: str) -> Tensor:
        """All values, fp32; a routing table as it is (integers)."""
        ...

    def fp4(self, name: str) -> tuple[Tensor, Tensor]:
        """Packed e2m1 (two a byte, low nibble first) and ue8m0 scales a group of 32 along a row."""
        ...


_ROOT = {
    "embed.weight": "token_embd.weight",
    "norm.weight": "output_norm.weight",
    "head.weight": "output.weight",
    "hc_head_fn": "output_hc_fn.weight",
    "hc_head_base": "output_hc_base.weight",
    "hc_head_scale": "output_hc_scale.weight",
}
_LAYER = {
    "attn_norm.weight": "attn_norm.weight",
    "ffn_norm.weight": "ffn_norm.weight",
    "hc_attn_fn": "hc_attn_fn.weight",
    "hc_attn_base": "hc_attn_base.weight",
    "hc_attn_scale": "hc_attn_scale.weight",
    "hc_ffn_fn": "hc_ffn_fn.weight",
    "hc_ffn_base": "hc_ffn_base.weight",
    "hc_ffn_scale": "hc_ffn_scale.weight",
    "attn.attn_sink": "attn_sinks.weight",
    "attn.wq_a.weight": "attn_q_a.weight",
    "attn.q_norm.weight": "attn_q_a_norm.weight",
    "attn.wq_b.weight": "attn_q_b.weight",
    "attn.wkv.weight": "attn_kv.weight",
    "attn.kv_norm.weight": "attn_kv_a_norm.weight",
    "attn.wo_a.weight": "attn_output_a.weight",
    "attn.wo_b.weight": "attn_output_b.weight",
    "attn.compressor.ape": "attn_compressor_ape.weight",
    "attn.compressor.wkv.weight": "attn_compressor_kv.weight",
    "attn.compressor.wgate.weight": "attn_compressor_gate.weight",
    "attn.compressor.norm.weight": "attn_compressor_norm.weight",
    "attn.indexer.wq_b.weight": "indexer.attn_q_b.weight",
    "attn.indexer.weights_proj.weight": "indexer.proj.weight",
    "attn.indexer.compressor.ape": "indexer_compressor_ape.weight",
    "attn.indexer.compressor.wkv.weight": "indexer_compressor_kv.weight",
    "attn.indexer.compressor.wgate.weight": "indexer_compressor_gate.weight",
    "attn.indexer.compressor.norm.weight": "indexer_compressor_norm.weight",
    "ffn.gate.weight": "ffn_gate_inp.weight",
    "ffn.gate.bias": "exp_probs_b.bias",
    "ffn.gate.tid2eid": "ffn_gate_tid2eid.weight",
    "ffn.shared_experts.w1.weight": "ffn_gate_shexp.weight",
    "ffn.shared_experts.w2.weight": "ffn_down_shexp.weight",
    "ffn.shared_experts.w3.weight": "ffn_up_shexp.weight",
}
_EXPERTS = {"w1": "ffn_gate_exps.weight", "w2": "ffn_down_exps.weight", "w3": "ffn_up_exps.weight"}
_EXPERT = re.compile(r"ffn\.experts\.(\d+)\.(w[123])\.weight")
# Read element by element or by operations that take fp32 only; the router decides experts, so it stays exact.
_ALWAYS_F32 = re.compile(r"(^|\.)(hc_\w+|ape|attn_sink|gate\.weight|gate\.bias)$")
_NOT_F16 = (
    "attn.wo_a.weight"  # llama.cpp multiplies its groups in one operation, for which it has no f16 kernel
)


def check_servable(config: ModelConfig) -> None:
    """Raise `ExportError` where llama.cpp's graph has a shape built in that ``config`` doesn't have."""

    def refuse(key: str, value: object, wanted: str) -> None:
        raise ExportError(
            f"llama.cpp can't run this model: {key} is {value}, and its graph needs {wanted}.",
            "Only models within these shapes can be exported.",
        )

    if config.hc_mult != 4:
        refuse("hc_mult", config.hc_mult, "4")
    for number in range(config.num_hidden_layers):
        if config.ratio(number) not in (0, CSA_RATIO, HCA_RATIO):
            refuse(f"compress_ratios[{number}]", config.ratio(number), f"0, {CSA_RATIO} or {HCA_RATIO}")
    for ratio in (CSA_RATIO, HCA_RATIO):
        if ratio not in config.compress_ratios[: config.num_hidden_layers]:
            # It divides by the number of such layers while it sizes their caches.
            refuse("compress_ratios", list(config.compress_ratios), f"at least one layer of ratio {ratio}")
    size = config.index_head_dim
    if size < 64 or size & (size - 1):
        refuse("index_head_dim", size, "a power of two of at least 64 (its Hadamard rotation)")


def plan(config: ModelConfig, precision: GgufType) -> list[GgufTensor]:
    """Every tensor of the file, in order: the root's, then layer by layer. The draft block is left out."""
    with torch.device("meta"):
        shapes = {
            name: tuple(tensor.shape)
            for name, tensor in DeepseekV4(config, with_mtp=False).state_dict().items()
        }
    tensors = [_tensor(_ROOT[name], (name,), shapes[name], precision) for name in _ROOT]
    for number in range(config.num_hidden_layers):
        tensors += _layer(number, shapes, config, precision)
    return tensors


def _layer(
    number: int, shapes: Mapping[str, tuple[int, ...]], config: ModelConfig, precision: GgufType
) -> Iterator[GgufTensor]:
    prefix = f"layers.{number}."
    for name, shape in shapes.items():
        if not name.startswith(prefix) or _EXPERT.fullmatch(name, len(prefix)):
            continue
        yield _tensor(f"blk.{number}.{_LAYER[name.removeprefix(prefix)]}", (name,), shape, precision)
    for matrix, target in _EXPERTS.items():
        names = tuple(f"{prefix}ffn.experts.{e}.{matrix}.weight" for e in range(config.n_routed_experts))
        stacked = (config.n_routed_experts, *shapes[names[0]])
        yield _tensor(f"blk.{number}.{target}", names, stacked, precision)


def _tensor(name: str, sources: tuple[str, ...], shape: tuple[int, ...], precision: GgufType) -> GgufTensor:
    if sources[0].endswith("tid2eid"):
        stored = "I32"
    elif len(shape) == 1 or _needs_f32(sources[0], precision):
        stored = "F32"
    elif precision is GgufType.MXFP4:
        stored = "MXFP4" if len(shape) == 3 else "BF16"
        if len(shape) == 3 and shape[-1] % FP4_GROUP:
            raise ExportError(
                f"{name}: rows of {shape[-1]} values don't divide into MXFP4 groups of {FP4_GROUP}.",
                "Choose another type.",
            )
    else:
        stored = precision.name
    return GgufTensor(name, sources, shape, stored)


def _needs_f32(source: str, precision: GgufType) -> bool:
    return bool(_ALWAYS_F32.search(source)) or (precision is GgufType.F16 and source.endswith(_NOT_F16))


def array_of(tensor: GgufTensor, weights: Weights) -> np.ndarray[Any, Any]:
    """The bytes of a tensor as the file holds them: fp32, fp16, int32, or raw bytes of bf16 and MXFP4."""
    if tensor.type == "MXFP4":
        return np.stack([mxfp4_blocks(*weights.fp4(name)) for name in tensor.sources])
    parts = [weights.values(name) for name in tensor.sources]
    values = torch.stack(parts) if len(tensor.shape) == 3 else parts[0]
    match tensor.type:
        case "I32":
            return values.to(torch.int32).contiguous().numpy()
        case "BF16":
            return values.to(torch.bfloat16).contiguous().view(torch.uint8).numpy()
        case "F16":
            if values.abs().max() > F16_MAX:
                raise ExportError(f"{tensor.name} has values beyond the range of f16.", "Choose bf16 or f32.")
            return values.to(torch.float16).contiguous().numpy()
        case _:
            return values.float().contiguous().numpy()


def mxfp4_blocks(packed: Tensor, scale: Tensor) -> np.ndarray[Any, Any]:
    """Packed FP4 ``[out, in / 2]`` and scales ``[out, in / 32]`` as blocks ``uint8 [out, in / 32 * 17]``.

    A block is the scale's byte, then 16 bytes whose low nibbles are values 0-15 and high nibbles 16-31.
    """
    raw = packed.contiguous().view(torch.uint8)
    codes = torch.stack((raw & 0xF, raw >> 4), -1).view(raw.shape[0], -1, 2, FP4_GROUP // 2)
    nibbles = codes[:, :, 0] | (codes[:, :, 1] << 4)
    exponents = scale.contiguous().view(torch.uint8).unsqueeze(-1)
    return torch.cat((exponents, nibbles), -1).flatten(1).numpy()


def mxfp4_values(blocks: np.ndarray[Any, Any]) -> Tensor:
    """The inverse of `mxfp4_blocks`, fp32 ``[..., in]``, for checks."""
    raw = torch.from_numpy(np.ascontiguousarray(blocks)).view(*blocks.shape[:-1], -1, MXFP4_BYTES)
    low, high = raw[..., 1:] & 0xF, raw[..., 1:] >> 4
    codes = torch.cat((low, high), -1)
    values = unpack_fp4(codes[..., 0::2] | (codes[..., 1::2] << 4))
    return (values * torch.exp2(raw[..., :1].float() - 127)).flatten(-2)


def weights_of(source: Checkpoint | DeepseekV4) -> Weights:
    """Access to the values of an opened checkpoint or of a model."""
    return _Stored(source) if isinstance(source, Checkpoint) else _Loaded(source)


class _Stored:
    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        self._checkpoint.check(name, _dtype(name), shape)

    def values(self, name: str) -> Tensor:
        return self._checkpoint.tensor(name, _dtype(name))

    def fp4(self, name: str) -> tuple[Tensor, Tensor]:
        info = self._checkpoint.info(name)
        scale = scale_name_of(name)
        if info.dtype == "I8" and self._checkpoint.info(scale).dtype == "F8_E8M0":
            return self._checkpoint.stored(name), self._checkpoint.stored(scale)
        return quantize_fp4(self.values(name))


class _Loaded:
    def __init__(self, model: DeepseekV4) -> None:
        self._tensors = model.state_dict()

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        assert tuple(self._tensors[name].shape) == shape

    def values(self, name: str) -> Tensor:
        value: Tensor = self._tensors[name].detach().cpu()
        return value.float() if value.is_floating_point() else value

    def fp4(self, name: str) -> tuple[Tensor, Tensor]:
        return quantize_fp4(self.values(name))


def _dtype(name: str) -> torch.dtype:
    return torch.int64 if name.endswith("tid2eid") else torch.float32
