"""Whole batches with a model that does what it is told: states, integration, delivery, going on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from dsv4_agent.batch.events import BatchEnded, BatchEvent, ItemIntegrated
from dsv4_agent.batch.job import ModelChoice
from dsv4_agent.batch.ledger import LEDGER_NAME, read_ledger
from dsv4_agent.batch.one_batch import Begun, begin, events_of, go_on
from dsv4_agent.batch.plan import PlanError, parse_plan
from dsv4_agent.batch.preparation import prepare
from dsv4_agent.batch.runs import find_run
from dsv4_agent.batch.states import Spent, State
from dsv4_agent.session.journal import Journal, JournalError, read_journal
from dsv4_agent.session.session import replay
from dsv4_agent.workbench.failures import RunFailure
from tests.batch.conftest import git
from tests.batch.oracle import Inside
from tests.batch.test_checkouts import everything

ONE = {"id": "one", "task": "edit a.py: return 1 -> return 10"}
TWO = {"id": "two", "task": "edit b.py: print(two()) -> print(two(), 2)"}
SAME = {"id": "same", "task": "edit a.py: return 1 -> return 11"}
NOTHING = {"id": "nothing", "task": "nothing at all"}


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "state"
    monkeypatch.setenv("DSV4_STATE_DIR", str(folder))
    return folder


def begun(repository: Path, rows: Iterable[Mapping[str, str]], **plan: Any) -> Begun:
    (repository.parent / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"prompt": "{task}", "items": {"jsonl": "items.jsonl"}, "sandbox": "off", **plan}
    return begin(prepare(parse_plan(data, "plan"), repository, repository.parent).charter)


async def done(batch: Begun, executor: Inside | None = None, allowed: int = 0) -> BatchEnded:
    events = [e async for e in events_of(batch, executor or Inside(), ModelChoice(name="x"), allowed)]
    assert isinstance(events[-1], BatchEnded)
    return events[-1]


def states(ended: BatchEnded) -> dict[str, State]:
    return {result.id: result.state for result in ended.results}


async def test_items_are_done_apart_and_integrated_in_order(repository: Path) -> None:
    before = everything(repository)
    batch = begun(repository, [ONE, TWO, NOTHING], deliver="commits", verify="python3 b.py")
    ended = await done(batch)
    assert states(ended) == {"one": State.DONE, "two": State.DONE, "nothing": State.NO_CHANGE}
    assert not ended.failed
    log = git(repository, "log", "--format=%s|%(trailers:key=Dsv4-Item,valueonly,separator=)", "dsv4/batch")
    assert log.splitlines()[:2] == [f"{TWO['task']}|two", f"{ONE['task']}|one"]
    assert git(repository, "show", "dsv4/batch:a.py").count("return 10") == 1
    assert "print(two(), 2)" in git(repository, "show", "dsv4/batch:b.py")
    git(repository, "branch", "-D", "dsv4/batch")
    changed = {name for name, content in everything(repository).items() if before.get(name) != content}
    assert not {
        name for name in changed if not name.startswith((".git/objects/", ".git/logs/", ".git/packed-refs"))
    }
    assert not (batch.run.path / "repositories").exists()


async def test_two_items_at_one_line_conflict_and_both_patches_stay(repository: Path) -> None:
    batch = begun(repository, [ONE, SAME])
    ended = await done(batch)
    assert states(ended) == {"one": State.DONE, "same": State.CONFLICT}
    assert ended.failed
    assert "a.py" in ended.results[1].reason
    names = sorted(path.name for path in (batch.run.path / "patches").iterdir())
    assert names == ["0001-one.patch", "0002-same.conflict.patch"]
    assert "+    return 11" in (batch.run.path / "patches" / names[1]).read_text()


async def test_a_conflict_may_be_done_again_on_what_is_in(repository: Path) -> None:
    again = {"id": "same", "task": "edit a.py: return 1 -> return 11"}
    batch = begun(repository, [ONE, again], conflicts="redo", deliver="branch")
    ended = await done(batch)
    # "return 1" is found within "return 10": the oracle makes 110 of it.
    assert states(ended) == {"one": State.DONE, "same": State.DONE}
    assert "return 110" in git(repository, "show", "dsv4/batch:a.py")
    assert git(repository, "rev-list", "--count", "main..dsv4/batch") == "1"
    both = sum((result.spent for result in ended.results), Spent())
    assert ended.spent.output_tokens > both.output_tokens  # what was done in vain was paid for as well
    assert read_ledger(batch.run.path)[1].spent == ended.spent


async def test_nothing_is_done_again_once_the_batch_has_spent_its_budget(repository: Path) -> None:
    batch = begun(repository, [ONE, SAME], conflicts="redo", total={"max_tokens": 1}, jobs=2)
    ended = await done(batch)
    assert states(ended) == {"one": State.DONE, "same": State.CONFLICT}
    assert "item.redone" not in (batch.run.path / LEDGER_NAME).read_text()


async def test_work_that_is_not_verified_is_kept_but_not_integrated(repository: Path) -> None:
    batch = begun(repository, [ONE, TWO], verify="! grep -q 'return 10' a.py", retries=1, deliver="commits")
    ended = await done(batch)
    assert states(ended) == {"one": State.VERIFY_FAILED, "two": State.DONE}
    failed = ended.results[0]
    assert failed.attempts == 2
    assert "exited 1" in failed.reason
    assert (batch.run.path / "patches" / "0001-one.verify_failed.patch").exists()
    assert "return 10" not in git(repository, "show", "dsv4/batch:a.py")


async def test_the_output_of_a_failed_check_goes_back_to_the_model(repository: Path) -> None:
    check = "grep -q 20 a.py || { echo 'edit a.py: return 10 -> return 20'; exit 1; }"
    ended = await done(begun(repository, [ONE], verify=check))
    [result] = ended.results
    assert (result.state, result.attempts) == (State.DONE, 2)


async def test_items_that_pass_alone_may_fail_together(repository: Path) -> None:
    check = "! { grep -q 'return 10' a.py && grep -q ', 2' b.py; }"
    ended = await done(begun(repository, [ONE, TWO], verify=check))
    assert states(ended) == {"one": State.DONE, "two": State.VERIFY_FAILED}
    assert ended.results[1].reason.startswith("after integration")


async def test_paths_that_may_not_change(repository: Path) -> None:
    ended = await done(begun(repository, [ONE, TWO], allow="b.py", retries=0))
    assert states(ended) == {"one": State.VERIFY_FAILED, "two": State.DONE}
    assert ended.results[0].reason == "changed what it may not: a.py"


async def test_what_setup_and_checks_leave_is_not_delivered(repository: Path) -> None:
    batch = begun(
        repository,
        [ONE],
        setup="mkdir tool && echo x > tool/made && echo '#' >> b.py",
        verify="test -e tool/made && echo junk > junk && echo '#' >> a.py",
        deliver="commits",
    )
    ended = await done(batch)
    assert states(ended) == {"one": State.DONE}
    assert git(repository, "show", "--stat", "--format=", "--name-only", "dsv4/batch") == "a.py"
    assert "#" not in git(repository, "show", "dsv4/batch:a.py")


async def test_a_branch_for_each_item(repository: Path) -> None:
    ended = await done(begun(repository, [ONE, TWO, SAME], deliver="branches"))
    assert states(ended)["same"] is State.CONFLICT
    branches = git(repository, "for-each-ref", "--format=%(refname:short)", "refs/heads/dsv4").splitlines()
    assert branches == ["dsv4/batch/one", "dsv4/batch/two"]
    for name in ("one", "two"):
        assert git(repository, "rev-list", "--count", f"main..dsv4/batch/{name}") == "1"


async def test_the_ways_to_end(repository: Path) -> None:
    rows = [
        {"id": "error", "task": "break down now"},
        {"id": "loop", "task": "go round"},
        {"id": "one", "task": ONE["task"]},
    ]
    batch = begun(
        repository, rows, budget={"max_turns": 2}, jobs=1, total={"max_tokens": 1}, permission_mode="auto"
    )
    ended = await done(batch)
    assert states(ended) == {"error": State.ERROR, "loop": State.BUDGET, "one": State.SKIPPED}
    assert "as it was told" in ended.results[0].reason
    assert "--max-turns" in ended.results[1].reason
    assert "budget of 1 tokens" in ended.results[2].reason


async def test_setup_that_fails(repository: Path) -> None:
    ended = await done(begun(repository, [ONE], setup="echo no good; exit 3"))
    assert ended.results[0].state is State.ERROR
    assert "exited 3" in ended.results[0].reason
    assert "no good" in ended.results[0].output


async def test_a_check_that_hangs_is_ended(repository: Path) -> None:
    ended = await done(begun(repository, [ONE], verify="sleep 60", verify_timeout=0.3, retries=0))
    assert ended.results[0].state is State.VERIFY_FAILED
    assert "took too long" in ended.results[0].reason


async def test_failures_may_be_allowed(repository: Path) -> None:
    assert not (await done(begun(repository, [ONE, SAME]), allowed=1)).failed


async def test_no_more_at_once_than_allowed(repository: Path) -> None:
    executor = Inside()
    await done(begun(repository, [ONE, TWO, NOTHING, SAME], jobs=2), executor)
    assert executor.most == 2
    assert sorted(executor.seen) == ["nothing", "one", "same", "two"]


async def test_a_stopped_batch_goes_on_without_doing_anything_twice(repository: Path) -> None:
    whole = begun(repository, [ONE, TWO, SAME, NOTHING], jobs=1, deliver="commits", branch="whole")
    want = await done(whole)
    batch = begun(repository, [ONE, TWO, SAME, NOTHING], jobs=1, deliver="commits", branch="parts")
    first = Inside(stop_at="same")
    with pytest.raises(RunFailure, match="stopped"):
        await done(batch, first)
    assert first.seen == ["one", "two", "same"]
    (repository.parent / "items.jsonl").unlink()  # the ledger knows the items
    second = Inside()
    run = find_run(None, repository)
    assert run.id == batch.run.id
    ended = await done(go_on(run, None), second)
    assert second.seen == ["same", "nothing"]
    assert states(ended) == states(want)
    assert git(repository, "rev-parse", "parts^{tree}") == git(repository, "rev-parse", "whole^{tree}")
    with pytest.raises(PlanError, match="is unfinished"):
        find_run(None, repository)
    with pytest.raises(PlanError, match="has ended"):
        go_on(run, None)


async def test_it_goes_on_from_every_record_of_the_ledger(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [ONE, TWO, SAME]
    whole = begun(repository, rows, jobs=1, deliver="commits", branch="whole")
    want = states(await done(whole))
    records = len(read_journal(whole.run.path / LEDGER_NAME).records)
    tree = git(repository, "rev-parse", "whole^{tree}")
    for number in range(2, records + 1):
        batch = begun(repository, rows, jobs=1, deliver="commits", branch=f"part{number}")
        with monkeypatch.context() as patched:
            kill_at(patched, batch.run.path / LEDGER_NAME, number)
            with pytest.raises(Killed):
                await done(batch)
        if (checkouts := batch.run.path / "repositories").exists() and number % 3 == 0:
            shutil.rmtree(checkouts)  # as `dsv4 batch clean --unfinished` does
        ended = await done(go_on(batch.run, None))
        assert states(ended) == want, number
        assert git(repository, "rev-parse", f"part{number}^{{tree}}") == tree, number


class Killed(BaseException):
    """As a process dies: nothing is written any more."""


def kill_at(monkeypatch: pytest.MonkeyPatch, path: Path, number: int) -> None:
    real = Journal.write

    def write(self: Journal, kind: str, data: Mapping[str, object], *, sync: bool = False) -> int:
        if self.path == path and self._last + 1 >= number:
            raise Killed
        return real(self, kind, data, sync=sync)

    monkeypatch.setattr(Journal, "write", write)


async def test_a_plan_that_is_another_is_refused(repository: Path) -> None:
    batch = begun(repository, [ONE])
    batch.ledger.close()
    other = batch.ledger.charter.plan.model_copy(update={"retries": 5})
    with pytest.raises(PlanError, match="has another retries"):
        go_on(batch.run, other)


async def test_a_running_batch_is_not_taken_over(repository: Path) -> None:
    batch = begun(repository, [ONE])
    assert batch.run.is_running()
    with pytest.raises(JournalError, match="in use by another process"):
        go_on(batch.run, None)
    batch.ledger.close()
    assert not batch.run.is_running()


async def test_a_patch_that_was_changed_is_refused(repository: Path) -> None:
    batch = begun(repository, [ONE], jobs=1)
    events = events_of(batch, Inside(), ModelChoice(name="x"), 0)
    seen: list[BatchEvent] = []
    with pytest.raises(RunFailure, match="not the one that was verified"):
        async for event in events:
            seen.append(event)
            for path in batch.run.path.glob("items/*/change.patch"):
                path.write_bytes(path.read_bytes().replace(b"return 10", b"return 66"))
    assert not any(isinstance(event, ItemIntegrated) for event in seen)
    assert read_ledger(batch.run.path)[1].integrated == {}


async def test_several_repositories(repository: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    git(tmp_path, "clone", "-q", str(repository), str(other))
    plan = {
        "prompt": ONE["task"],
        "items": {"repositories": [str(repository), str(other)]},
        "deliver": "commits",
        "sandbox": "off",
    }
    ended = await done(begin(prepare(parse_plan(plan, "plan"), tmp_path, tmp_path).charter))
    assert [result.state for result in ended.results] == [State.DONE, State.DONE]
    for top in (repository, other):
        assert "return 10" in git(top, "show", "dsv4/batch:a.py")


async def test_a_fresh_attempt_knows_nothing_of_the_one_before(repository: Path) -> None:
    check = "test -e ../../../tried || { touch ../../../tried; exit 1; }"
    batch = begun(repository, [ONE], verify=check, retry="fresh", retries=2)
    [result] = (await done(batch)).results
    assert (result.state, result.attempts) == (State.DONE, 2)
    assert result.session == "one-2"
    sessions = batch.run.item(0) / "sessions"
    first, second = (
        [m["content"] for m in replay(sessions / name / "journal.jsonl").transcript.messages()]
        for name in ("one", "one-2")
    )
    assert first == second  # the same words: the file was as at first, and nothing was said of the failure


async def test_bad_luck_is_tried_again_only_afresh(repository: Path) -> None:
    rows = [{"id": "loop", "task": "go round"}]
    options: dict[str, Any] = {"budget": {"max_turns": 2}, "permission_mode": "auto", "retries": 2}
    [result] = (await done(begun(repository, rows, **options))).results
    assert (result.state, result.attempts) == (State.BUDGET, 1)
    [result] = (await done(begun(repository, rows, retry="fresh", **options))).results
    assert (result.state, result.attempts) == (State.BUDGET, 3)
