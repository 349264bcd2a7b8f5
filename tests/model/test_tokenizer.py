from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library

from dsv4_model.tokenizer import REQUIRED_TOKENS, Tokenizer, TokenizerError, find_tokenizer
from tests.fixtures_path import SHARED
from tests.model import tiny


@pytest.fixture(scope="module")
def v4() -> Tokenizer:
    try:
        return Tokenizer.deepseek_v4()
    except TokenizerError as error:
        pytest.skip(str(error))


def test_recorded_cases(v4: Tokenizer) -> None:
    if SHARED is None:
        pytest.skip("shared fixtures are not present")
    cases = json.loads((SHARED / "tokenizer" / "tokenizer_cases.json").read_text(encoding="utf-8"))
    assert len(cases) > 20
    for case in cases:
        assert v4.encode(case["text"], structure=True) == case["ids"], case["text"]
        assert v4.decode(case["ids"]) == case["text"]


def test_ids_of_the_dossier(v4: Tokenizer) -> None:
    assert v4.size == 129_280
    assert (v4.bos_id, v4.eos_id, v4.user_id, v4.assistant_id) == (0, 1, 128803, 128804)
    assert (v4.think_id, v4.end_think_id, v4.dsml_id) == (128821, 128822, 128825)
    opening = '\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="'
    expected = [271, 30, 128825, 72461, 4941, 12548, 1018, 30, 128825, 40148, 5406, 2329, 1281]
    assert v4.encode(opening, structure=True) == expected
    assert v4.id_of(" name") == 2329
    assert v4.id_of("｜DSML｜") == 128825
    assert v4.id_of("no such token") is None


def test_no_structural_token_comes_out_of_content(v4: Tokenizer) -> None:
    structural = set(v4.added_tokens.values())
    for text in v4.added_tokens:
        ids = v4.encode(f"a{text}b", structure=False)
        assert not structural & set(ids), text
        assert v4.decode(ids) == f"a{text}b"
        assert v4.added_tokens[text] in v4.encode(f"a{text}b", structure=True)


def test_token_bytes_agree_with_the_library(v4: Tokenizer) -> None:
    library = Library.from_file(v4.name)
    for start in range(0, v4.size, 4001):
        ids = list(range(start, min(start + 7, v4.size)))
        said = library.decode(ids, skip_special_tokens=False)
        assert b"".join(map(v4.token_bytes, ids)).decode("utf-8", "replace") == said


@dataclass(frozen=True)
class Piece:
    text: str
    structure: bool


def test_segments_as_pairs_and_objects(v4: Tokenizer) -> None:
    pairs = [("<｜User｜>", True), ("say </think>", False), ("", False), ("<｜Assistant｜><think>", True)]
    ids = v4.encode_segments(pairs)
    assert ids == v4.encode_segments(Piece(*pair) for pair in pairs)
    assert [i for i in ids if i >= 128_000] == [128803, 128804, 128821]
    assert v4.decode(ids) == "<｜User｜>say </think><｜Assistant｜><think>"
    assert v4.encode_segments([]) == []


def test_neighbours_of_one_kind_are_joined() -> None:
    tokenizer = tiny.tokenizer()
    split = [("<thi", True), ("nk>", True), ("<thi", False), ("nk>", False)]
    ids = tokenizer.encode_segments(split)
    assert ids == [tokenizer.think_id, *tokenizer.encode("<think>", structure=False)]
    assert ids.count(tokenizer.think_id) == 1


@settings(max_examples=200, deadline=None)
@given(st.text(), st.booleans())
def test_any_text_survives(text: str, structure: bool) -> None:
    tokenizer = tiny.tokenizer()
    ids = tokenizer.encode(text, structure)
    assert tokenizer.decode(ids) == text
    decoder = tokenizer.stream_decoder()
    assert "".join(map(decoder.push, ids)) + decoder.flush() == text


