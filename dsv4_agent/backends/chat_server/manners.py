"""Which fields beyond the common ones a kind of server takes, and how thinking is asked of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Self

from dsv4_agent.backends.facts import ServerKind


class ThinkingKnob(StrEnum):
    """How a request says whether the model is to think."""

    NONE = "none"
    TYPE = "thinking"
    """`thinking: {"type": "enabled" | "disabled"}`"""
    TEMPLATE = "chat_template_kwargs"
    """`chat_template_kwargs: {"thinking": ..., "enable_thinking": ...}`"""


REASONING_FIELDS: Final = ("reasoning_content", "reasoning")


@dataclass(frozen=True, slots=True)
class Manners:
    """What a request may carry.

    `reasoning` are the message fields in which past reasoning goes back; with `owes_reasoning` a turn with
    calls has them even where there was none; with `adopts` the field in which the server sends it is used.
    `strict`: no message may be empty, and no two user messages may follow each other. `refused` are fields
    that the server has turned down.
    """

    thinking: ThinkingKnob = ThinkingKnob.NONE
    reasoning: tuple[str, ...] = ("reasoning_content",)
    owes_reasoning: bool = False
    adopts: bool = False
    effort: bool = True
    usage_option: bool = True
    sampling: tuple[str, ...] = ("temperature", "top_p", "seed")
    strict: bool = False
    max_tokens: str = "max_tokens"
    most_tokens: int | None = None
    own_field: bool = False
    refused: frozenset[str] = frozenset()

    def adopting(self, field: str | None) -> Self:
        """Send reasoning back in the field in which it came."""
        if not self.adopts or field is None or field in self.reasoning or field in self.refused:
            return self
        return replace(self, reasoning=(field,))

    def without(self, field: str) -> Self:
        """Never send `field` again."""
        return replace(
            self,
            reasoning=tuple(name for name in self.reasoning if name != field),
            owes_reasoning=self.owes_reasoning and field not in self.reasoning,
            refused=self.refused | {field},
        )


_ALL_SAMPLING: Final = ("temperature", "top_p", "min_p", "seed")
_OF_KIND: Final[Mapping[ServerKind, Manners]] = MappingProxyType(
    {
        ServerKind.DSV4: Manners(ThinkingKnob.TYPE, sampling=_ALL_SAMPLING, own_field=True),
        ServerKind.VLLM: Manners(
            ThinkingKnob.TEMPLATE, reasoning=("reasoning_content", "reasoning"), sampling=_ALL_SAMPLING
        ),
        ServerKind.SGLANG: Manners(ThinkingKnob.TEMPLATE, sampling=_ALL_SAMPLING),
        ServerKind.LLAMA_CPP: Manners(ThinkingKnob.TEMPLATE, sampling=_ALL_SAMPLING),
        ServerKind.DS4: Manners(ThinkingKnob.TYPE),
        ServerKind.DEEPSEEK: Manners(
            ThinkingKnob.TYPE, owes_reasoning=True, sampling=("temperature", "top_p"), most_tokens=393_216
        ),
        # Refuses unknown fields with a 422, and always counts tokens.
        ServerKind.TRANSFORMERS: Manners(effort=False, usage_option=False, strict=True),
        ServerKind.OPENAI: Manners(adopts=True, strict=True),
    }
)


def manners_of(kind: ServerKind) -> Manners:
    """What is known of a kind before anything was asked."""
    return _OF_KIND[kind]
