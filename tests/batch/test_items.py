"""Where items come from, and what is known of each."""

from __future__ import annotations

from pathlib import Path

import pytest

from dsv4_agent.batch.items import Source, of_glob, of_jsonl, of_lines, of_repositories, read_source
from dsv4_agent.batch.plan import Items, PlanError

FILES = (
    "README.md",
    "src/app/core.py",
    "src/app/sub/core.py",
    "src/app/view.js",
    "src/app/view.test.js",
    "tests/test_core.py",
    "tests/unit/core.py",
)
SOURCE = Source(Path("/repository"), FILES)


def test_an_item_a_file() -> None:
    found = of_glob(Items(glob="src/**/*.py"), SOURCE)
    assert [item.values["path"] for item in found] == ["src/app/core.py", "src/app/sub/core.py"]
    assert [item.index for item in found] == [0, 1]
    first = found[0].values
    assert (first["name"], first["stem"], first["dir"]) == ("core.py", "core", "src/app")
    assert first["tests"] == ("tests/test_core.py", "tests/unit/core.py")


def test_tests_of_other_languages() -> None:
    [item] = of_glob(Items(glob="src/app/view.js"), SOURCE)
    assert item.values["tests"] == ("src/app/view.test.js",)


def test_exclude_and_limit() -> None:
    found = of_glob(Items(glob="**/*.py", exclude="tests/"), SOURCE)
    assert [item.values["path"] for item in found] == ["src/app/core.py", "src/app/sub/core.py"]
    assert len(of_glob(Items(glob="**/*.py", limit=1), SOURCE)) == 1


def test_a_glob_that_matches_nothing_is_an_error_though_another_does() -> None:
    with pytest.raises(PlanError, match=r"'lib/\*\.py' matches no file"):
        of_glob(Items(glob=("src/**/*.py", "lib/*.py")), SOURCE)
    with pytest.raises(PlanError, match="exclude leaves no file"):
        of_glob(Items(glob="src/**/*.py", exclude="src"), SOURCE)


def test_json_lines() -> None:
    text = '{"old": "a", "new": "b", "n": 3, "yes": true, "paths": ["x", "y"]}\n\n{"old": "c", "new": "d"}\n'
    first, second = of_jsonl(text, Items(jsonl="i"), SOURCE, "i")
    assert first.values["n"] == "3"
    assert first.values["yes"] == "true"
    assert first.values["paths"] == ("x", "y")
    assert (first.id, second.id) == ("a-b-3-true", "c-d")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1}\n{', "line 2 is not JSON"),
        ("[1]", "line 1 is not a JSON object"),
        ("\n\n", "gives no items"),
        ('{"a": {"b": 1}}', "'a' must be a text"),
        ('{"a": ["x", "y\\u0000"]}', "'a' holds a NUL byte"),
        ("[" * 100_000, "line 1 is not JSON"),
    ],
)
def test_bad_json_lines(text: str, words: str) -> None:
    with pytest.raises(PlanError, match=words):
        of_jsonl(text, Items(jsonl="i"), SOURCE, "i.jsonl")


def test_only_a_line_feed_ends_a_line() -> None:
    odd = "a\u2028b\x85c\x1cd\x0be"
    [row] = of_jsonl('{"text": "a\u2028b\x85c"}\r\n', Items(jsonl="i"), SOURCE, "i")
    assert row.values["text"] == "a\u2028b\x85c"
    assert [item.values["line"] for item in of_lines(f"{odd}\nx\r\n", Items(lines="i"), SOURCE, "i")] == [
        odd,
        "x",
    ]


def test_a_list_divided_by_nul_bytes_is_refused_with_the_remedy() -> None:
    with pytest.raises(PlanError, match=r"'line' holds a NUL byte.*git ls-files without -z"):
        of_lines("a.py\0b.py\0", Items(lines="i"), SOURCE, "i")


def test_lines_may_be_files_or_objects() -> None:
    a, b, c = of_lines('src/app/core.py\n{"x": "1"}\nword\n', Items(command="c"), SOURCE, "c")
    assert a.values["stem"] == "core"
    assert b.values["x"] == "1"
    assert c.values["line"] == "word"


def test_ids_are_unique_and_fit_a_branch() -> None:
    rows = ["a/b c", "a-b-c", "A-B-C", "..", "x.lock", "é", "-", "a" * 200, "a" * 200 + "b"]
    ids = [item.id for item in of_lines("\n".join(rows), Items(lines="l"), SOURCE, "l")]
    assert len({id.casefold() for id in ids}) == len(rows)
    for id in ids:
        assert id and not id.endswith((".lock", ".")) and ".." not in id and not id.startswith("-"), id


def test_an_item_knows_its_number_and_a_given_id_is_kept() -> None:
    [item] = of_jsonl('{"id": "my item", "index": "9"}', Items(jsonl="i"), SOURCE, "i")
    assert item.id == "my-item"
    assert item.values["index"] == "9"


def test_repositories(tmp_path: Path) -> None:
    first, second = of_repositories([tmp_path / "a", tmp_path / "b"], Items(repositories="*"), SOURCE)
    assert first.repository == tmp_path / "a"
    assert second.id == "b"


def test_reading_a_file_of_items(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="can't be read"):
        read_source(tmp_path / "none")
    (tmp_path / "windows").write_bytes(b"\xef\xbb\xbffirst\r\n")
    assert read_source(tmp_path / "windows") == "first\n"
    (tmp_path / "latin").write_bytes(b"\xe9")
    with pytest.raises(PlanError, match="is not UTF-8"):
        read_source(tmp_path / "latin")
