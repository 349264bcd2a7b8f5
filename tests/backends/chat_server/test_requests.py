"""What servers are sent: legal histories, the fields of each kind, and bodies that only grow."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from dsv4_agent.backends.base import BackendNotice, ModelError
from dsv4_agent.backends.chat_server.body import RequestBody
from dsv4_agent.backends.chat_server.manners import manners_of
from dsv4_agent.backends.facts import ServerKind
from dsv4_agent.dsml.dialect import Thinking

from .loopback import OPENING, PROMPT, TOOLS, Answer, ask, backend_of, delta, refusal, serving, sse

FINE = Answer(sse(delta("stop", content="Hi.")))


def call(id: str | None = "c1", **more: Any) -> dict[str, Any]:
    named = {} if id is None else {"id": id}
    return {**named, "name": "read", "arguments": {"path": "a"}, **more}


def turn(*calls: dict[str, Any], content: str = "", thought: str = "Hm.") -> tuple[dict[str, Any], ...]:
    message = {"role": "assistant", "content": content}
    if thought:
        message["reasoning_content"] = thought
    return ({**message, **({"tool_calls": list(calls)} if calls else {})},)


def results(*texts: str, ids: tuple[str | None, ...] = (), note: str = "") -> tuple[dict[str, Any], ...]:
    named = [*ids, *([None] * len(texts))]
    messages = [
        {"role": "tool", **({"tool_call_id": id} if id else {}), "content": text}
        for text, id in zip(texts, named, strict=False)
    ]
    return (*messages, *([{"role": "user", "content": note}] if note else []))


HISTORY = (OPENING, PROMPT, turn(call()), results("1\tx", ids=("c1",)))


def sent(entries: Any, kind: ServerKind = ServerKind.OPENAI) -> list[dict[str, Any]]:
    body = json.loads(RequestBody("m", manners_of(kind)).build(entries, TOOLS, {}))
    messages: list[dict[str, Any]] = body["messages"]
    require_legal(messages)
    return messages


def require_legal(messages: list[dict[str, Any]]) -> None:
    """DeepSeek's and OpenAI's rules: results follow their calls at once, all of them; arguments are JSON."""
    owed: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            assert message["tool_call_id"] in owed, "a result without its call"
            owed.remove(message["tool_call_id"])
            continue
        assert not owed, f"calls without a result: {owed}"
        for made in message.get("tool_calls", []):
            assert made["type"] == "function"
            assert isinstance(json.loads(made["function"]["arguments"]), dict)
            owed.append(made["id"])
        assert len(set(owed)) == len(owed), "two calls with one id"
        thought = any(message.get(field) for field in ("reasoning", "reasoning_content"))
        assert message["content"] or message.get("tool_calls") or thought
    assert not owed


# -- histories -------------------------------------------------------------------------------------------


def test_a_call_and_its_result() -> None:
    *_, assistant, result = sent(HISTORY)
    function = {"name": "read", "arguments": '{"path": "a"}'}
    assert assistant["tool_calls"] == [{"id": "c1", "type": "function", "function": function}]
    assert result == {"role": "tool", "tool_call_id": "c1", "content": "1\tx"}


def test_calls_of_a_backend_without_ids_get_some() -> None:
    entries = (
        OPENING,
        PROMPT,
        turn(call(None), call(None)),
        results("a", "b"),
        turn(call(None)),
        results("c"),
    )
    messages = sent(entries)
    assert [m["content"] for m in messages if m["role"] == "tool"] == ["a", "b", "c"]


def test_results_that_answer_no_call_are_said() -> None:
    entries = (
        OPENING,
        PROMPT,
        turn(call()),
        results("Error: unreadable", "1\tx", ids=(None, "c1"), note="Go on."),
    )
    *_, result, said = sent(entries)
    assert result["content"] == "1\tx"
    assert said == {"role": "user", "content": "Error: unreadable\n\nGo on."}


def test_an_unreadable_call_alone() -> None:
    entries = (OPENING, PROMPT, turn(content="<｜DSML"), results("Error: unreadable"))
    assert sent(entries)[-1] == {"role": "user", "content": "Error: unreadable"}


def test_a_call_whose_result_is_missing_is_answered() -> None:
    assert sent((OPENING, PROMPT, turn(call()), PROMPT))[-2]["content"].startswith("Error")


@pytest.mark.parametrize("kind", list(ServerKind))
def test_an_interrupted_turn_and_a_prompt_that_was_never_answered(kind: ServerKind) -> None:
    messages = sent((OPENING, PROMPT, turn(), PROMPT, PROMPT), kind)
    if kind in (ServerKind.OPENAI, ServerKind.TRANSFORMERS):
        roles = [message["role"] for message in messages[1:]]
        assert roles == ["user", "assistant"] * 2 + ["user"]
        assert all(message["content"] for message in messages)


def test_arguments_go_back_as_they_were_sent_but_never_as_no_json() -> None:
    said = '{"path":"a","limit":"3"}'
    assert sent((OPENING, PROMPT, turn(call(sent=said)), results("x")))[2]["tool_calls"][0]["function"] == {
        "name": "read",
        "arguments": said,
    }


def test_names_that_no_server_takes() -> None:
    made = sent((OPENING, PROMPT, turn({"id": "c", "name": "näme()\n" * 30, "arguments": {}}), results("x")))
    name = made[2]["tool_calls"][0]["function"]["name"]
    assert len(name) == 64
    assert name.isascii()
    assert name.replace("_", "").isalnum()


def test_half_a_surrogate_pair_can_be_sent() -> None:
    assert sent((OPENING, ({"role": "user", "content": "a\udc80b"},)))[-1]["content"] == "a?b"


@pytest.mark.parametrize("kind", list(ServerKind))
def test_reasoning_goes_back_in_the_server_s_own_field(kind: ServerKind) -> None:
    assistant = sent((*HISTORY, turn(content="Done.")), kind)[-1]
    fields = {name for name in ("reasoning", "reasoning_content") if assistant.get(name) == "Hm."}
    assert fields == {"reasoning", "reasoning_content"} if kind is ServerKind.VLLM else {"reasoning_content"}


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
async def test_reasoning_goes_back_as_an_unknown_server_sends_it(field: str) -> None:
    async with serving(Answer(sse(delta("stop", content="Hi.", **{field: "Hm."})))) as server:
        backend = backend_of(server)
        await ask(backend)
        await ask(backend, OPENING, PROMPT, turn(content="Hi."), PROMPT)
    assert server.requests[1]["messages"][2] == {"role": "assistant", "content": "Hi.", field: "Hm."}


# -- fields of the kinds ---------------------------------------------------------------------------------


async def fields(
    kind: ServerKind, *, thinking: Thinking = Thinking.THINKING, **profile: Any
) -> dict[str, Any]:
    async with serving(FINE) as server:
        await ask(backend_of(server, kind, **profile), thinking=thinking, temperature=0.5, min_p=0.1, seed=7)
    (request,) = server.requests
    return {name: value for name, value in request.items() if name not in ("model", "messages", "tools")}


COMMON = {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": 1000}
SAMPLING = {"temperature": 0.5, "top_p": 1.0, "min_p": 0.1, "seed": 7}
TEMPLATE = {"chat_template_kwargs": {"thinking": True, "enable_thinking": True}}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (ServerKind.DEEPSEEK, {"temperature": 0.5, "top_p": 1.0, "thinking": {"type": "enabled"}}),
        (ServerKind.VLLM, {**SAMPLING, **TEMPLATE}),
        (ServerKind.SGLANG, {**SAMPLING, **TEMPLATE}),
        (ServerKind.LLAMA_CPP, {**SAMPLING, **TEMPLATE}),
        (ServerKind.OPENAI, {"temperature": 0.5, "top_p": 1.0, "seed": 7}),
    ],
)
async def test_each_kind_gets_its_own_fields(kind: ServerKind, expected: dict[str, Any]) -> None:
    assert await fields(kind) == {**COMMON, **expected}
    assert (await fields(kind, effort="high"))["reasoning_effort"] == "high"
    assert "reasoning_effort" not in await fields(kind, effort="high", thinking=Thinking.CHAT)


async def test_transformers_gets_nothing_but_standard_fields() -> None:
    assert await fields(ServerKind.TRANSFORMERS, effort="high") == {
        "stream": True, "max_tokens": 1000, "temperature": 0.5, "top_p": 1.0, "seed": 7,
    }  # fmt: skip


async def test_thinking_can_be_off() -> None:
    off = Thinking.CHAT
    assert (await fields(ServerKind.DEEPSEEK, thinking=off))["thinking"] == {"type": "disabled"}
    kwargs = (await fields(ServerKind.VLLM, thinking=off))["chat_template_kwargs"]
    assert kwargs == {"thinking": False, "enable_thinking": False}


async def test_the_profile_s_own_numbers_go_first() -> None:
    found = await fields(ServerKind.VLLM, temperature=0.1, top_p=0.2, min_p=0.3, max_tokens=99)
    assert (found["temperature"], found["top_p"], found["min_p"], found["max_tokens"]) == (0.1, 0.2, 0.3, 99)


# -- refusals --------------------------------------------------------------------------------------------


def deepseek(request: dict[str, Any]) -> Answer:
    """DeepSeek's rules on history."""
    try:
        require_legal(request["messages"])
    except AssertionError as error:
        return refusal(400, str(error))
    for message in request["messages"]:
        if message.get("tool_calls") and "reasoning_content" not in message:
            return refusal(
                400, "The `reasoning_content` in the thinking mode must be passed back to the API."
            )
    return FINE


