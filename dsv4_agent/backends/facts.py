"""What a server turned out to be when it was asked."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from dsv4_agent.backends.profile import ServerProtocol
from dsv4_agent.dsml.dialect import Dialect


class ServerKind(StrEnum):
    """Which program answers; it decides which fields a request may carry."""

    DSV4 = "dsv4"
    VLLM = "vllm"
    SGLANG = "sglang"
    LLAMA_CPP = "llama.cpp"
    TRANSFORMERS = "transformers"
    DS4 = "ds4"
    DEEPSEEK = "deepseek"
    OPENAI = "openai"
    """Anything else that speaks the protocol: only standard fields."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """The answers of a probe. None where the server did not say.

    `context` is the real window in tokens; `protocols` are those that work; `tokens_agree` says whether our
    tokenizer and the server's count a known text alike; `thinks` whether the model thinks when nothing is
    asked for; `returns_ids` whether completions can bring the sampled ids; `reports_cache` whether usage
    tells cached tokens. `problems` are lines for the user, each with its remedy.
    """

    kind: ServerKind
    version: str | None = None
    model: str | None = None
    models: tuple[str, ...] = ()
    context: int | None = None
    dialect: Dialect | None = None
    preset: str | None = None
    protocols: tuple[ServerProtocol, ...] = ()
    tokens_agree: bool | None = None
    thinks: bool | None = None
    tools: bool | None = None
    returns_ids: bool | None = None
    reports_cache: bool | None = None
    problems: tuple[str, ...] = ()