def test_lone_surrogates_become_replacement_characters() -> None:
    text = tiny.tokenizer().decode(tiny.tokenizer().encode("a\udc80b", structure=False))
    assert text.strip("\ufffd") == text and set(text) == {"a", "b", "\ufffd"}


def test_stream_decoder_holds_back_unfinished_characters() -> None:
    tokenizer = tiny.tokenizer()
    decoder = tokenizer.stream_decoder()
    pieces = [decoder.push(i) for i in tokenizer.encode("é🙂", structure=False)]
    assert pieces == ["", "é", "", "", "", "🙂"]
    assert decoder.push(tokenizer.encode("🙂", structure=False)[0]) == ""
    assert decoder.flush() == "\ufffd"
    assert decoder.push(tokenizer.encode("x", structure=False)[0]) == "x"


def test_unknown_id_is_named() -> None:
    with pytest.raises(TokenizerError, match="no token with id 999999"):
        tiny.tokenizer().token_bytes(999_999)


def edited(**changes: Any) -> str:
    return json.dumps({**tiny.tokenizer_definition(), **changes})


def model_part(**changes: Any) -> dict[str, Any]:
    return {**tiny.tokenizer_definition()["model"], **changes}


def without(*names: str) -> dict[str, int]:
    return {k: v for k, v in tiny.tokenizer_definition()["model"]["vocab"].items() if k not in names}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not valid JSON"),
        (json.dumps(tiny.tokenizer_definition())[:-9], "not valid JSON"),
        ("[]", "not a tokenizer file"),
        ("{}", "not a tokenizer file"),
        (edited(added_tokens=None), "not a tokenizer file"),
        (edited(added_tokens=[{"content": 3}]), "malformed added token"),
        (edited(added_tokens=[]), "not a DeepSeek-V4 tokenizer: it has no token"),
        (edited(added_tokens=tiny.tokenizer_definition()["added_tokens"][:-1]), "no token ｜DSML｜"),
        (edited(model=model_part(type="WordPiece")), "its model is WordPiece"),
        (edited(decoder={"type": "WordPiece"}), "decoder is not byte-level"),
        (edited(model=model_part(merges=[["no", "such"]])), "is corrupt"),
        (edited(pre_tokenizer={"type": "Nonsense"}), "is corrupt"),
        (edited(model=model_part(vocab=without("A"))), "lacks 1 of the 256 bytes"),
        (edited(model=model_part(ignore_merges=True)), "content could produce the structural token"),
    ],
)
def test_unusable_files_are_refused_with_a_remedy(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(TokenizerError, match=problem) as caught:
        Tokenizer.from_file(file)
    assert str(file) in str(caught.value)
    assert "dsv4-agent[tokens]" in caught.value.remedy


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="does not exist"):
        Tokenizer.from_file(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TokenizerError, match="can't be read"):
        Tokenizer.from_file(tmp_path / "tokenizer.json")


def test_a_checkpoints_own_tokenizer_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tokenizer.json").write_text(edited(), encoding="utf-8")
    assert find_tokenizer(tmp_path) == tmp_path / "tokenizer.json"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TokenizerError, match=r"No tokenizer\.json"):
        find_tokenizer(tmp_path / "elsewhere")


def test_required_tokens_have_their_ids() -> None:
    tokenizer = tiny.tokenizer()
    assert [tokenizer.id_of(text) for text in REQUIRED_TOKENS] == list(range(7))
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.dsml_id) == (0, 1, 6)


def test_other_threads_run_while_a_long_text_is_encoded() -> None:
    """A server encodes in a thread, and would answer nobody meanwhile."""
    tokenizer = tiny.tokenizer()
    text = "word and " * 100_000
    ids: list[list[int]] = []
    thread = threading.Thread(target=lambda: ids.append(tokenizer.encode(text, False)))
    thread.start()
    turns = 0
    while thread.is_alive():
        time.sleep(0.001)
        turns += 1
    assert turns > 20
    assert ids == [tokenizer.encode("word and " * 1000, False) * 100]
    assert tokenizer.encode(text + "\ud800", False)[: len(ids[0])] == ids[0]
