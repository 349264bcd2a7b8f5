"""What a start finds out about each kind of server, from the answers that these give."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("tokenizers", reason="agreement needs our tokenizer")

from dsv4_agent.backends.base import ModelError
from dsv4_agent.backends.facts import ServerFacts, ServerKind
from dsv4_agent.backends.http.client import ServerClient
from dsv4_agent.backends.http.errors import ServerError
from dsv4_agent.backends.probe.light import Probed, probe, protocol_of
from dsv4_agent.backends.probe.mismatches import UnfitServerError
from dsv4_agent.backends.profile import Secret, ServerProfile, ServerProtocol, Timeouts
from dsv4_agent.dsml.dialect import Dialect
from dsv4_model.nano import WEIGHTS
from dsv4_model.tokenizer import Tokenizer
from tests.imitated_server import ImitatedServer, llama, model_list, sglang, tokenizing, transformers, vllm

NANO = Tokenizer.from_file(WEIGHTS / "tokenizer.json")
SINGLE = {NANO.token_bytes(id)[0]: id for id in range(NANO.size) if len(NANO.token_bytes(id)) == 1}
"""The tokens of single bytes."""


def as_nano(text: str) -> list[int]:
    return NANO.encode(text, True)


def as_letters(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def as_nano_in_small_pieces(text: str) -> list[int]:
    """The same vocabulary, but no merge is made."""
    parts = re.split("(" + "|".join(map(re.escape, NANO.added_tokens)) + ")", text)
    ids: list[int] = []
    for part in parts:
        structural = NANO.added_tokens.get(part)
        ids += [SINGLE[byte] for byte in part.encode()] if structural is None else [structural]
    return ids


async def ask(server: ImitatedServer, **profile: object) -> Probed:
    given = {"name": "test", "base_url": server.url, "tokenizer": "nano", "timeouts": Timeouts(connect=5)}
    made = ServerProfile(**{**given, **profile})  # type: ignore[arg-type]
    client = ServerClient(made)
    try:
        return await probe(made, client)
    finally:
        await client.aclose()


async def facts_of(server: ImitatedServer, **profile: object) -> ServerFacts:
    return (await ask(server, **profile)).facts


async def test_vllm_with_our_tokenizer_speaks_tokens() -> None:
    with ImitatedServer({**vllm(), "POST /tokenize": tokenizing(as_nano)}) as server:
        probed = await ask(server)
    facts = probed.facts
    assert (facts.kind, facts.context, facts.dialect) == (ServerKind.VLLM, 131_072, Dialect.V4_0731)
    assert facts.model == "deepseek-ai/DeepSeek-V4-Flash-0731" and facts.tokens_agree is True
    assert facts.protocols[0] is ServerProtocol.TOKENS and probed.tokens is not None
    assert len(server.asked) == 2 and not facts.problems


async def test_the_same_vocabulary_put_together_otherwise_will_do() -> None:
    """Our ids mean the same there, and it's we who make them."""
    routes = {**llama(), "POST /tokenize": tokenizing(as_nano_in_small_pieces, "content")}
    with ImitatedServer(routes) as server:
        facts = await facts_of(server)
    assert facts.tokens_agree is True and facts.protocols[0] is ServerProtocol.TOKENS


async def test_another_tokenizer_means_chat_and_a_word_about_it() -> None:
    with ImitatedServer({**vllm(), "POST /tokenize": tokenizing(as_letters)}) as server:
        probed = await ask(server)
    assert probed.facts.protocols == (ServerProtocol.CHAT,) and probed.tokens is None
    assert any("another tokenizer" in line for line in probed.facts.problems)


async def test_another_tokenizer_is_refused_where_tokens_are_wanted() -> None:
    with (
        ImitatedServer({**vllm(), "POST /tokenize": tokenizing(as_letters)}) as server,
        pytest.raises(UnfitServerError, match="another tokenizer"),
    ):
        await ask(server, protocol=ServerProtocol.TOKENS)


async def test_without_tokenize_the_protocol_stays_chat_unless_it_is_insisted_on() -> None:
    with ImitatedServer(vllm()) as server:
        assert (await facts_of(server)).protocols == (ServerProtocol.CHAT,)
        insisted = await facts_of(server, protocol=ServerProtocol.TOKENS)
    assert insisted.tokens_agree is None and insisted.protocols[0] is ServerProtocol.TOKENS


