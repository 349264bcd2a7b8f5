"""The key-value part of a GGUF file: hyperparameters and tokenizer for llama.cpp's ``deepseek4``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dsv4_model.config import ModelConfig
from dsv4_model.gguf_tensors import ExportError
from dsv4_model.tokenizer import BOS, EOS

if TYPE_CHECKING:
    from gguf import GGUFWriter

ARCHITECTURE = "deepseek4"
SQRT_SOFTPLUS = 4
PADS = ("<｜▁pad▁｜>", EOS)

CHAT_TEMPLATE = """\
{%- if tools -%}
{{- raise_exception('this template renders no tools: send rendered prompts instead') -}}
{%- endif -%}
{%- set thinking = enable_thinking is defined and enable_thinking -%}
{{- '<｜begin▁of▁sentence｜>' -}}
{%- for message in messages -%}
{%- if message.role == 'system' -%}
{{- message.content -}}
{%- elif message.role == 'user' -%}
{{- '<｜User｜>' + message.content + '<｜Assistant｜>' -}}
{%- if not loop.last -%}{{- '</think>' -}}{%- endif -%}
{%- elif message.role == 'assistant' -%}
{{- (message.content or '') + '<｜end▁of▁sentence｜>' -}}
{%- else -%}
{{- raise_exception('this template renders system, user and assistant messages only') -}}
{%- endif -%}
{%- if loop.last and message.role == 'user' -%}
{{- '<think>' if thinking else '</think>' -}}
{%- endif -%}
{%- endfor -%}
"""
"""Plain chat in the V4 wire format. Tools need DSML rendering with content kept apart from structure, which a
template can't do; without any template llama.cpp would silently use another family's."""

# The splitting rules of the released tokenizers; llama.cpp knows them by this name.
_RELEASED = (
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
    " ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
)
_RELEASED_NAME = "deepseek-v3"
# Of the rules that llama.cpp offers, this one splits least, so that a vocabulary with rules of its own keeps
# the pieces that span words; text is then split nearly, but not exactly, as it should be.
_NEAREST_NAME = "superbpe"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A tokenizer as GGUF holds it.

    Attributes:
        tokens: text of each id, byte-level for ordinary pieces and plain for added tokens.
        types: GGUF token types: 1 normal, 3 control, 4 user-defined, 5 unused.
        merges: BPE merges in order, the two sides separated by a space.
        rules: name of the pre-tokenizer in llama.cpp.
        exact: whether those are the tokenizer's own rules. If not, prompts should be sent as token ids.
    """

    tokens: list[str]
    types: list[int]
    merges: list[str]
    rules: str
    exact: bool


def vocabulary(definition: Mapping[str, Any], size: int) -> Vocabulary:
    """Read a ``tokenizer.json`` object for a model of ``size`` ids; ids without a token become unused ones.

    Raises:
        ExportError: a token has an id that the model doesn't have.
    """
    added = {entry["id"]: entry for entry in definition["added_tokens"]}
    pieces = {number: text for text, number in definition["model"]["vocab"].items()}
    highest = max([*added, *pieces])
    if highest >= size:
        raise ExportError(
            f"the tokenizer has ids up to {highest}, but the model only has {size}.",
            "Give the tokenizer.json that belongs to these weights.",
        )
    tokens, types = [], []
    for number in range(size):
        if number in added:
            tokens.append(added[number]["content"])
            types.append(3 if added[number].get("special") else 4)
        elif number in pieces:
            tokens.append(pieces[number])
            types.append(1)
        else:
            tokens.append(f"[unused {number}]")
            types.append(5)
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in definition["model"]["merges"]]
    exact = _split_rules(definition.get("pre_tokenizer")) == _RELEASED
    return Vocabulary(tokens, types, merges, _RELEASED_NAME if exact else _NEAREST_NAME, exact)


def _split_rules(pre_tokenizer: Any) -> tuple[str, ...]:
    """The regular expressions of a pre-tokenizer in order; empty where it has other steps than these."""
    match pre_tokenizer:
        case {"type": "Sequence", "pretokenizers": [*steps, {"type": "ByteLevel"}]}:
            pass
        case _:
            return ()
    rules = []
    for step in steps:
        match step:
            case {"type": "Split", "pattern": {"Regex": str(rule)}, "behavior": "Isolated", "invert": False}:
                rules.append(rule)
            case _:
                return ()
    return tuple(rules)


