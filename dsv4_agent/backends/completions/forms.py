"""The forms in which servers take and give completions, one for each kind of server.

Strict servers refuse fields that they don't know, so each form has exactly its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from dsv4_agent.backends.base import GenerationRequest, GrammarUse, PrefixSynced
from dsv4_agent.backends.facts import ServerFacts, ServerKind
from dsv4_agent.dsml.dialect import DSML, END_THINK, THINK
from dsv4_agent.dsml.events import FinishReason

_RETURNS_IDS: Final = frozenset({ServerKind.VLLM, ServerKind.DSV4})
_LINE: Final = 500
_KNOWS_SPECIAL: Final = frozenset({ServerKind.VLLM, ServerKind.DSV4, ServerKind.SGLANG})
"""Kinds with fields beyond OpenAI's: that special tokens are to be spelt out, `min_p`."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one event of a stream brings. `ids` are None where the server sends none."""

    text: str = ""
    ids: tuple[int, ...] | None = None
    finish: FinishReason | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    synced: PrefixSynced | None = None
    grammar: GrammarUse | None = None
    kv_bytes: Mapping[str, int] = field(default_factory=dict)
    notice: str | None = None

    def followed_by(self, new: Chunk) -> Chunk:
        """The latest of every count."""
        return Chunk(
            prompt_tokens=self.prompt_tokens if new.prompt_tokens is None else new.prompt_tokens,
            cached_tokens=self.cached_tokens if new.cached_tokens is None else new.cached_tokens,
            output_tokens=self.output_tokens if new.output_tokens is None else new.output_tokens,
            grammar=new.grammar or self.grammar,
            kv_bytes=new.kv_bytes or self.kv_bytes,
        )


class Form(Protocol):
    """One kind's request and answer. A new one for each attempt."""

    @property
    def path(self) -> str: ...

    @property
    def takes_ids(self) -> bool: ...

    def fields(self, request: GenerationRequest, sampled: int) -> dict[str, object]:
        """The body without the prompt, whose name is `prompt_name`.

        `sampled` tokens of the turn stand at the prompt's end already.
        """
        ...

    @property
    def prompt_name(self) -> str: ...

    def read(self, event: Mapping[str, Any]) -> Chunk:
        """Understand an event; what is missing or of another type counts as absent."""
        ...


@dataclass(slots=True)
class OpenAIForm:
    """`/v1/completions` of vLLM, `dsv4 serve`, SGLang (for its text), transformers and anything else."""

    kind: ServerKind
    model: str
    returns_ids: bool
    path: str = "completions"
    prompt_name: str = "prompt"

    @property
    def takes_ids(self) -> bool:
        """Whether a prompt may be ids."""
        return self.kind is not ServerKind.TRANSFORMERS

    def fields(self, request: GenerationRequest, sampled: int) -> dict[str, object]:
        body: dict[str, object] = {
            "model": self.model,
            "max_tokens": request.max_tokens - sampled,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "stream": True,
        }
        if request.seed is not None:
            body["seed"] = request.seed
        if self.kind is not ServerKind.TRANSFORMERS:
            body["stream_options"] = {"include_usage": True}
        if self.kind in _KNOWS_SPECIAL:
            body["skip_special_tokens"] = False
            if request.min_p:
                body["min_p"] = request.min_p
            if self.returns_ids:
                body["return_token_ids"] = True
        if self.kind is ServerKind.VLLM:
            body["spaces_between_special_tokens"] = False
        if self.kind is ServerKind.DSV4:
            body["dsv4"] = _extension(request, sampled)
        return body

    def read(self, event: Mapping[str, Any]) -> Chunk:
        choice = _first(event.get("choices"))
        usage = _mapping(event.get("usage"))
        extension = _mapping(event.get("dsv4"))
        return Chunk(
            text=_text(choice.get("text")),
            ids=_ids(choice.get("token_ids")) if self.returns_ids else None,
            finish=_finish(choice.get("finish_reason")),
            prompt_tokens=_count(usage.get("prompt_tokens")),
            cached_tokens=_count(_mapping(usage.get("prompt_tokens_details")).get("cached_tokens")),
            output_tokens=_count(usage.get("completion_tokens")),
            synced=_synced(_mapping(extension.get("synced"))),
            grammar=_grammar(_mapping(extension.get("grammar"))),
            kv_bytes=_bytes(_mapping(extension.get("kv_bytes"))),
            notice=_line(extension.get("notice")),
        )


@dataclass(slots=True)
class LlamaForm:
    """`/completion` of llama.cpp, which takes and gives ids."""

    path: str = "/completion"
    prompt_name: str = "prompt"
    takes_ids: bool = True

    def fields(self, request: GenerationRequest, sampled: int) -> dict[str, object]:
        return {
            "n_predict": request.max_tokens - sampled,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "min_p": request.min_p,
            "top_k": 0,
            "repeat_penalty": 1.0,
            "seed": -1 if request.seed is None else request.seed,
            "stream": True,
            "return_tokens": True,
            "cache_prompt": True,
            # Their text is left out otherwise.
            "preserved_tokens": [THINK, END_THINK, DSML],
        }

    def read(self, event: Mapping[str, Any]) -> Chunk:
        if event.get("stop") is not True:
            return Chunk(text=_text(event.get("content")), ids=_ids(event.get("tokens")) or None)
        timings = _mapping(event.get("timings"))
        return Chunk(
            finish=_stopped(event.get("stop_type")),
            prompt_tokens=_count(event.get("tokens_evaluated")),
            cached_tokens=_count(timings.get("cache_n")),
            output_tokens=_count(event.get("tokens_predicted")),
        )