async def test_a_chat_profile_needs_no_tokenizer() -> None:
    with ImitatedServer(vllm()) as server:
        probed = await ask(server, protocol=ServerProtocol.CHAT, tokenizer="/nowhere")
    assert probed.tokens is None and server.asked == ["GET /v1/models"]


async def test_llama_cpp_has_the_window_of_a_slot() -> None:
    with ImitatedServer({**llama(), "POST /tokenize": tokenizing(as_nano, "content")}) as server:
        facts = await facts_of(server)
    assert (facts.kind, facts.context, facts.version) == (ServerKind.LLAMA_CPP, 65_536, "b7000-0c1e570")
    assert facts.tools is True and facts.tokens_agree is True and len(server.asked) == 3


async def test_sglang() -> None:
    with ImitatedServer(sglang()) as server:
        facts = await facts_of(server)
    assert (facts.kind, facts.context, facts.dialect) == (ServerKind.SGLANG, 1_048_576, Dialect.V4)


async def test_dsv4_says_preset_and_dialect() -> None:
    own = {"version": "0.1.0", "preset": "nano", "dialect": "v4", "vocabulary": 4_096}
    entry = {"id": "nano", "owned_by": "dsv4", "max_model_len": 65_536, "dsv4": own}
    routes = {"GET /v1/models": model_list(entry), "POST /tokenize": tokenizing(as_nano)}
    with ImitatedServer(routes) as server:
        facts = await facts_of(server, tokenizer=None)
    assert (facts.kind, facts.preset, facts.dialect) == (ServerKind.DSV4, "nano", Dialect.V4)
    assert facts.tokens_agree is True and facts.returns_ids is True


async def test_transformers_without_a_list_of_models() -> None:
    with ImitatedServer(transformers()) as server:
        facts = await facts_of(server, model="some/model")
        with pytest.raises(UnfitServerError, match="set the profile's model"):
            await ask(server)
    assert facts.kind is ServerKind.TRANSFORMERS and facts.protocols == (ServerProtocol.CHAT,)


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (
            503,
            {"error": {"message": "Loading model", "code": 503}},
            r"can't answer now \(503\): Loading model",
        ),
        (502, b"<html>Bad Gateway</html>", "can't answer now"),
        (429, {"error": "slow down"}, "slow down"),
        (308, b"", "not followed"),
        (200, b"<html>Welcome</html>", "not JSON"),
        (404, {"error": "no"}, "set the profile's model, and check base_url"),
        (500, {"error": "broken"}, "set the profile's model"),
    ],
)
async def test_why_there_is_no_list_is_told(status: int, body: object, said: str) -> None:
    with ImitatedServer({"GET /v1/models": (status, body)}) as server:
        with pytest.raises(ModelError, match=said):
            await ask(server)
        probed = await ask(server, model="m")
    assert probed.facts.kind is ServerKind.OPENAI
    assert probed.lasting is (status in (200, 308, 404))  # the others may know better in a moment


async def test_ds4_and_strangers() -> None:
    known = model_list({"id": "deepseek-v4-flash", "owned_by": "ds4.c", "context_length": 65_536})
    with ImitatedServer({"GET /v1/models": known}) as server:
        facts = await facts_of(server)
    assert (facts.kind, facts.context, facts.protocols) == (ServerKind.DS4, 65_536, (ServerProtocol.CHAT,))
    with ImitatedServer({"GET /v1/models": model_list({"id": "m", "owned_by": "someone"})}) as server:
        facts = await facts_of(server)
    assert (facts.kind, facts.context) == (ServerKind.OPENAI, None)


async def test_the_hosted_api_is_asked_nothing() -> None:
    profile = ServerProfile(name="d", base_url="https://api.deepseek.com", model="deepseek-v4-pro")
    facts = (await probe(profile, ServerClient(profile))).facts
    assert facts.kind is ServerKind.DEEPSEEK and facts.protocols == (ServerProtocol.CHAT,)


async def test_a_host_that_only_looks_hosted_is_asked() -> None:
    profile = ServerProfile(
        name="d", base_url="http://api.deepseek.com.invalid:1", model="m", timeouts=Timeouts(connect=2)
    )
    client = ServerClient(profile)
    with pytest.raises(ServerError):
        await probe(profile, client)
    await client.aclose()