def write_hyperparameters(writer: GGUFWriter, config: ModelConfig) -> None:
    """Every ``deepseek4.*`` key that llama.cpp requires of a model without a draft block."""
    c, layers = config, config.num_hidden_layers
    unsigned: dict[str, int] = {
        "vocab_size": c.vocab_size,
        "context_length": c.max_position_embeddings,
        "embedding_length": c.hidden_size,
        "embedding_length_out": c.hidden_size * c.hc_mult,
        "block_count": layers,
        "hash_layer_count": min(c.num_hash_layers, layers),
        "attention.head_count": c.num_attention_heads,
        "attention.head_count_kv": c.num_key_value_heads,
        "attention.key_length": c.head_dim,
        "attention.value_length": c.head_dim,
        "attention.q_lora_rank": c.q_lora_rank,
        "attention.sliding_window": c.sliding_window,
        "attention.output_group_count": c.o_groups,
        "attention.output_lora_rank": c.o_lora_rank,
        "attention.indexer.head_count": c.index_n_heads,
        "attention.indexer.key_length": c.index_head_dim,
        "attention.indexer.top_k": c.index_topk,
        "expert_count": c.n_routed_experts,
        "expert_used_count": c.num_experts_per_tok,
        "expert_shared_count": c.n_shared_experts,
        "expert_feed_forward_length": c.moe_intermediate_size,
        "expert_gating_func": SQRT_SOFTPLUS,
        "hyper_connection.count": c.hc_mult,
        "hyper_connection.sinkhorn_iterations": c.hc_sinkhorn_iters,
        "rope.dimension_count": c.qk_rope_head_dim,
    }
    real: dict[str, float] = {
        "attention.layer_norm_rms_epsilon": c.rms_norm_eps,
        "attention.compress_rope_freq_base": c.compress_rope_theta,
        "expert_weights_scale": c.routed_scaling_factor,
        "hyper_connection.epsilon": c.hc_eps,
        "rope.freq_base": c.rope_theta,
    }
    if (yarn := c.rope_scaling) is not None:
        unsigned["rope.scaling.original_context_length"] = yarn.original_max_position_embeddings
        real["rope.scaling.factor"] = yarn.factor
        real["rope.scaling.yarn_beta_fast"] = yarn.beta_fast
        real["rope.scaling.yarn_beta_slow"] = yarn.beta_slow
    writer.add_string(f"{ARCHITECTURE}.rope.scaling.type", "none" if yarn is None else "yarn")
    for key, count in unsigned.items():
        writer.add_uint32(f"{ARCHITECTURE}.{key}", count)
    for key, value in real.items():
        writer.add_float32(f"{ARCHITECTURE}.{key}", float(value))
    writer.add_bool(f"{ARCHITECTURE}.expert_weights_norm", c.norm_topk_prob)
    writer.add_array(f"{ARCHITECTURE}.attention.compress_ratios", list(c.compress_ratios[:layers]))
    for key in ("swiglu_clamp_exp", "swiglu_clamp_shexp"):
        writer.add_array(f"{ARCHITECTURE}.{key}", [float(c.swiglu_limit)] * layers)


def write_tokenizer(writer: GGUFWriter, words: Vocabulary, config: ModelConfig) -> None:
    """Tokens, merges, special ids and the chat template. No BOS is added: prompts are written with theirs."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(words.rules)
    writer.add_token_list(words.tokens)
    writer.add_token_types(words.types)
    writer.add_token_merges(words.merges)
    ids = {text: number for number, text in enumerate(words.tokens)}
    writer.add_bos_token_id(ids.get(BOS, config.bos_token_id))
    writer.add_eos_token_id(ids.get(EOS, config.eos_token_id))
    writer.add_pad_token_id(next((ids[pad] for pad in PADS if pad in ids), config.eos_token_id))
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def definition_of(text: str) -> dict[str, Any]:
    """The object of a ``tokenizer.json`` that `Tokenizer` has accepted."""
    parsed: dict[str, Any] = json.loads(text)
    return parsed
