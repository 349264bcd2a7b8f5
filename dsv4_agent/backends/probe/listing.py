"""`/v1/models`: which program answers, which models it has, how long their windows are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeVar

from dsv4_agent.backends.facts import ServerKind
from dsv4_agent.dsml.dialect import Dialect

_MOST_MODELS: Final = 1_000
_LONGEST_NAME: Final = 256
_LARGEST: Final = 1 << 30  # tokens
_OWNERS: Final[Mapping[str, ServerKind]] = {
    "dsv4": ServerKind.DSV4,
    "vllm": ServerKind.VLLM,
    "sglang": ServerKind.SGLANG,
    "llamacpp": ServerKind.LLAMA_CPP,
    "ds4.c": ServerKind.DS4,
    "ds4": ServerKind.DS4,
}
E = TypeVar("E", bound=StrEnum)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One model as a server lists it."""

    name: str
    kind: ServerKind | None = None
    context: int | None = None
    vocabulary: int | None = None
    dialect: Dialect | None = None
    preset: str | None = None
    tokenizer: str | None = None
    version: str | None = None


def read_listing(answer: object) -> tuple[Listed, ...]:
    """The models of an answer; what has no usable name is left out."""
    entries = mapping(answer).get("data")
    if not isinstance(entries, list):
        return ()
    read = (_listed(mapping(entry)) for entry in entries[:_MOST_MODELS])
    return tuple(model for model in read if model is not None)


def mapping(value: object) -> Mapping[str, Any]:
    """The object, or an empty one."""
    return value if isinstance(value, Mapping) else {}


def name(value: object) -> str | None:
    """A name that can be shown and sent back; None for anything else."""
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_NAME or not value.isprintable():
        return None
    return value


def tokens(value: object) -> int | None:
    """A positive number of tokens that is no nonsense."""
    return value if type(value) is int and 0 < value <= _LARGEST else None


def member(kind: type[E], value: object) -> E | None:
    """The member of a closed set that a text names."""
    return kind(value) if isinstance(value, str) and value in list(kind) else None


def dialect_of(model: str) -> Dialect | None:
    """What the name of a released checkpoint tells of its wire format; nothing else tells it."""
    words = model.lower().replace("_", "-")
    if "v4.1" in words or "v41" in words or words == "deepseek-flash":
        return Dialect.V41
    if "v4" not in words:
        return None
    return Dialect.V4_0731 if any(mark in words for mark in ("0731", "0813", "vision")) else Dialect.V4


def _listed(entry: Mapping[str, Any]) -> Listed | None:
    identity = name(entry.get("id"))
    if identity is None:
        return None
    meta, own = mapping(entry.get("meta")), mapping(entry.get("dsv4"))
    owner = entry.get("owned_by")
    return Listed(
        name=identity,
        kind=_OWNERS.get(owner.lower()) if isinstance(owner, str) else None,
        context=tokens(entry.get("max_model_len")) or tokens(entry.get("context_length")),
        vocabulary=tokens(own.get("vocabulary")) or tokens(meta.get("n_vocab")),
        dialect=member(Dialect, own.get("dialect")),
        preset=own.get("preset") if own.get("preset") in ("default", "nano") else None,
        tokenizer=name(own.get("tokenizer")),
        version=name(own.get("version")),
    )