async def test_models_are_chosen_or_asked_for() -> None:
    two = model_list(
        {"id": "a", "owned_by": "vllm"}, {"id": "b", "owned_by": "vllm", "max_model_len": 40_000}
    )
    with ImitatedServer({"GET /v1/models": two}) as server:
        assert (await facts_of(server, model="b")).context == 40_000
        with pytest.raises(UnfitServerError, match=r"several models \(a, b\)"):
            await ask(server)
        with pytest.raises(UnfitServerError, match="no model 'c'; it has a, b"):
            await ask(server, model="c")


async def test_mismatches_are_told() -> None:
    with ImitatedServer(vllm()) as server:
        told = (await facts_of(server, context=500_000, dialect=Dialect.V4)).problems
    assert "131,072 tokens, the profile says 500,000" in told[0]
    assert "dialect v4, but" in told[1] and len(told) == 2
    small = model_list({"id": "v4", "owned_by": "vllm", "max_model_len": 2_048})
    with ImitatedServer({"GET /v1/models": small}) as server:
        (line,) = (await facts_of(server)).problems
    assert "2,048" in line and "--max-model-len" in line


async def test_tools_of_chats_are_missed_only_where_chats_are_spoken() -> None:
    props = {"chat_template_caps": {"supports_tools": False}}
    routes = {**llama(), "GET /props": (200, props), "POST /tokenize": tokenizing(as_nano, "content")}
    with ImitatedServer(routes) as server:
        told = (await facts_of(server)).problems
        assert not any("tools" in line for line in told)
        told = (await facts_of(server, protocol=ServerProtocol.CHAT)).problems
    assert any("can't call tools in chats" in line for line in told)


async def test_a_key_over_an_open_line_is_told() -> None:
    secret = Secret("sk-1")
    with ImitatedServer(vllm()) as server:
        assert not (await facts_of(server, key=secret)).problems
    from dsv4_agent.backends.probe.mismatches import problems

    profile = ServerProfile(name="x", base_url="http://gpu.example:8000", key=secret)
    (line,) = problems(profile, ServerFacts(kind=ServerKind.OPENAI), "the server gpu.example:8000")
    assert "unencrypted" in line and "sk-1" not in line


@pytest.mark.parametrize(
    "listing",
    [
        b"[]",
        b'{"data": "no"}',
        b'{"data": [1, null, {"id": 5}, {"id": "\\u001b[2J"}, {"id": ""}]}',
        b'{"data": [{"id": "' + b"x" * 5_000 + b'"}]}',
        b"[" * 100_000,
        b"<html>",
    ],
)
async def test_nonsense_is_no_list(listing: bytes) -> None:
    with ImitatedServer({"GET /v1/models": (200, listing)}) as server:
        facts = await facts_of(server, model="m")
    assert facts.models == () and facts.kind is ServerKind.OPENAI


async def test_numbers_that_make_no_sense_are_not_believed() -> None:
    for wrong in (-1, 0, 1 << 60, "8192", True, 8192.5):
        listed = model_list({"id": "v4", "owned_by": "vllm", "max_model_len": wrong})
        with ImitatedServer({"GET /v1/models": listed}) as server:
            assert (await facts_of(server)).context is None


async def test_a_wrong_key_and_a_dead_server_are_unreachable() -> None:
    with ImitatedServer(vllm(), key="sk-right") as server:
        with pytest.raises(ServerError) as refused:
            await ask(server, key=Secret("sk-wrong"))
        assert (await facts_of(server, key=Secret("sk-right"))).kind is ServerKind.VLLM
    assert refused.value.unreachable and "sk-wrong" not in str(refused.value)
    with pytest.raises(ModelError) as dead:
        await ask(server)
    assert dead.value.unreachable


def test_the_protocol_of_the_profile_goes_first() -> None:
    facts = ServerFacts(kind=ServerKind.VLLM, protocols=(ServerProtocol.TOKENS, ServerProtocol.CHAT))
    profile = ServerProfile(name="x", base_url="http://x")
    assert protocol_of(profile, facts) is ServerProtocol.TOKENS
    chat = ServerProfile(name="x", base_url="http://x", protocol=ServerProtocol.CHAT)
    assert protocol_of(chat, facts) is ServerProtocol.CHAT
    assert protocol_of(profile, ServerFacts(kind=ServerKind.OPENAI)) is ServerProtocol.CHAT
