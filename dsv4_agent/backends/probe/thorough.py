"""The probe that also samples: a few tokens show what a server's own words about itself leave open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from dsv4_agent.backends.facts import ServerFacts, ServerKind
from dsv4_agent.backends.http.client import ServerClient
from dsv4_agent.backends.http.errors import ServerError
from dsv4_agent.backends.probe.light import Probed, probe
from dsv4_agent.backends.probe.listing import mapping, name, tokens
from dsv4_agent.backends.probe.mismatches import problems, thinking_remedy
from dsv4_agent.backends.profile import ServerProfile, ServerProtocol

_SECONDS: Final = 120.0
_FEW: Final = 16
_QUESTION: Final = "Answer with one word: which planet do we live on?"
_TOOL: Final[Mapping[str, object]] = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Look something up.",
        "parameters": {"type": "object", "properties": {"what": {"type": "string"}}, "required": ["what"]},
    },
}


@dataclass(frozen=True, slots=True)
class Inspected:
    """What was found, and the tokens that it took: of prompts and sampled."""

    probed: Probed
    prompt_tokens: int = 0
    sampled_tokens: int = 0


async def inspect(profile: ServerProfile, client: ServerClient) -> Inspected:
    """The light probe, the server's version and parsers, and at most three requests of a few tokens.

    Raises what the light probe raises; what fails after it stays unknown.
    """
    probed = await probe(profile, client)
    work = _Inspection(profile, client, replace(probed.facts, problems=()))
    await work.read_build()
    if profile.protocol is not ServerProtocol.TOKENS:
        await work.ask_chat()
    if ServerProtocol.TOKENS in probed.facts.protocols and probed.facts.returns_ids is None:
        await work.ask_ids()
    found = (*problems(profile, work.facts, client.where), *work.told)
    facts = replace(work.facts, problems=found)
    return Inspected(replace(probed, facts=facts), work.prompt_tokens, work.sampled_tokens)


class _Inspection:
    """Collects facts, problems and what they cost."""

    def __init__(self, profile: ServerProfile, client: ServerClient, facts: ServerFacts) -> None:
        self.facts = facts
        self.told: list[str] = []
        self.prompt_tokens = 0
        self.sampled_tokens = 0
        self._profile = profile
        self._client = client
        self._model = profile.model or facts.model or "default"

    async def read_build(self) -> None:
        """Version and, where a server tells, its parsers."""
        match self.facts.kind:
            case ServerKind.VLLM:
                answer = await self._get("/version")
                self.facts = replace(self.facts, version=name(answer.get("version")))
            case ServerKind.SGLANG:
                info = await self._get("/server_info") or await self._get("/get_server_info")
                self._read_sglang(info)

    def _read_sglang(self, info: Mapping[str, Any]) -> None:
        if not info:
            return
        self.facts = replace(
            self.facts,
            version=name(info.get("version")),
            context=self.facts.context or tokens(info.get("context_length")),
            tools=info.get("tool_call_parser") is not None,
            reports_cache=info.get("enable_cache_report") is True,
        )
        if info.get("reasoning_parser") is None and self._profile.protocol is not ServerProtocol.TOKENS:
            self.told.append(
                f"{self._client.where} doesn't tell reasoning from the answer: "
                f"{thinking_remedy(self.facts.kind)}"
            )

    async def ask_chat(self) -> None:
        """A few tokens of chat with a tool on offer, twice: thinking, tools, the prefix cache."""
        body = {"tools": [_TOOL], "tool_choice": "auto", "max_tokens": _FEW}
        answer, refusal = await self._chat(body)
        if refusal is not None and "tool" in refusal.lower():
            self.facts = replace(self.facts, tools=False)
            answer, refusal = await self._chat({"max_tokens": _FEW})
        elif answer:
            self.facts = replace(self.facts, tools=self.facts.tools is not False)
        if not answer:
            if refusal is not None:
                self.told.append(refusal)
            return
        self._read_thinking(answer)
        again, _ = await self._chat({**body, "max_tokens": 1} if self.facts.tools else {"max_tokens": 1})
        if (reports := _reports_cache(again)) is not None:
            self.facts = replace(self.facts, reports_cache=reports)
        if self.facts.reports_cache is False and self.facts.kind is ServerKind.VLLM:
            self.told.append(
                f"{self._client.where} doesn't tell how much of a prompt was cached: start it with "
                "--enable-prompt-tokens-details"
            )

    async def ask_ids(self) -> None:
        """Whether completions bring the ids that were sampled."""
        body = {"model": self._model, "prompt": "A", "max_tokens": 1, "return_token_ids": True}
        try:
            answer = mapping(await self._client.post_json("completions", body, seconds=_SECONDS))
        except ServerError:
            return
        self._count(answer)
        self.facts = replace(self.facts, returns_ids=isinstance(_choice(answer).get("token_ids"), list))

    def _read_thinking(self, answer: Mapping[str, Any]) -> None:
        message = mapping(_choice(answer).get("message"))
        told = message.get("reasoning_content") or message.get("reasoning")
        content = message.get("content")
        said = content.lstrip() if isinstance(content, str) else ""
        if told or said.startswith("<think>") or "</think>" in said:
            self.facts = replace(self.facts, thinks=True)
        elif said:
            self.facts = replace(self.facts, thinks=False)
        if not told and (said.startswith("<think>") or "</think>" in said):
            self.told.append(
                f"{self._client.where} leaves the reasoning inside the answer: "
                f"{thinking_remedy(self.facts.kind)}"
            )

    async def _chat(self, fields: Mapping[str, object]) -> tuple[Mapping[str, Any], str | None]:
        """An answer, or why there is none."""
        body = {"model": self._model, "messages": [{"role": "user", "content": _QUESTION}], **fields}
        try:
            answer = mapping(
                await self._client.post_json("chat/completions", {**body, "stream": False}, seconds=_SECONDS)
            )
        except ServerError as error:
            return {}, str(error)
        self._count(answer)
        return answer, None

    async def _get(self, path: str) -> Mapping[str, Any]:
        try:
            return mapping(await self._client.get_json(path, seconds=_SECONDS))
        except ServerError:
            return {}

    def _count(self, answer: Mapping[str, Any]) -> None:
        usage = mapping(answer.get("usage"))
        self.prompt_tokens += tokens(usage.get("prompt_tokens")) or 0
        self.sampled_tokens += tokens(usage.get("completion_tokens")) or 0


def _choice(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = answer.get("choices")
    return mapping(choices[0]) if isinstance(choices, list) and choices else {}


def _reports_cache(answer: Mapping[str, Any]) -> bool | None:
    """Whether usage tells of cached tokens; None without any usage."""
    usage = mapping(answer.get("usage"))
    if not usage:
        return None
    details = mapping(usage.get("prompt_tokens_details"))
    return type(details.get("cached_tokens")) is int or type(usage.get("prompt_cache_hit_tokens")) is int
