"""Task families about names in code: rename a symbol, find its definition, search for its uses."""

from __future__ import annotations

import re

from dsv4_model.nano.data import phrasing
from dsv4_model.nano.data.names import Names
from dsv4_model.nano.data.repository import Repository, distractors, note, path_for, python_function
from dsv4_model.nano.data.task import Call, Oracle, Outcome, Step, Task, Unsuitable

NO_MATCHES = "No matches."


def replace_everywhere(old: str, new: str, found: str) -> Oracle:
    """Edit the first file that a search for `old` found, search again, until nothing is found."""
    while found != NO_MATCHES:
        path = found.split(":", 1)[0]
        results = yield Step(
            f"`{old}` is in {path}. Edit it and search again.",
            (
                Call("edit", {"path": path, "old_string": old, "new_string": new, "replace_all": True}),
                Call("grep", {"pattern": old}),
            ),
        )
        found = results[1]


def code_with_symbol(names: Names, symbol: str, kind: str, files: int) -> Repository:
    """A repository in which `files` files use `symbol`, one of which defines it."""
    rng = names.rng
    repository = Repository()
    module = names.stem()
    folder = names.folder()
    language = rng.choice(("python", "python", "python", "python", "js", "go"))
    if kind == "class":
        language = "python"
    argument = names.noun()
    if language == "python":
        if kind == "class":
            head = f"class {symbol}:\n    def {names.snake()}(self):\n        return {rng.randrange(90)}\n"
        elif kind == "constant":
            head = f"{symbol} = {rng.randrange(1, 900)}\n"
        else:
            head = python_function(names, symbol, argument)
        extra = python_function(names, names.snake(), argument) if rng.random() < 0.5 else ""
        parts = [p for p in ((head, extra) if rng.random() < 0.5 else (extra, head)) if p]
        repository.add(f"{folder}{module}.py", "\n\n".join(parts))
        for _ in range(files - 1):
            use = f"{symbol}" if kind == "constant" else f"{symbol}({'' if kind == 'class' else argument})"
            text = f"from {module} import {symbol}\n\n\ndef {names.snake()}({argument}):\n    return {use}\n"
            repository.add(path_for(names, ".py"), text)
    elif language == "js":
        repository.add(
            f"{folder}{module}.js", f"function {symbol}({argument}) {{\n  return {argument} + 1;\n}}\n"
        )
        for _ in range(files - 1):
            call = f"{symbol}({rng.randrange(99)})"
            text = f"const {{ {symbol} }} = require('./{module}');\nconsole.log({call});\n"
            repository.add(path_for(names, ".js"), text)
    else:
        repository.add(
            f"{folder}{module}.go", f"package main\n\nfunc {symbol}(n int) int {{\n\treturn n + 1\n}}\n"
        )
        for _ in range(files - 1):
            head = f"package main\n\nfunc {names.pascal()}() int {{\n"
            text = f"{head}\treturn {symbol}({rng.randrange(99)})\n}}\n"
            repository.add(path_for(names, ".go"), text)
    if files > 1 and rng.random() < 0.15:
        repository.add(path_for(names, ".md"), f"{note(names, 1)}Call {symbol} first.\n")
    distractors(names, repository)
    return repository


def draw_symbols(names: Names, count: int) -> tuple[str, list[str]]:
    """`(kind, symbols)`: names of one style."""
    rng = names.rng
    kind = rng.choice(("function", "function", "function", "function", "class", "constant", "camel"))
    make = {"function": names.snake, "class": names.pascal, "constant": names.constant, "camel": names.camel}[
        kind
    ]
    return kind, [make() for _ in range(count)]


def rename(names: Names) -> Task:
    rng = names.rng
    kind, (old, new) = draw_symbols(names, 2)
    repository = code_with_symbol(names, old, kind, rng.choice((1, 2, 2, 3)))
    a, b = phrasing.quoted(rng, old, new)
    word = rng.choice(phrasing.KINDS)
    if kind in ("class", "constant"):
        word = rng.choice(("", f"the {kind} ", f"{kind} "))
    prompt = rng.choice(phrasing.RENAME).format(a=a, b=b, kind=word)
    if any(new in text for text in repository.files.values()):
        raise Unsuitable

    def oracle() -> Oracle:
        results = yield Step(
            f"Rename `{old}` to `{new}`. Search for `{old}`.", (Call("grep", {"pattern": old}),)
        )
        yield from replace_everywhere(old, new, results[0])
        yield Step(f"No `{old}` is left.", text=f"Renamed `{old}` to `{new}`.")

    expected = {p: t.replace(old, new) for p, t in repository.files.items()}
    return Task("rename", prompt, repository, oracle, lambda o: o.files() == expected)


def definition(names: Names) -> Task:
    rng = names.rng
    kind, (symbol,) = draw_symbols(names, 1)
    if kind == "constant":
        raise Unsuitable
    repository = code_with_symbol(names, symbol, kind, rng.choice((1, 2, 2, 3)))
    (a,) = phrasing.quoted(rng, symbol)
    word = "the class " if kind == "class" else rng.choice(("", "the function "))
    prompt = rng.choice(phrasing.DEFINITION).format(a=a, kind=word)
    keyword = re.compile(rf"^.*\b(?:def|class|function|func) {re.escape(symbol)}\b")
    path, line = next(
        (p, n)
        for p, text in repository.files.items()
        for n, row in enumerate(text.splitlines(), 1)
        if keyword.match(row)
    )
    pattern = f"(def|class|function|func) {symbol}"

    def oracle() -> Oracle:
        results = yield Step(f"Find where `{symbol}` is defined.", (Call("grep", {"pattern": pattern}),))
        found, number = results[0].split(":")[:2]
        yield Step(
            f"It is in {found}, line {number}.", text=f"`{symbol}` is defined in {found}, line {number}."
        )

    def check(outcome: Outcome) -> bool:
        return outcome.files() == repository.files and f"{path}, line {line}." in outcome.answer

    return Task("definition", prompt, repository, oracle, check)


def search(names: Names) -> Task:
    rng = names.rng
    kind, (symbol,) = draw_symbols(names, 1)
    repository = code_with_symbol(names, symbol, kind, rng.choice((1, 2, 2, 3)))
    (a,) = phrasing.quoted(rng, symbol)
    prompt = rng.choice(phrasing.SEARCH).format(a=a)

    def oracle() -> Oracle:
        results = yield Step(f"Search for `{symbol}`.", (Call("grep", {"pattern": symbol}),))
        yield Step("Report the matches.", text=f"`{symbol}` is used here:\n{results[0]}")

    wanted = {f"{p}:" for p, t in repository.files.items() if symbol in t}

    def check(outcome: Outcome) -> bool:
        return outcome.files() == repository.files and all(w in outcome.answer for w in wanted)

    return Task("search", prompt, repository, oracle, check)