def refusing(*names: str, words: Callable[[str], Answer]) -> Callable[[dict[str, Any]], Answer]:
    """A server that knows no `names`, of the request nor of its messages."""

    def answer(request: dict[str, Any]) -> Answer:
        found = set(request).union(*request["messages"])
        unknown = next((name for name in names if name in found), None)
        return FINE if unknown is None else words(unknown)

    return answer


def pydantic(name: str) -> Answer:
    detail = [{"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not permitted"}]
    return Answer([json.dumps({"detail": detail}).encode()], 422, "application/json")


def groq(name: str) -> Answer:
    return refusal(400, f"'messages.2' : for 'role:assistant' property '{name}' is unsupported")


@pytest.mark.parametrize("thought", ["Hm.", ""])
async def test_deepseek_never_misses_reasoning(thought: str) -> None:
    entries = (OPENING, PROMPT, turn(call(), thought=thought), results("x", ids=("c1",)))
    async with serving(deepseek) as server:
        await ask(backend_of(server, ServerKind.DEEPSEEK), *entries)
    assert len(server.raw) == 1


async def test_deepseek_behind_an_unknown_server_is_understood() -> None:
    entries = (OPENING, PROMPT, turn(call(), thought=""), results("x", ids=("c1",)))
    async with serving(deepseek) as server:
        await ask(backend_of(server), *entries)
    assert len(server.raw) == 2


