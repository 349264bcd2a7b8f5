"""Tensor names: DeepSeek's own, and those that transformers writes, as one set of official names.

transformers renames on loading and writes either its own names or, by default, a mixture: official names
below ``model.``, and its own where its renaming isn't undone. Every tensor of such a file gets its official
name. Of the routed experts, which transformers stacks in one tensor a layer, each matrix is a tensor of its
own here: its bytes lie in one piece.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from dsv4_model.checkpoint_file import CheckpointError, TensorInfo
from dsv4_model.quantization import FP8_BLOCK

__all__ = ["official_name", "official_names"]

_RENAMES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^model\.", ""),
        (r"^lm_head\.", "head."),
        (r"^embed_tokens\.", "embed."),
        (r"^hc_head\.hc_", "hc_head_"),
        (r"\.(attn|ffn)_hc\.", r".hc_\1_"),
        (r"\.input_layernorm\.", ".attn_norm."),
        (r"\.post_attention_layernorm\.", ".ffn_norm."),
        (r"\.self_attn\.", ".attn."),
        (r"\.mlp\.", ".ffn."),
        (r"\.sinks$", ".attn_sink"),
        (r"\.e_score_correction_bias$", ".bias"),
        (r"\.compressor\.indexer\.scorer\.", ".indexer."),
        (r"\.compressor\.indexer\.q_b_proj\.", ".indexer.wq_b."),
        (r"\.compressor\.indexer\.", ".indexer.compressor."),
        (r"\.position_bias$", ".ape"),
        (r"\.compressor\.gate_proj\.", ".compressor.wgate."),
        (r"\.compressor\.kv_norm\.", ".compressor.norm."),
        (r"\.attn\.norm\.", ".attn.kv_norm."),
        (r"\.kv_proj\.", ".wkv."),
        (r"\.q_a_norm\.", ".q_norm."),
        (r"\.q_([ab])_proj\.", r".wq_\1."),
        (r"\.o_([ab])_proj\.", r".wo_\1."),
        (r"\.shared_experts\.gate_proj\.", ".shared_experts.w1."),
        (r"\.shared_experts\.up_proj\.", ".shared_experts.w3."),
        (r"\.shared_experts\.down_proj\.", ".shared_experts.w2."),
        (r"\.weight_scale_inv$", ".scale"),
    )
)
_STACKED = re.compile(r"^(layers\.\d+\.ffn\.experts)\.(gate_up_proj|down_proj)(_scale_inv)?$")


def official_name(name: str) -> str:
    """``model.layers.0.self_attn.q_a_proj.weight`` -> ``layers.0.attn.wq_a.weight``; official names stay."""
    for pattern, replacement in _RENAMES:
        name = pattern.sub(replacement, name)
    return name


def official_names(path: Path, tensors: Mapping[str, TensorInfo]) -> Mapping[str, TensorInfo]:
    """The tensors of a checkpoint in the folder ``path`` under their official names.

    Raises:
        CheckpointError: another family's or another format's names, two tensors for one name.
    """
    if "embed.weight" in tensors:
        return tensors
    if not any(name.startswith(("model.", "lm_head.")) for name in tensors):
        raise CheckpointError(
            "the tensors don't carry DeepSeek-V4 names (there is no embed.weight).",
            "Use the original DeepSeek-V4 files; other families and re-packed formats aren't supported.",
            file=path,
            tensor=min(tensors, default=None),
        )
    found: dict[str, TensorInfo] = {}
    for stored, info in tensors.items():
        for name, part in _parts(stored, info):
            if name in found:
                raise CheckpointError(
                    f"is there twice: {stored} is another name for it.",
                    "Two checkpoints were mixed in one folder; take one of them.",
                    file=path,
                    tensor=name,
                )
            found[name] = part
    # Embedding and attention are named alike in other families; hyper-connections are this one's alone.
    if "embed.weight" not in found or "layers.0.hc_attn_fn" not in found:
        raise CheckpointError(
            "the tensors carry transformers names, but not those of a DeepSeek-V4 model.",
            "Use a DeepSeek-V4 checkpoint: the original files or what save_pretrained writes for one.",
            file=path,
            tensor=min(tensors),
        )
    return found


def _parts(stored: str, info: TensorInfo) -> Iterator[tuple[str, TensorInfo]]:
    name = official_name(stored)
    stacked = _STACKED.match(name)
    if stacked is None:
        yield name, info
        return
    prefix, kind, scale = stacked.groups()
    matrices = ("w1", "w3") if kind == "gate_up_proj" else ("w2",)
    end = "scale" if scale else "weight"
    if len(info.shape) != 3 or info.shape[1] % len(matrices) or 0 in info.shape:
        raise _unsplittable(stored, info)
    if info.dtype == "F8_E4M3" and info.shape[1] // len(matrices) % FP8_BLOCK and len(matrices) > 1:
        raise _unsplittable(stored, info)  # a block of scales would span both matrices
    experts, rows, columns = info.shape[0], info.shape[1] // len(matrices), info.shape[2]
    nbytes = info.nbytes // (experts * len(matrices))
    for number in range(experts * len(matrices)):
        expert, matrix = divmod(number, len(matrices))
        part = TensorInfo(info.dtype, (rows, columns), info.file, info.offset + number * nbytes, nbytes)
        yield f"{prefix}.{expert}.{matrices[matrix]}.{end}", part


def _unsplittable(stored: str, info: TensorInfo) -> CheckpointError:
    return CheckpointError(
        f"has shape {list(info.shape)} as {info.dtype}, which doesn't divide into experts.",
        "Use the original DeepSeek-V4 files.",
        file=info.file,
        tensor=stored,
    )
