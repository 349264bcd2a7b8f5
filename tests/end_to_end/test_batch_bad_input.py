"""What can be wrong with a plan, a repository or a machine: `dsv4 batch` says so and harms nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import Dsv4, git, running, wait_until

EDIT = "call: edit\n  path: a.py\n  old_string: old\n  new_string: new\n---\ntext: fine\n"
BWRAP = shutil.which("bwrap")


def plan(dsv4: Dsv4, text: str = "", *, items: str = '{ glob = "a.py" }', script: str = EDIT) -> str:
    """A plan of one edit beside the repository; the model is played."""
    path = dsv4.home / "plan.toml"
    model = dsv4.script(script)
    path.write_text(f'prompt = "Rename old in a.py."\nitems = {items}\nmodel = "{model}"\n{text}')
    return str(path)


def batch(dsv4: Dsv4, *arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return dsv4("batch", *arguments, **options)


def ended(done: subprocess.CompletedProcess[bytes]) -> list[dict[str, Any]]:
    """The items of the last record."""
    last = json.loads(done.stdout.decode().splitlines()[-1])
    assert last["type"] == "batch.ended", last
    items: list[dict[str, Any]] = last["items"]
    return items


def only(done: subprocess.CompletedProcess[bytes], code: int = 0) -> dict[str, Any]:
    """The one item of a batch that ended with this code."""
    assert done.returncode == code, done.stderr.decode()
    [item] = ended(done)
    return item


def error_of(done: subprocess.CompletedProcess[bytes], code: int) -> str:
    """The one error line of a call that failed with this code."""
    assert done.returncode == code, done.stderr.decode()
    lines = done.stderr.decode().splitlines()
    [line] = [line for line in lines if line.startswith("dsv4: error: ")]
    return line


def condition(repository: Path) -> str:
    """All of a repository that a batch must not change, branches of its own apart."""
    refs = git(repository, "for-each-ref", "refs/heads/main", "refs/tags", "refs/stash")
    files = git(repository, "status", "--porcelain", "--ignored")
    config = (repository / git(repository, "rev-parse", "--git-path", "config")).read_text()
    return "\n".join((refs, files, config, git(repository, "worktree", "list")))


# What checks do


def test_a_verify_that_hangs_is_ended(dsv4: Dsv4) -> None:
    marker = "611.25"
    text = f'verify = "sleep {marker} & sleep {marker}"\nverify_timeout = 1\nretries = 0\n'
    item = only(batch(dsv4, plan(dsv4, text), "--json"), 59)
    assert item["state"] == "verify_failed" and "took too long" in item["reason"]
    assert not running(marker)
    assert git(dsv4.repository, "status", "--porcelain") == ""


def test_a_verify_that_never_passes_keeps_the_work_apart(dsv4: Dsv4) -> None:
    script = EDIT + "---\ntext: I see no mistake\n---\ntext: still none\n"
    text = 'verify = "echo broken; exit 3"\nretries = 2\ndeliver = "branch"\n'
    before = condition(dsv4.repository)
    item = only(batch(dsv4, plan(dsv4, text, script=script), "--json"), 59)
    assert (item["state"], item["attempts"]) == ("verify_failed", 3)
    assert item["reason"] == "`echo broken; exit 3` exited 3" and "broken" in item["output"]
    [run] = (dsv4.state / "batches").iterdir()
    assert b"+def new():" in (run / "patches/0001-a.py.verify_failed.patch").read_bytes()
    assert git(dsv4.repository, "branch", "--list", "dsv4/*") == ""
    assert condition(dsv4.repository) == before


def test_without_a_sandbox_it_is_said_or_refused(dsv4: Dsv4, tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("git", "bash", "true"):
        found = shutil.which(name)
        assert found is not None
        (folder / name).symlink_to(found)
    dsv4.environment["PATH"] = str(folder)
    done = batch(dsv4, plan(dsv4, 'verify = "true"\n'), "--json")
    assert only(done)["state"] == "done"
    assert b"note: commands run without a sandbox" in done.stderr
    assert "bubblewrap" in error_of(batch(dsv4, plan(dsv4), "--sandbox", "workspace-write"), 44)


@pytest.mark.skipif(BWRAP is None, reason="bubblewrap is not installed")
def test_a_verify_that_writes_outside_does_not_get_there(dsv4: Dsv4) -> None:
    places = (dsv4.repository / "planted", dsv4.repository / ".git/objects/planted", dsv4.home / "planted")
    text = f'verify = "for p in {" ".join(map(str, places))}; do echo x > $p; done; true"\n'
    assert only(batch(dsv4, plan(dsv4, text), "--json"))["state"] == "done"
    assert not any(place.exists() for place in places)


def test_git_works_where_checks_run(dsv4: Dsv4) -> None:
    text = 'verify = ["git log -1 -p > /dev/null", "git diff --stat HEAD | grep a.py"]\nretries = 0\n'
    assert only(batch(dsv4, plan(dsv4, text), "--json"))["state"] == "done"


def test_no_command_of_a_plan_sees_a_key(dsv4: Dsv4) -> None:
    dsv4.environment |= {"DEEPSEEK_API_KEY": "sk-secret-1", "DSV4_API_KEY": "sk-secret-2"}
    look = "env; cat /proc/$PPID/environ; for p in /proc/[0-9]*; do cat $p/environ; done 2>/dev/null"
    found = f"({look}) | grep -ao 'sk-secret-[0-9]'"
    items = json.dumps(f"{found} | sed s/^/item-/ ; echo a.py")
    text = f"setup = {json.dumps(f'! {found}')}\nverify = {json.dumps(f'! {found}')}\n"
    item = only(batch(dsv4, plan(dsv4, text, items=f"{{ command = {items} }}"), "--json"))
    assert (item["id"], item["state"]) == ("a.py", "done")


# Repositories


def test_a_detached_head_works_and_is_said(dsv4: Dsv4) -> None:
    git(dsv4.repository, "checkout", "-q", "--detach")
    done = batch(dsv4, plan(dsv4, 'deliver = "branch"\n'), "--json")
    assert only(done)["state"] == "done"
    assert b"HEAD is detached" in done.stderr
    assert git(dsv4.repository, "show", "dsv4/batch:a.py").startswith("def new()")
    assert git(dsv4.repository, "status", "--porcelain", "--branch") == "## HEAD (no branch)"


def test_submodules_and_lfs_pointers_are_left_as_they_are(dsv4: Dsv4, tmp_path: Path) -> None:
    pointer = (
        "version https://git-lfs.github.com/spec/v1\n"
        "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
    )
    (dsv4.repository / "big.bin").write_text(pointer)
    (dsv4.repository / ".gitattributes").write_text("*.bin filter=lfs diff=lfs merge=lfs -text\n")
    inner = tmp_path / "inner"
    shutil.copytree(dsv4.repository, inner)
    allow = ("-c", "protocol.file.allow=always")
    git(dsv4.repository, *allow, "submodule", "--quiet", "add", str(inner), "vendor/inner")
    # A filter that would leave a trace if anything ran it.
    trace = tmp_path / "filtered"
    git(dsv4.repository, "add", "-A")
    git(dsv4.repository, "commit", "-qm", "more")
    for way in ("clean", "smudge"):
        git(dsv4.repository, "config", f"filter.lfs.{way}", f"touch {trace}; cat")
    before = condition(dsv4.repository)
    trace.unlink(missing_ok=True)
    done = batch(dsv4, plan(dsv4, 'verify = "test -z \\"$(ls vendor/inner)\\""\n'), "--json")
    item = only(done)
    assert (item["state"], item["files"]) == ("done", ["a.py"])
    assert b"submodules stay empty" in done.stderr and b"vendor/inner" in done.stderr
    assert b"Git LFS are only pointers" in done.stderr
    assert not trace.exists()
    assert condition(dsv4.repository) == before


def test_names_that_are_not_utf8(dsv4: Dsv4) -> None:
    name = os.fsdecode(b"caf\xe9.py")
    (dsv4.repository / name).write_text("old = 1\n")
    git(dsv4.repository, "add", "-A")
    git(dsv4.repository, "commit", "-qm", "latin")
    script = EDIT.replace("path: a.py", "path: b.py").replace("import old", "import new")
    done = batch(dsv4, plan(dsv4, items='{ glob = "*.py" }', script=script), "--json", "--retries", "0")
    assert done.returncode in (0, 59), done.stderr.decode()
    assert len(ended(done)) == 3 and len({item["id"] for item in ended(done)}) == 3
    again = batch(dsv4, plan(dsv4, 'verify = "test -f {path}"\n', items='{ glob = "caf*.py" }'), "--json")
    assert only(again)["state"] == "done"
    report = dsv4.home / "report.xml"
    more = ("--report", f"junit={report}", "--report", f"markdown={dsv4.home / 'm.md'}")
    rename = "call: shell\n  command: echo new > caf*.py\n---\ntext: fine\n"
    text = 'permission_mode = "auto"\ndeliver = "commits"\n'
    changed = only(batch(dsv4, plan(dsv4, text, script=rename, items='{ glob = "caf*" }'), "--json", *more))
    assert (changed["state"], len(changed["files"])) == ("done", 1)
    shown = subprocess.run(
        ["git", "show", b"dsv4/batch:caf\xe9.py"], cwd=dsv4.repository, capture_output=True, check=True
    )
    assert shown.stdout == b"new\n"


def test_a_linked_worktree_that_borrows_objects(dsv4: Dsv4, tmp_path: Path) -> None:
    clone, linked = tmp_path / "clone", tmp_path / "linked"
    git(tmp_path, "clone", "-q", "--shared", str(dsv4.repository), str(clone))
    git(clone, "worktree", "add", "-q", "-b", "side", str(linked))
    before = condition(clone)
    done = batch(dsv4, plan(dsv4, 'deliver = "branch"\n'), "--json", "-C", str(linked))
    assert only(done)["state"] == "done"
    assert git(clone, "show", "dsv4/batch:a.py").startswith("def new()")
    assert condition(clone) == before


def test_a_repository_of_sha256(dsv4: Dsv4, tmp_path: Path) -> None:
    top = tmp_path / "long"
    git(tmp_path, "init", "-q", "-b", "main", "--object-format=sha256", str(top))
    shutil.copy(dsv4.repository / "a.py", top)
    git(top, "add", "-A")
    git(top, "commit", "-qm", "first")
    done = batch(dsv4, plan(dsv4, 'deliver = "branch"\n'), "--json", "-C", str(top))
    assert only(done)["state"] == "done"
    assert len(git(top, "rev-parse", "dsv4/batch")) == 64


@pytest.mark.parametrize("taken", ["dsv4/batch", "dsv4", "dsv4/batch/deeper"])
def test_a_branch_that_stands_in_the_way(dsv4: Dsv4, taken: str) -> None:
    git(dsv4.repository, "branch", taken)
    line = error_of(batch(dsv4, plan(dsv4, 'deliver = "branch"\n')), 42)
    assert f"branch {taken} exists already" in line
    assert not (dsv4.state / "batches").exists()


def test_a_branch_that_appears_meanwhile_is_not_overwritten(dsv4: Dsv4) -> None:
    script = "delay: 3\n" + EDIT
    process = dsv4.start("batch", plan(dsv4, 'deliver = "branch"\n', script=script))
    wait_until(lambda: bool(list(dsv4.state.glob("batches/*/ledger.jsonl"))))
    git(dsv4.repository, "branch", "dsv4/batch")
    mine = git(dsv4.repository, "rev-parse", "dsv4/batch")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 54 and b"dsv4/batch" in errors
    assert git(dsv4.repository, "rev-parse", "dsv4/batch") == mine
    git(dsv4.repository, "branch", "-D", "dsv4/batch")
    assert only(batch(dsv4, "--resume", "--json"))["state"] == "done"
    assert git(dsv4.repository, "show", "dsv4/batch:a.py").startswith("def new()")


# Plans and items


def test_items_whose_ids_clash_are_told_apart(dsv4: Dsv4) -> None:
    rows = [{"id": "one"}, {"id": "ONE"}, {"id": "one-2"}, {"id": "one"}]
    (dsv4.home / "items.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = batch(dsv4, plan(dsv4, items='{ jsonl = "items.jsonl" }'), "--json")
    ids = [item["id"] for item in ended(done)]
    assert len({id.casefold() for id in ids}) == 4 and ids[0] == "one"


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("folder.toml", "can't be read: Is a directory"),
        ("plan.toml", "items.jsonl gives no items"),
        ("none.toml", "can't be read"),
        ("binary.toml", "is not TOML"),
    ],
)
def test_files_that_are_no_plan_or_no_items(dsv4: Dsv4, what: str, words: str) -> None:
    (dsv4.home / "folder.toml").mkdir()
    (dsv4.home / "items.jsonl").touch()
    (dsv4.home / "binary.toml").write_bytes(os.urandom(64) + b"\xff\xfe")
    plan(dsv4, items='{ jsonl = "items.jsonl" }')
    for command in ((), ("check",)):
        assert words in error_of(batch(dsv4, *command, str(dsv4.home / what)), 42)
    assert not (dsv4.state / "batches").exists()


def test_resume_without_a_batch(dsv4: Dsv4) -> None:
    assert "is unfinished" in error_of(batch(dsv4, "--resume"), 42)
    assert "there is no batch 'nothing'" in error_of(batch(dsv4, "--resume", "nothing"), 42)


def test_two_coordinators_of_one_batch(dsv4: Dsv4) -> None:
    process = dsv4.start("batch", plan(dsv4, script="delay: 20\n" + EDIT), "--json")
    wait_until(lambda: bool(list(dsv4.state.glob("batches/*/ledger.jsonl"))))
    [run] = (dsv4.state / "batches").iterdir()
    line = error_of(batch(dsv4, "--resume", run.name), 42)
    assert "running" in line or "in use" in line, line
    assert b"nothing to clean" in batch(dsv4, "clean", "--unfinished", "--all").stdout
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 143
    assert run.exists()


# The machine


def test_a_reader_that_goes_away_ends_it_quietly(dsv4: Dsv4) -> None:
    process = dsv4.start("batch", plan(dsv4, script="delay: 1\n" + EDIT), "--json")
    assert process.stdout is not None and process.stderr is not None
    assert b"batch.started" in process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait(60) == 141
    assert b"Traceback" not in errors and b"internal error" not in errors
    assert only(batch(dsv4, "--resume", "--json"))["state"] == "done"


def _can_mount(tmp_path: Path) -> bool:
    if shutil.which("unshare") is None:
        return False
    test = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", str(tmp_path)]
    return subprocess.run(test, capture_output=True, check=False).returncode == 0


def test_a_full_disk(dsv4: Dsv4, tmp_path: Path) -> None:
    if not _can_mount(tmp_path):
        pytest.skip("no file system can be mounted here")
    (dsv4.repository / "data.bin").write_bytes(os.urandom(3_000_000))
    git(dsv4.repository, "add", "-A")
    git(dsv4.repository, "commit", "-qm", "large")
    before = condition(dsv4.repository)
    dsv4.state.mkdir()
    for name in ("first", "second"):
        (dsv4.home / name).write_text(f"{os.fspath(dsv4.home)}\n")
    command = f"{shutil.which('python3')} -c pass"
    path = plan(dsv4, f'verify = "{command}"\ndeliver = "branch"\n', items='{ glob = "*.py" }')
    from tests.end_to_end.conftest import COMMAND

    run = " ".join(COMMAND)
    script = f"""
        set -u
        mount -t tmpfs -o size=1m none {dsv4.state} || exit 9
        {run} batch {path} --json > {dsv4.home}/one 2> {dsv4.home}/first; echo $? > {dsv4.home}/codes
        mount -o remount,size=64m {dsv4.state}
        {run} batch --resume --json > {dsv4.home}/two 2> {dsv4.home}/second; echo $? >> {dsv4.home}/codes
        cp -r {dsv4.state}/batches {dsv4.home}/kept
    """
    done = subprocess.run(
        ["unshare", "-rm", "bash", "-c", script],
        cwd=dsv4.repository,
        env=dsv4.env(),
        capture_output=True,
        timeout=120,
        check=False,
    )
    errors = (dsv4.home / "first").read_text()
    assert (dsv4.home / "codes").read_text().split() == ["54", "0"], (done, errors)
    assert errors.count("dsv4: error: ") == 1 and "Traceback" not in errors
    assert "dsv4 batch --resume" in errors and "space" in errors.lower()
    assert condition(dsv4.repository) == before
    last = json.loads((dsv4.home / "two").read_text().splitlines()[-1])
    assert {item["state"] for item in last["items"]} <= {"done", "no_change"}


def test_a_server_that_is_away_ends_no_item(dsv4: Dsv4) -> None:
    dsv4.environment["DSV4_BASE_URL"] = "http://127.0.0.1:9/v1"
    path = plan(dsv4)
    line = error_of(batch(dsv4, path, "--model", "server"), 41)
    assert "can't be reached" in line and "dsv4 batch --resume" in line
    listed = batch(dsv4, "list").stdout.decode()
    assert "unfinished  1 to do" in listed, listed
