"""Outlines, symbols, and edits that break the syntax."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsv4_tools.syntax.check import broken_by
from dsv4_tools.syntax.languages import known_languages, syntax_of
from dsv4_tools.syntax.trees import definitions, problems, uses

PYTHON = '''LIMIT = 3


class Shop:
    """A total of things."""

    def total(self, items):
        # total of all
        return sum(items) + LIMIT

    class Inner:
        pass


def total(items):
    return Shop().total(items), "total", subtotal
'''
SOURCES = {
    "a.py": (PYTHON, [("constant", "LIMIT"), ("class", "Shop"), ("function", "total")]),
    "a.sh": ("f() {\n  g a\n}\nf b\n", [("function", "f")]),
    "a.c": ("struct S { int a; };\nint f(int a) { return g(a); }\n", [("class", "S"), ("function", "f")]),
    "a.cpp": (
        "namespace n { class A { int f(); }; }\nint n::A::f() { return 1; }\n",
        [("module", "n"), ("class", "A"), ("method", "n::A::f")],
    ),
    "a.go": (
        "package m\ntype T struct{}\nfunc (t T) F() int { return g() }\nfunc g() int { return 1 }\n",
        [("type", "T"), ("method", "F"), ("function", "g")],
    ),
    "A.java": (
        "class A { int f() { return g(); } interface I {} }\n",
        [("class", "A"), ("method", "f"), ("interface", "I")],
    ),
    "a.js": (
        "class A { f() { return g(); } }\nfunction g() {}\nconst h = () => g();\n",
        [("class", "A"), ("method", "f"), ("function", "g"), ("function", "h")],
    ),
    "a.rs": (
        "struct S; impl S { fn f(&self) -> i32 { g() } }\nfn g() -> i32 { 1 }\n",
        [("class", "S"), ("method", "f"), ("function", "g")],
    ),
    "a.ts": (
        "interface I { f(): number }\nclass A implements I { f(): number { return 1; } }\n"
        "type T = string;\nenum E { X }\n",
        [("interface", "I"), ("class", "A"), ("method", "f"), ("type", "T"), ("enum", "E")],
    ),
    "a.tsx": ("const C = () => <div>{g()}</div>;\n", [("function", "C")]),
    "a.json": ('{"a": 1}\n', []),
}


def test_every_language_is_tried() -> None:
    assert {syntax.name for path in SOURCES if (syntax := syntax_of(path))} == set(known_languages())


@pytest.mark.parametrize("path", SOURCES)
def test_definitions(path: str) -> None:
    text, want = SOURCES[path]
    syntax = syntax_of(path)
    assert syntax is not None
    found = [(row.kind, row.name) for row in definitions(syntax, text.encode())]
    assert set(want) <= set(found)
    assert problems(syntax, text.encode()) == []


@pytest.mark.parametrize("path", SOURCES)
def test_broken_text_is_noticed(path: str) -> None:
    text = SOURCES[path][0]
    assert broken_by(path, text.encode(), text.encode() + b"(((\n") is not None
    assert broken_by(path, text.encode(), text.encode()) is None
    assert broken_by(path, b"", text.encode()) is None


async def test_an_outline_shows_lines_and_nesting(root: Path, call: Any) -> None:
    (root / "shop.py").write_text(PYTHON)
    result = await call("outline", path="shop.py")
    assert result.text.splitlines() == [
        "1 constant LIMIT",
        "4-12 class Shop",
        "  7-9 function total",
        "  11-12 class Inner",
        "15-16 function total",
    ]


async def test_an_outline_of_a_folder(root: Path, call: Any) -> None:
    (root / "a").mkdir()
    (root / "a" / "x.py").write_text("def f(): pass\n")
    (root / "a" / "y.go").write_text("package m\nfunc g() {}\n")
    (root / "a" / "z.txt").write_text("def h(): pass\n")
    (root / ".gitignore").write_text("a/ignored.py\n")
    (root / "a" / "ignored.py").write_text("def i(): pass\n")
    result = await call("outline", path="a")
    assert result.text == "a/x.py:\n  1 function f\na/y.go:\n  2 function g"


async def test_what_cannot_be_outlined(root: Path, call: Any) -> None:
    (root / "z.txt").write_text("x")
    assert "use read" in (await call("outline", path="z.txt")).text
    assert "does not exist" in (await call("outline", path="none")).text
    (root / "empty.py").write_text("")
    assert (await call("outline", path="empty.py")).text == "(no definitions)"
    (root / "latin.py").write_bytes(b"def caf\xe9(): pass\n\0\xff")
    assert (await call("outline", path="latin.py")).text
    assert "outside" in (await call("outline", path="../x")).text


async def test_symbols_are_names_and_not_text(root: Path, call: Any) -> None:
    (root / "shop.py").write_text(PYTHON)
    (root / "use.py").write_text("from shop import total\n\nprint(total([1]))\n")
    result = await call("symbols", name="total")
    assert result.text.splitlines() == [
        "shop.py:7: definition: def total(self, items):",
        "shop.py:15: definition: def total(items):",
        'shop.py:16: return Shop().total(items), "total", subtotal',
        "use.py:1: from shop import total",
        "use.py:3: print(total([1]))",
        "Also inside strings, comments or longer names: 4 times (shop.py).",
    ]


async def test_symbols_of_bad_names_and_none(root: Path, call: Any) -> None:
    assert "one identifier" in (await call("symbols", name="a.b")).text
    assert "one identifier" in (await call("symbols", name="")).text
    assert "not defined or used" in (await call("symbols", name="nowhere")).text
    assert "does not exist" in (await call("symbols", name="x", path="none")).text


async def test_an_edit_that_breaks_the_parse_says_so(root: Path, call: Any) -> None:
    path = root / "a.py"
    path.write_text("def f():\n    return 1\n\n\ndef g():\n    return (2)\n")
    result = await call("edit", path="a.py", old_string="(2)", new_string="(2")
    assert "Warning: a.py no longer parses as python; see line 6" in result.text
    assert path.read_text().endswith("(2\n")
    # Broken already: what is no worse is not told again.
    result = await call("edit", path="a.py", old_string="return 1", new_string="return 3")
    assert "Warning" not in result.text
    result = await call("edit", path="a.py", old_string="(2", new_string="2")
    assert "Warning" not in result.text


async def test_a_written_file_that_does_not_parse_says_so(root: Path, call: Any) -> None:
    assert "no longer" in (await call("write", path="a.json", content='{"a": }')).text
    assert "Warning" not in (await call("write", path="b.json", content='{"a": 1}')).text
    assert "Warning" not in (await call("write", path="b.txt", content='{"a": }')).text


@given(st.binary(max_size=200), st.sampled_from(sorted(SOURCES)))
def test_nothing_is_too_broken(data: bytes, path: str) -> None:
    syntax = syntax_of(path)
    assert syntax is not None
    definitions(syntax, data)
    uses(syntax, data, "x")
    problems(syntax, data)
    broken_by(path, b"", data)