@dataclass(slots=True)
class SGLangForm:
    """`/generate` of SGLang, for its ids.

    Each event repeats what came before or brings only what is new, as the server was started. A seed is not
    sent: versions that don't know the field refuse the request.
    """

    path: str = "/generate"
    prompt_name: str = "input_ids"
    takes_ids: bool = True
    _ids: tuple[int, ...] = ()

    def fields(self, request: GenerationRequest, sampled: int) -> dict[str, object]:
        sampling: dict[str, object] = {
            "max_new_tokens": request.max_tokens - sampled,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "min_p": request.min_p,
            "skip_special_tokens": False,
            "spaces_between_special_tokens": False,
        }
        return {"sampling_params": sampling, "stream": True}

    def read(self, event: Mapping[str, Any]) -> Chunk:
        meta = _mapping(event.get("meta_info"))
        ids = _ids(event.get("output_ids"))
        if ids is not None:
            ids = self._new(ids, _count(meta.get("completion_tokens")))
        finish = meta.get("finish_reason")
        return Chunk(
            text="" if ids is not None else _text(event.get("text")),
            ids=ids,
            finish=_finish(finish.get("type") if isinstance(finish, Mapping) else finish),
            prompt_tokens=_count(meta.get("prompt_tokens")),
            cached_tokens=_count(meta.get("cached_tokens")),
            output_tokens=_count(meta.get("completion_tokens")),
        )

    def _new(self, ids: tuple[int, ...], total: int | None) -> tuple[int, ...]:
        """What of `ids` hasn't come yet; `total` are all that there are by now."""
        before = len(self._ids)
        repeats = ids[:before] == self._ids and total != before + len(ids)
        new = ids[before:] if repeats else ids
        self._ids += new
        return new


def form_of(facts: ServerFacts, model: str, *, reads_ids: bool) -> Form:
    """The form for a server; `reads_ids` says that we know what its ids mean."""
    match facts.kind:
        case ServerKind.LLAMA_CPP:
            return LlamaForm()
        case ServerKind.SGLANG if reads_ids and facts.returns_ids is not False:
            return SGLangForm()
        case kind:
            returns = reads_ids and kind in _RETURNS_IDS and facts.returns_ids is not False
            return OpenAIForm(kind, model, returns)


def body_of(form: Form, request: GenerationRequest, sampled: int, prompt: bytes) -> bytes:
    """The request; `prompt` is JSON already, and stands last."""
    fields = json.dumps(form.fields(request, sampled), ensure_ascii=False)
    head = f'{fields[:-1]}, "{form.prompt_name}": '
    return head.encode("utf-8", "surrogatepass") + prompt + b"}"


def _extension(request: GenerationRequest, sampled: int) -> dict[str, object]:
    extension: dict[str, object] = {
        "tools": [dict(tool) for tool in request.tools],
        "grammar": request.grammar.value,
        "dialect": request.dialect.value,
    }
    if request.thinking_budget is not None:
        extension["thinking_budget"] = max(0, request.thinking_budget - sampled)
    if request.answer_schema is not None:
        extension["answer_schema"] = dict(request.answer_schema)
    if sampled:
        extension["continues"] = sampled
    return extension


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _first(value: object) -> Mapping[str, Any]:
    return _mapping(value[0]) if isinstance(value, list) and value else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _line(value: object) -> str | None:
    return " ".join(value.split())[:_LINE] if isinstance(value, str) and value.strip() else None


def _ids(value: object) -> tuple[int, ...] | None:
    if not isinstance(value, list) or not all(type(token) is int and token >= 0 for token in value):
        return None
    return tuple(value)


def _count(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _finish(value: object) -> FinishReason | None:
    match value:
        case None | "":
            return None
        case "length" | "limit":
            return FinishReason.LENGTH
        case "stop" | "eos" | "eos_token" | "stop_sequence":
            return FinishReason.STOP
    return FinishReason.INTERRUPTED


def _stopped(value: object) -> FinishReason:
    """llama.cpp's `stop_type`; versions before it said less."""
    return FinishReason.STOP if value in (None, "word") else _finish(value) or FinishReason.STOP


def _synced(value: Mapping[str, Any]) -> PrefixSynced | None:
    reused, prefilled = _count(value.get("reused")), _count(value.get("prefilled"))
    if reused is None or prefilled is None:
        return None
    source, cause = value.get("restored_from"), value.get("cause")
    return PrefixSynced(
        reused,
        prefilled,
        source if isinstance(source, str) else None,
        cause if isinstance(cause, str) else None,
        _count(value.get("restored")) or 0,
    )


def _grammar(value: Mapping[str, Any]) -> GrammarUse | None:
    tokens, violations = _count(value.get("tokens")), _count(value.get("violations"))
    return None if tokens is None or violations is None else GrammarUse(tokens, violations)


def _bytes(value: Mapping[str, Any]) -> dict[str, int]:
    return {str(name): size for name, size in value.items() if _count(size) is not None}


def plain_prompt(texts: Sequence[str]) -> bytes:
    """A prompt of text as JSON."""
    return json.dumps("".join(texts), ensure_ascii=False).encode("utf-8", "surrogatepass")
