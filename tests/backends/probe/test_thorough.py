"""What a few sampled tokens show: parsers, thinking, the prefix cache, ids."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("tokenizers", reason="agreement needs our tokenizer")

from dsv4_agent.backends.http.client import ServerClient
from dsv4_agent.backends.probe.thorough import Inspected, inspect
from dsv4_agent.backends.profile import ServerProfile, ServerProtocol, Timeouts
from tests.backends.probe.test_light import as_nano
from tests.imitated_server import ImitatedServer, chat_answer, sglang, tokenizing, vllm


async def look(server: ImitatedServer, **profile: object) -> Inspected:
    given = {"name": "test", "base_url": server.url, "tokenizer": "nano", "timeouts": Timeouts(connect=5)}
    made = ServerProfile(**{**given, **profile})  # type: ignore[arg-type]
    client = ServerClient(made)
    try:
        return await inspect(made, client)
    finally:
        await client.aclose()


async def test_vllm_in_full() -> None:
    with ImitatedServer({**vllm(), "POST /tokenize": tokenizing(as_nano)}) as server:
        found = await look(server)
    facts = found.probed.facts
    assert (facts.version, facts.thinks, facts.tools) == ("0.32.0", True, True)
    assert facts.returns_ids is True and facts.reports_cache is False
    assert facts.problems[0].endswith("--enable-prompt-tokens-details")
    assert (found.prompt_tokens, found.sampled_tokens) == (21, 6)


async def test_a_missing_tool_parser() -> None:
    refusal = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'

    def answer(body: Any) -> tuple[int, Any]:
        if "tools" in body:
            return 400, {"error": {"message": refusal}}
        cached = {"cached_tokens": 0}
        return 200, chat_answer({"content": "Earth"}, prompt_tokens_details=cached)

    with ImitatedServer({**vllm(), "POST /v1/chat/completions": answer}) as server:
        facts = (await look(server, protocol=ServerProtocol.CHAT)).probed.facts
    assert (facts.tools, facts.thinks, facts.reports_cache) == (False, False, True)
    (line,) = facts.problems
    assert "--tool-call-parser deepseek_v4" in line


async def test_reasoning_left_in_the_answer() -> None:
    whole = chat_answer({"content": "<think>Easy.</think>Earth"})
    with ImitatedServer({**vllm(), "POST /v1/chat/completions": (200, whole)}) as server:
        facts = (await look(server)).probed.facts
    assert facts.thinks is True
    assert any("--reasoning-parser deepseek_v4" in line for line in facts.problems)


async def test_sglang_tells_of_its_parsers() -> None:
    answer = (200, chat_answer({"content": "Earth"}))
    with ImitatedServer({**sglang(), "POST /v1/chat/completions": answer}) as server:
        facts = (await look(server)).probed.facts
    assert facts.version == "0.5.23" and facts.tools is False
    assert any("--tool-call-parser deepseekv4" in line for line in facts.problems)


async def test_a_server_that_samples_nothing_still_has_facts() -> None:
    broken = (500, {"error": {"message": "CUDA out of memory"}})
    with ImitatedServer({**vllm(), "POST /v1/chat/completions": broken}) as server:
        found = await look(server)
    assert found.probed.facts.version == "0.32.0" and found.sampled_tokens == 0
    assert any("CUDA out of memory" in line for line in found.probed.facts.problems)


async def test_a_token_profile_samples_no_chat() -> None:
    with ImitatedServer({**vllm(), "POST /tokenize": tokenizing(as_nano)}) as server:
        await look(server, protocol=ServerProtocol.TOKENS)
    assert "POST /v1/chat/completions" not in server.asked