@pytest.mark.parametrize("words", [pydantic, groq])
@pytest.mark.parametrize(
    "names", [("reasoning_content",), ("reasoning", "reasoning_content", "chat_template_kwargs", "min_p")]
)
async def test_fields_that_a_server_refuses_are_left_out_for_good(
    names: tuple[str, ...], words: Callable[[str], Answer]
) -> None:
    async with serving(refusing(*names, words=words)) as server:
        backend = backend_of(server, ServerKind.VLLM)
        first = await ask(backend, *HISTORY, min_p=0.1)
        tried = len(server.raw)
        await ask(backend, *HISTORY, turn(content="Hi."), PROMPT, min_p=0.1)
    assert tried == len(names) + 1
    assert len(server.raw) == tried + 1
    told = [event.text for event in first if isinstance(event, BackendNotice)]
    assert [name in text for name, text in zip(sorted(names), sorted(told), strict=True)]


async def test_the_other_name_of_the_limit() -> None:
    message = "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."
    async with serving(refusal(400, message), FINE) as server:
        await ask(backend_of(server))
    assert server.requests[1]["max_completion_tokens"] == 1000
    assert "max_tokens" not in server.requests[1]


@pytest.mark.parametrize(
    ("message", "limit"),
    [
        ("max_tokens is too large: 1000. This model supports at most 300 completion tokens", 300),
        ("Invalid max_tokens value, the valid range of max_tokens is [1, 300]", 300),
        ("<400> InternalError.Algo.InvalidParameter: Range of max_tokens should be [1, 300]", 300),
        (
            "This endpoint's maximum context length is 1200 tokens. However, you requested about 1900 tokens "
            "(600 of text input, 300 of tool input, 1000 in the output). Please reduce the length.",
            300,
        ),
        (
            "'max_tokens' or 'max_completion_tokens' is too large: 1000. This model's maximum context length "
            "is 1200 tokens and your request has 900 input tokens (1000 > 1200 - 900).",
            300,
        ),
        (
            "This model's maximum context length is 1200 tokens. However, you requested 1900 tokens "
            "(900 in the messages, 1000 in the completion). Please reduce the length.",
            300,
        ),
    ],
)
async def test_a_limit_that_is_told_is_kept(message: str, limit: int) -> None:
    async with serving(refusal(400, message), FINE) as server:
        await ask(backend_of(server))
    assert server.requests[1]["max_tokens"] == limit


