"""Task families about tests: run them and report; follow an error to a misspelt name and fix it."""

from __future__ import annotations

import difflib
import re

from dsv4_model.nano.data import phrasing
from dsv4_model.nano.data.names import Names, misspell
from dsv4_model.nano.data.repository import Repository, distractors
from dsv4_model.nano.data.symbols import replace_everywhere
from dsv4_model.nano.data.task import Call, Oracle, Outcome, Step, Task, Unsuitable

COMMAND = "python3 -m unittest -q"
RUN = Call("shell", {"command": COMMAND})

_ERROR = re.compile(
    r"NameError: name '(?P<name>\w+)' is not defined"
    r"|AttributeError: module '(?P<module>\w+)' has no attribute '(?P<attribute>\w+)'"
    r"|ImportError: cannot import name '(?P<imported>\w+)' from '(?P<source>\w+)'"
)
_HINT = re.compile(r"Did you mean: '(\w+)'\?")
_DEFINITION = re.compile(r"def \w+\(.*?\):")
_FRAME = re.compile(r'File ".*?(\w+\.py)"')
_COUNT = re.compile(r"Ran (\d+) tests?")


def _suite(names: Names) -> tuple[Repository, str, str, str, str]:
    """`(repository, module, function, argument, test path)`: a module of sums and a passing test for it."""
    rng = names.rng
    repository = Repository()
    module, function, helper, argument = names.stem(), names.snake(), names.snake(), names.noun()
    if argument in (function, helper) or len(argument) < 4:
        raise Unsuitable
    k, m, value = rng.randrange(2, 30), rng.randrange(2, 9), rng.randrange(2, 20)
    text = (
        f"def {helper}({argument}):\n    return {argument} + {k}\n\n\n"
        f"def {function}({argument}):\n    return {helper}({argument}) * {m}\n"
    )
    repository.add(f"{module}.py", text)
    tests = [
        f"    def test_{names.noun()}(self):\n"
        f"        self.assertEqual({{call}}({value}), {(value + k) * m})\n"
    ]
    if rng.random() < 0.25:
        second = value + 1
        tests.append(
            f"    def test_{names.noun()}_2(self):\n"
            f"        self.assertEqual({{call}}({second}), {(second + k) * m})\n"
        )
    style = rng.choice(("from", "module"))
    call = function if style == "from" else f"{module}.{function}"
    head = f"from {module} import {function}" if style == "from" else f"import {module}"
    body = "\n".join(t.format(call=call) for t in tests)
    test_path = repository.add(
        f"test_{module}.py",
        f"import unittest\n\n{head}\n\n\nclass {names.pascal()}Test(unittest.TestCase):\n{body}",
    )
    distractors(names, repository, 0, 1)
    return repository, module, function, argument, test_path


def last_error(output: str) -> str | None:
    """The last line of a test run's output that names an exception."""
    rows = [row for row in output.splitlines() if re.match(r"\w+Error: ", row)]
    return rows[-1] if rows else None


def report(names: Names) -> Task:
    rng = names.rng
    repository, module, _, _, _ = _suite(names)
    broken = rng.random() < 0.4
    if broken:
        path = f"{module}.py"
        text = repository.files[path]
        repository.files[path] = text.replace(" * ", " - ", 1)
    prompt = rng.choice(phrasing.TEST)

    def oracle() -> Oracle:
        results = yield Step("Run the tests.", (RUN,))
        error = last_error(results[0])
        if error is None:
            count = _COUNT.search(results[0])
            if count is None or "OK" not in results[0]:
                raise Unsuitable
            yield Step("All tests pass.", text=f"All tests pass: {count[0]}.")
        else:
            yield Step("The tests fail.", text=f"The tests fail: {error}")

    def check(outcome: Outcome) -> bool:
        told = ("tests fail" in outcome.answer) if broken else ("tests pass" in outcome.answer)
        return told and outcome.files() == repository.files

    return Task("test", prompt, repository, oracle, check)


def fix(names: Names) -> Task:
    rng = names.rng
    repository, module, function, argument, test_path = _suite(names)
    path = f"{module}.py"
    test_text = repository.files[test_path]
    right = dict(repository.files)
    kind = rng.choice(("local", "helper", "caller"))
    if kind == "caller":
        wrong = misspell(function, rng)
        if wrong in function or function in wrong:
            raise Unsuitable
        repository.files[test_path] = test_text.replace(function, wrong)
    else:
        lines = repository.files[path].splitlines(keepends=True)
        name = argument if kind == "local" else lines[0].split("(")[0].removeprefix("def ")
        wrong = misspell(name, rng)
        if wrong in name or name in wrong or any(wrong in text for text in right.values()):
            raise Unsuitable
        row = rng.choice((1, 5)) if kind == "local" else 5
        lines[row] = lines[row].replace(name, wrong)
        repository.files[path] = "".join(lines)
    prompt = rng.choice(phrasing.FIX)

    def oracle() -> Oracle:
        results = yield Step("First run the tests.", (RUN,))
        error = last_error(results[0])
        if error is None:
            raise Unsuitable
        wanted = _ERROR.search(error)
        if wanted is None:
            raise Unsuitable
        old = wanted["name"] or wanted["attribute"] or wanted["imported"]
        # What is chosen from is said first: repeating a line is easy, and choosing is easier from near by.
        if hint := _HINT.search(error):
            new, seen = hint[1], error
        else:
            source = wanted["module"] or wanted["source"]
            file = f"{source}.py" if source else _FRAME.findall(results[0])[-1]
            think = f"{error} `{old}` is misspelt. Read {file}."
            results = yield Step(think, (Call("read", {"path": file}),))
            known = [name for name in re.findall(r"[A-Za-z_]\w+", results[0]) if name != old]
            near = difflib.get_close_matches(old, known, 1)
            if not near:
                raise Unsuitable
            new, seen = near[0], " ".join(_DEFINITION.findall(results[0]))
        think = f"{seen} Rename `{old}` to `{new}`. Search for `{old}`."
        results = yield Step(think, (Call("grep", {"pattern": old}),))
        yield from replace_everywhere(old, new, results[0])
        results = yield Step("Now run the tests again.", (RUN,))
        count = _COUNT.search(results[0])
        if count is None or "OK" not in results[0]:
            raise Unsuitable
        yield Step("All tests pass.", text=f"Fixed: `{old}` is now `{new}`. All tests pass: {count[0]}.")

    return Task("fix", prompt, repository, oracle, lambda o: o.files() == right)
