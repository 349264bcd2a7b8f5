"""Task families about files and lines: list, look up, create, replace text, delete and insert a line."""

from __future__ import annotations

from fnmatch import fnmatch

from dsv4_model.nano.data import phrasing
from dsv4_model.nano.data.names import Names
from dsv4_model.nano.data.repository import (
    Repository,
    configuration,
    distractors,
    entries,
    note,
    path_for,
    python_module,
)
from dsv4_model.nano.data.task import Call, Oracle, Outcome, Step, Task, Unsuitable

_LISTS = (
    ("the Python files", "Python files", "**/*.py"),
    ("all Python files", "Python files", "**/*.py"),
    ("the Markdown files", "Markdown files", "**/*.md"),
    ("the JavaScript files", "JavaScript files", "**/*.js"),
    ("the text files", "text files", "**/*.txt"),
    ("all files", "files", "**/*"),
    ("the files", "files", "**/*"),
    ("every file", "files", "**/*"),
    ("all .md files", ".md files", "**/*.md"),
    ("all .py files", ".py files", "**/*.py"),
    ("all .txt files", ".txt files", "**/*.txt"),
    ("all .js files", ".js files", "**/*.js"),
)


def listing(names: Names) -> Task:
    rng = names.rng
    repository = Repository()
    distractors(names, repository, 1, 4)
    what, plain, pattern = rng.choice(_LISTS)
    prompt = rng.choice(phrasing.LIST).format(what=what, what_plain=plain)
    suffix = pattern.removeprefix("**/")
    wanted = {p for p in repository.files if fnmatch(p, suffix)}

    def oracle() -> Oracle:
        results = yield Step(f"List {pattern}.", (Call("glob", {"pattern": pattern}),))
        yield Step("Report the list.", text=results[0])

    def check(outcome: Outcome) -> bool:
        lines = set(outcome.answer.splitlines())
        return outcome.files() == repository.files and (
            wanted <= lines if wanted else "No files" in outcome.answer
        )

    return Task("list", prompt, repository, oracle, check)


def lookup(names: Names) -> Task:
    rng = names.rng
    repository = Repository()
    pairs = entries(names, rng.randint(2, 6))
    suffix, text = configuration(names, pairs)
    path = repository.add(path_for(names, suffix), text)
    distractors(names, repository)
    key, value = rng.choice(pairs)
    shown = key.upper() if suffix == ".env" else key
    (a,) = phrasing.quoted(rng, shown)
    prompt = rng.choice(phrasing.LOOKUP).format(a=a, path=path)
    rows = [row.strip() for other in repository.files.values() for row in other.splitlines() if shown in row]
    if len(rows) != 1:
        raise Unsuitable
    row = rows[0]

    def oracle() -> Oracle:
        # A search shows one line where reading shows them all: then there is but one value to repeat.
        yield Step(f"Search for `{shown}`.", (Call("grep", {"pattern": shown}),))
        yield Step(f"`{shown}` is here: {row}", text=f"`{shown}` is `{value}`.")

    def check(outcome: Outcome) -> bool:
        return outcome.files() == repository.files and f"`{value}`" in outcome.answer

    return Task("lookup", prompt, repository, oracle, check)


def create(names: Names) -> Task:
    rng = names.rng
    repository = Repository()
    distractors(names, repository, 1, 2)
    match rng.randrange(4):
        case 0:
            suffix, body = ".py", python_module(names, functions=1)
        case 1:
            suffix, body = configuration(names, entries(names, rng.randint(1, 3)))
        case _:
            suffix, body = rng.choice((".md", ".txt")), note(names, rng.randint(1, 3))
    path = path_for(names, suffix)
    body = body.rstrip("\n")
    prompt = rng.choice(phrasing.CREATE).format(path=path, body=body)

    def oracle() -> Oracle:
        yield Step(f"Create {path}.", (Call("write", {"path": path, "content": body + "\n"}),))
        yield Step("It is written.", text=f"Created {path}.")

    def check(outcome: Outcome) -> bool:
        text = outcome.text(path)
        others = {p: t for p, t in outcome.files().items() if p != path}
        return text is not None and text.rstrip("\n") == body and others == repository.files

    return Task("create", prompt, repository, oracle, check)


def _edit(path: str, old: str, new: str) -> Call:
    return Call("edit", {"path": path, "old_string": old, "new_string": new})