@pytest.mark.parametrize(
    ("message", "help"),
    [
        ('"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser', "start vLLM with"),
        ("tools param requires --jinja flag", "--jinja"),
        ("the messages are bad", "dsv4 doctor"),
        ("This model's maximum context length is 100 tokens, you sent 900 input tokens", "/compact"),
    ],
)
async def test_other_refusals_are_errors_with_a_remedy(message: str, help: str) -> None:
    async with serving(refusal(400, message)) as server:
        with pytest.raises(ModelError, match=help):
            await ask(backend_of(server))
    assert len(server.raw) == 1


async def test_a_server_that_refuses_everything_is_not_asked_for_ever() -> None:
    def contrary(request: dict[str, Any]) -> Answer:
        optional = [name for name in request if name not in ("model", "messages", "tools", "stream")]
        return refusal(400, f"unknown field {optional[-1]}")

    async with serving(contrary) as server:
        with pytest.raises(ModelError):
            await ask(backend_of(server, ServerKind.VLLM))
    assert len(server.raw) < 12


# -- bodies ----------------------------------------------------------------------------------------------


def test_a_body_grows_at_its_end_only() -> None:
    body = RequestBody("m", manners_of(ServerKind.VLLM))
    entries: list[Any] = [OPENING, PROMPT]
    before = b""
    for number in range(60):
        built = body.build(entries, TOOLS, {"stream": True, "max_tokens": 10_000 - number})
        at = built.index(b'],"stream"')
        assert built[:at].startswith(before)
        assert json.loads(built)["max_tokens"] == 10_000 - number
        before = built[:at]
        entries += [turn(call(f"c{number}")), results(f"{number}", ids=(f"c{number}",))]


def test_what_was_sent_is_not_serialised_again(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[object] = []
    real = json.dumps
    body = RequestBody("m", manners_of(ServerKind.VLLM))
    entries: list[Any] = [OPENING, PROMPT]
    body.build(entries, TOOLS, {})
    entries += [turn(call()), results("x", ids=("c1",))]

    def watched(value: object, **options: Any) -> str:
        written.append(value)
        return real(value, **options)

    monkeypatch.setattr(json, "dumps", watched)
    body.build(entries, TOOLS, {"max_tokens": 5})
    messages = [value for value in written if isinstance(value, dict) and "role" in value]
    assert [message["role"] for message in messages] == ["assistant", "tool"]


def test_going_back_and_compaction_begin_anew() -> None:
    body = RequestBody("m", manners_of(ServerKind.VLLM))
    entries: list[Any] = [*HISTORY, turn(content="Done.")]
    body.build(entries, TOOLS, {})
    other = ({"role": "user", "content": "Something else."},)
    for kept in ([OPENING, other], [OPENING, PROMPT, turn(content="Other.")], [PROMPT, other]):
        fresh = RequestBody("m", manners_of(ServerKind.VLLM)).build(kept, TOOLS, {})
        assert body.build(kept, TOOLS, {}) == fresh
