"""Which checkpoint is to be served: its sizes, its generation, what drafts for it.

A folder tells by its config.json and by the encoder that is shipped with it; a name on a hub by its words.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Final

from dsv4_agent.server.launch_commands.errors import LaunchError
from dsv4_model.config import ConfigError, ModelConfig

_ENCODER: Final = Path("encoding") / "encoding_dsv4.py"
_ENCODER_LIMIT: Final = 1 << 20  # bytes
_RELEASED: Final = frozenset({4096, 7168})  # hidden sizes of Flash and Pro


class Family(StrEnum):
    """The two sizes."""

    FLASH = "Flash"
    PRO = "Pro"


class Generation(StrEnum):
    """The training that it got; it decides the effort prompts."""

    PREVIEW = "preview"
    JULY = "0731"
    UNKNOWN = "unknown"


class Drafts(StrEnum):
    """What proposes tokens."""

    MTP = "mtp"
    DSPARK = "dspark"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A released checkpoint. `name` is what the engine is given."""

    name: str
    family: Family
    generation: Generation
    drafts: Drafts
    config: ModelConfig


def identify(name: str) -> Checkpoint:
    """The checkpoint of a folder or of a name such as `deepseek-ai/DeepSeek-V4-Flash-0731`.

    Raises `LaunchError` for anything that these commands are not for.
    """
    folder = Path(name)
    return _of_folder(name, folder) if folder.is_dir() else _of_name(name)


def _of_folder(name: str, folder: Path) -> Checkpoint:
    try:
        config = ModelConfig.from_file(folder)
    except ConfigError as error:
        raise LaunchError(" ".join(str(error).split())) from error
    if config.hidden_size not in _RELEASED:
        raise LaunchError(
            f"{name} is neither V4-Flash nor V4-Pro (hidden size {config.hidden_size}): "
            "serve it with dsv4 serve --model PATH"
        )
    family = Family.FLASH if config.hidden_size == 4096 else Family.PRO
    drafts = Drafts.DSPARK if config.has_dspark else Drafts.MTP
    return Checkpoint(str(folder.resolve()), family, _generation(folder), drafts, config)


def _generation(folder: Path) -> Generation:
    """By the effort table of the encoder beside the weights: config.json doesn't tell."""
    try:
        with (folder / _ENCODER).open(encoding="utf-8", errors="replace") as file:
            text = file.read(_ENCODER_LIMIT)
    except OSError:
        return _worded(folder.resolve().name) or Generation.UNKNOWN
    if "REASONING_EFFORT_PROMPTS" in text:
        return Generation.JULY
    return Generation.PREVIEW if "REASONING_EFFORT_MAX" in text else Generation.UNKNOWN


def _of_name(name: str) -> Checkpoint:
    words = name.lower().replace("_", "-")
    if "/" not in name.strip("/") or name.startswith((".", "/", "~")):
        raise LaunchError(
            f"there is no folder {name!r}: name one, or a model as in deepseek-ai/DeepSeek-V4-Flash"
        )
    if "v4.1" in words or "v41" in words:
        raise LaunchError(f"{name} has another architecture than V4: see the engine's own recipe for V4.1")
    if "base" in words:
        raise LaunchError(f"{name} is a base model, which has not learned to call tools: take the chat model")
    if "v4" not in words or not any(family.lower() in words for family in Family):
        raise LaunchError(f"{name} is not a released V4 model: name Flash or Pro, or a checkpoint folder")
    family = Family.PRO if "pro" in words else Family.FLASH
    generation = _worded(words) or Generation.PREVIEW
    if "dspark" in words or (family is Family.FLASH and generation is Generation.JULY):
        drafts = Drafts.DSPARK
    else:
        drafts = Drafts.MTP if generation is Generation.PREVIEW else Drafts.UNKNOWN
    config = _FLASH if family is Family.FLASH else _PRO
    if drafts is Drafts.DSPARK:
        config = _with_dspark(config)
    return Checkpoint(name, family, generation, drafts, config)


def _worded(name: str) -> Generation | None:
    return Generation.JULY if any(mark in name for mark in ("0731", "0813")) else None


def _with_dspark(config: ModelConfig) -> ModelConfig:
    layers = config.num_hidden_layers
    return replace(
        config,
        compress_ratios=(*config.compress_ratios, 0, 0),
        dspark_block_size=5,
        dspark_noise_token_id=128_799,
        dspark_target_layer_ids=(layers - 3, layers - 2, layers - 1),
        dspark_markov_rank=256,
    )


def _released(**sizes: object) -> ModelConfig:
    shared: dict[str, object] = {
        "vocab_size": 129_280,
        "head_dim": 512,
        "num_experts_per_tok": 6,
        "o_lora_rank": 1_024,
        "expert_dtype": "fp4",
        "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    }
    return ModelConfig.from_dict({**shared, **sizes})


_FLASH: Final = _released(
    hidden_size=4_096,
    num_hidden_layers=43,
    num_attention_heads=64,
    q_lora_rank=1_024,
    o_groups=8,
    n_routed_experts=256,
    moe_intermediate_size=2_048,
    index_topk=512,
    compress_ratios=[0, 0, *[4, 128] * 20, 4, 0],
)
_PRO: Final = _released(
    hidden_size=7_168,
    num_hidden_layers=61,
    num_attention_heads=128,
    q_lora_rank=1_536,
    o_groups=16,
    n_routed_experts=384,
    moe_intermediate_size=3_072,
    index_topk=1_024,
    compress_ratios=[128, 128, *[4, 128] * 29, 4, 0],
)
