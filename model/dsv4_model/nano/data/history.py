"""Task families about git: status, diff and commit."""

from __future__ import annotations

import re
import subprocess

from dsv4_model.nano.data import phrasing
from dsv4_model.nano.data.names import Names
from dsv4_model.nano.data.repository import Repository, distractors, note, path_for
from dsv4_model.nano.data.task import Call, Oracle, Outcome, Step, Task, Unsuitable


def _work_in_progress(names: Names, repository: Repository, count: int) -> dict[str, str | None]:
    """Uncommitted changes: appended lines, new files, a deleted file."""
    rng = names.rng
    edits: dict[str, str | None] = {}
    known = list(repository.files)
    rng.shuffle(known)
    for _ in range(count):
        match rng.randrange(4):
            case 0:
                edits[path_for(names, rng.choice((".md", ".txt")))] = note(names, 1)
            case 1 if len(known) > 1:
                edits[known.pop()] = None
            case _ if known:
                path = known.pop()
                edits[path] = repository.files[path] + f"# {names.sentence(1, 3)}\n"
    return edits


def _after(repository: Repository, edits: dict[str, str | None]) -> dict[str, str]:
    return {p: t for p, t in (repository.files | edits).items() if t is not None}


def status(names: Names) -> Task:
    rng = names.rng
    repository = Repository()
    distractors(names, repository, 2, 3)
    edits = _work_in_progress(names, repository, rng.choice((0, 1, 2, 3)))
    expected = _after(repository, edits)

    def oracle() -> Oracle:
        results = yield Step("Look at the git status.", (Call("git_status", {}),))
        yield Step("Report it.", text=results[0])

    def check(outcome: Outcome) -> bool:
        told = all(p in outcome.answer for p in edits) if edits else "Clean" in outcome.answer
        return told and outcome.files() == expected

    return Task("status", rng.choice(phrasing.STATUS), repository, oracle, check, edits)


def diff(names: Names) -> Task:
    rng = names.rng
    repository = Repository()
    distractors(names, repository, 1, 2)
    path = rng.choice(list(repository.files))
    edits: dict[str, str | None] = {path: repository.files[path] + f"# {names.sentence(1, 3)}\n"}
    if rng.random() < 0.15:
        edits = {}
    expected = _after(repository, edits)

    def oracle() -> Oracle:
        results = yield Step("See the diff.", (Call("git_diff", {}),))
        touched = re.search(r"^\+\+\+ b/(.+)$", results[0], re.MULTILINE)
        if touched is None:
            yield Step("There is no change.", text="No changes.")
        else:
            yield Step(f"The diff is about {touched[1]}.", text=f"The diff changes {touched[1]}.")

    def check(outcome: Outcome) -> bool:
        told = path in outcome.answer if edits else "No changes" in outcome.answer
        return told and outcome.files() == expected

    return Task("diff", rng.choice(phrasing.DIFF), repository, oracle, check, edits)


def commit(names: Names) -> Task:
    rng = names.rng
    repository = Repository()
    distractors(names, repository, 2, 3)
    edits = _work_in_progress(names, repository, rng.choice((1, 1, 2)))
    if not edits:
        raise Unsuitable
    message = names.sentence(2, 5)
    (a,) = phrasing.quoted(rng, message, bare=False)
    prompt = rng.choice(phrasing.COMMIT).format(a=a)

    def oracle() -> Oracle:
        results = yield Step(
            f"Commit with the message `{message}`.", (Call("git_commit", {"message": message}),)
        )
        if not results[0].startswith("Committed"):
            raise Unsuitable
        short = results[0].split()[1].rstrip(":")
        yield Step("It is committed.", text=f"Committed {short}: {message}")

    def check(outcome: Outcome) -> bool:
        log = subprocess.run(
            ["git", "-C", str(outcome.root), "log", "-1", "--format=%s%n%P"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split("\n")
        left = subprocess.run(
            ["git", "-C", str(outcome.root), "status", "--porcelain"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        return log[0] == message and log[1] == outcome.head_before and not left.strip()

    return Task("commit", prompt, repository, oracle, check, edits)