def _changed(repository: Repository, path: str, text: str) -> dict[str, str]:
    return repository.files | {path: text}


def replace(names: Names) -> Task:
    rng = names.rng
    repository = Repository()
    distractors(names, repository, 0, 1)
    if rng.random() < 0.5:
        suffix, text = rng.choice((".md", ".txt")), note(names)
    else:
        suffix, text = configuration(names, entries(names, rng.randint(2, 4)))
    path = repository.add(path_for(names, suffix), text)
    line = rng.choice(
        [row for row in text.splitlines() if len(row) > 4 and " " in row.strip()] or text.splitlines()
    )
    words = line.split(" ")
    if rng.random() < 0.6:
        old = rng.choice([w for w in words if len(w) > 3 and w.isalnum()] or words[-1:]).strip('",')
        new = names.word()
    else:
        start = rng.randrange(max(1, len(words) - 1))
        old = " ".join(words[start : start + 2]).strip(" ,:=")
        new = names.sentence(1, 2).lower()
    if not old or text.count(old) != 1 or old == new or '"' in old or "'" in old:
        raise Unsuitable
    a, b = phrasing.quoted(rng, old, new, bare=" " not in old + new)
    prompt = rng.choice(phrasing.REPLACE).format(path=path, a=a, b=b)

    def oracle() -> Oracle:
        yield Step(f"In {path}, replace `{old}` with `{new}`.", (_edit(path, old, new),))
        yield Step("The text is replaced.", text=f"Replaced `{old}` with `{new}` in {path}.")

    expected = _changed(repository, path, text.replace(old, new))
    return Task("replace", prompt, repository, oracle, lambda o: o.files() == expected)


def _lines_file(names: Names, repository: Repository) -> tuple[str, list[str]]:
    rng = names.rng
    if rng.random() < 0.6:
        suffix, text = rng.choice((".md", ".txt")), note(names, rng.randint(3, 6))
    else:
        suffix, text = configuration(names, entries(names, rng.randint(3, 5)))
        if suffix == ".json":
            suffix, text = ".txt", note(names, 4)
    lines = text.splitlines()
    if any(text.count(row) != 1 for row in lines):
        raise Unsuitable
    return repository.add(path_for(names, suffix), text), lines


def delete_line(names: Names) -> Task:
    rng = names.rng
    repository = Repository()
    path, lines = _lines_file(names, repository)
    distractors(names, repository, 0, 1)
    n = rng.randrange(len(lines))
    line = lines[n]
    by_number = rng.random() < 0.5
    if by_number:
        prompt = rng.choice(phrasing.DELETE_NUMBER).format(path=path, n=n + 1)
    else:
        (a,) = phrasing.quoted(rng, line, bare=False)
        prompt = rng.choice(phrasing.DELETE).format(path=path, a=a)

    def oracle() -> Oracle:
        if by_number:
            yield Step(f"Read {path} to see line {n + 1}.", (Call("read", {"path": path}),))
            # As the tool numbers its lines: number and tab lead to the line that is to be repeated.
            yield Step(f"{n + 1}\t{line}\nDelete this line.", (_edit(path, line + "\n", ""),))
        else:
            yield Step(f"Delete `{line}` in {path}.", (_edit(path, line + "\n", ""),))
        yield Step("The line is gone.", text=f"Deleted the line `{line}` from {path}.")

    expected = _changed(repository, path, "".join(row + "\n" for i, row in enumerate(lines) if i != n))
    return Task("delete-line", prompt, repository, oracle, lambda o: o.files() == expected)


def insert_line(names: Names) -> Task:
    rng = names.rng
    repository = Repository()
    path, lines = _lines_file(names, repository)
    distractors(names, repository, 0, 1)
    n = rng.randrange(len(lines))
    line, new = lines[n], names.sentence(2, 4)
    a, b = phrasing.quoted(rng, line, new, bare=False)
    prompt = rng.choice(phrasing.INSERT).format(path=path, a=a, b=b)

    def oracle() -> Oracle:
        yield Step(f"Insert `{new}` after `{line}` in {path}.", (_edit(path, line, f"{line}\n{new}"),))
        yield Step("The line is there.", text=f"Inserted `{new}` in {path}.")

    expected = _changed(
        repository, path, "".join(f"{row}\n" for row in [*lines[: n + 1], new, *lines[n + 1 :]])
    )
    return Task("insert-line", prompt, repository, oracle, lambda o: o.files() == expected)
