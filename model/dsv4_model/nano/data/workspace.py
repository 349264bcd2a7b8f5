"""Generated repositories on disk, committed with git."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dsv4_model.nano.data.names import NOUNS
from dsv4_model.nano.data.task import Task

_IDENTITY = {
    "GIT_AUTHOR_NAME": "Nano",
    "GIT_AUTHOR_EMAIL": "nano@example.org",
    "GIT_COMMITTER_NAME": "Nano",
    "GIT_COMMITTER_EMAIL": "nano@example.org",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
}


def git(root: Path, *arguments: str) -> str:
    """Run git in a generated repository and return what it prints."""
    done = subprocess.run(
        ["git", "-C", str(root), *arguments],
        env=os.environ | _IDENTITY,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def _write(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


_HINTING = '''
"""Gives this interpreter the spelling hints that Python 3.12 and later print in every traceback."""
import difflib
import traceback

_plain = traceback.TracebackException.__init__


def _hinted(self, kind, value, trace, **options):
    _plain(self, kind, value, trace, **options)
    wrong = getattr(value, "name", None)
    if isinstance(value, ImportError):
        wrong = self._str.split("'")[1] if "cannot import name" in self._str else None
        module = __import__(value.name) if wrong and value.name else None
        known = dir(module) if module else []
    elif isinstance(value, AttributeError):
        known = dir(value.obj)
    elif isinstance(value, NameError):
        while trace.tb_next:
            trace = trace.tb_next
        known = [*trace.tb_frame.f_locals, *trace.tb_frame.f_globals]
    else:
        return
    near = difflib.get_close_matches(wrong, known, 1) if wrong else []
    if near and "Did you mean" not in self._str:
        self._str += f". Did you mean: {near[0]!r}?"


traceback.TracebackException.__init__ = _hinted
'''


@contextmanager
def interpreter_with_hints() -> Iterator[None]:
    """Within the context, `python3` on PATH prints spelling hints whatever its version."""
    real = shutil.which("python3") or sys.executable
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "sitecustomize.py").write_text(_HINTING, encoding="utf-8")
        shim = place / "python3"
        shim.write_text(f'#!/bin/sh\nPYTHONPATH="{folder}" exec "{real}" "$@"\n', encoding="utf-8")
        shim.chmod(0o755)
        path = os.environ["PATH"]
        os.environ["PATH"] = f"{folder}{os.pathsep}{path}"
        try:
            yield
        finally:
            os.environ["PATH"] = path


@contextmanager
def materialised(task: Task, seed: int) -> Iterator[tuple[Path, str]]:
    """`(root, head)`: the task's repository in a new folder, its first commit, then the uncommitted edits."""
    rng = random.Random(seed)
    parent = Path(tempfile.mkdtemp(prefix=f"{rng.choice(NOUNS)}-"))
    root = parent / rng.choice(NOUNS)
    try:
        root.mkdir()
        for path, text in task.repository.files.items():
            _write(root, path, text)
        git(root, "init", "-q", "-b", rng.choice(("main", "main", "main", "master")))
        git(root, "add", "-A")
        git(root, "commit", "-q", "-m", "Begin")
        head = git(root, "rev-parse", "HEAD")
        for path, changed in task.edits.items():
            if changed is None:
                (root / path).unlink()
            else:
                _write(root, path, changed)
        yield root, head
    finally:
        shutil.rmtree(parent, ignore_errors=True)
