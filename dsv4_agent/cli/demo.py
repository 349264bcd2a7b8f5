"""`dsv4 demo`: watch the built-in model do two tasks in sample repositories, through `dsv4 run`."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

from dsv4_agent.workbench.exit_codes import ExitCode

app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)

_CART: Final = """\
def add_tax(price):
    return price + 19


def total_price(price):
    return add_tax(price) * 3
"""
_CHECKOUT: Final = """\
from basket import total_price


def receipt(price):
    return [total_price(price)]
"""
_TEST: Final = """\
import unittest

from basket import total_price


class ShopTest(unittest.TestCase):
    def test_shop(self):
        self.assertEqual(total_price(5), 72)
"""
_README: Final = "A small shop.\nThe basket adds the tax.\n"
_SHOP: Final = {"basket.py": _CART, "counter.py": _CHECKOUT, "test_basket.py": _TEST, "README.md": _README}
_SUITE: Final = "python3 -m unittest -q"
_NO_START: Final = (ExitCode.AUTH, ExitCode.CONFIG)


@dataclass(frozen=True, slots=True)
class _Task:
    title: str
    prompt: str
    files: dict[str, str]
    expected: dict[str, str]


def _tasks() -> tuple[_Task, ...]:
    renamed = {path: text.replace("total_price", "final_cost") for path, text in _SHOP.items()}
    right = {path: _SHOP[path] for path in ("basket.py", "test_basket.py")}
    misspelt = right | {"basket.py": _CART.replace("return add_tax", "return add_txa")}
    return (
        _Task("Rename a function", "Rename total_price to final_cost everywhere.", _SHOP, renamed),
        _Task("Repair a failing test", "Run the tests and fix what fails.", misspelt, right),
    )


class _CannotBegin(Exception):
    """No model or no git: what stops one task would stop the other, and says nothing about either."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@app.command()
def demo(
    model: Annotated[
        str,
        typer.Option(envvar="DSV4_MODEL", metavar="nano|PATH|scripted:FILE", help="The model to show."),
    ] = "nano",
    keep: Annotated[bool, typer.Option("--keep", help="Keep the sample repositories.")] = False,
) -> None:
    """Watch the built-in model rename a function, then repair a failing test."""
    folder = Path(tempfile.mkdtemp(prefix="dsv4-demo-"))
    try:
        done = [_show(folder / f"shop-{number}", task, model) for number, task in enumerate(_tasks(), 1)]
    except _CannotBegin as error:
        raise typer.Exit(error.code) from None
    except OSError as error:
        _say(f"demo: {error.strerror or error}: {error.filename or ''}")
        done = [False]
    finally:
        if keep:
            _say(f"The repositories are kept in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    if not all(done):
        _say("demo: not every task came out right")
        raise typer.Exit(1)
    _say("Both repositories are as they should be.")


def _show(place: Path, task: _Task, model: str) -> bool:
    """Run one task for all to see; whether the repository is then as it should be."""
    _say(f"\n== {task.title} ==")
    _make_repository(place, task.files)
    code = _run_agent(place, task.prompt, model)
    if code in _NO_START:
        raise _CannotBegin(code)
    _say("\n$ git diff")
    _git(place, "--no-pager", "diff", "--color=always" if sys.stdout.isatty() else "--color=never")
    wrong = [path for path, text in task.expected.items() if _text(place / path) != text]
    tests = subprocess.run(
        [sys.executable, *_SUITE.split()[1:]], cwd=place, env=_environment(), capture_output=True, check=False
    )
    if code != 0:
        _say(f"demo: dsv4 run ended with exit code {code} (dsv4 help exit-codes)")
    if wrong:
        _say(f"demo: not as expected: {', '.join(wrong)}")
    if tests.returncode != 0:
        _say("demo: the tests of the sample fail")
    right = code == 0 and not wrong and tests.returncode == 0
    if right:
        _say("demo: the files are as expected and the tests pass")
    return right


def _run_agent(place: Path, prompt: str, model: str) -> int:
    arguments = ["run", prompt, "--allowed-tools", "shell(python3 -m unittest*)", "--ephemeral"]
    shown = [*arguments, *(["--model", model] if model != "nano" else [])]
    _say(f"$ dsv4 {shlex.join(shown)}\n")
    command = [sys.executable, "-P", "-m", "dsv4_agent.cli.main", *arguments, "--model", model]
    with subprocess.Popen(command, cwd=place, env=_environment(), stdin=subprocess.DEVNULL) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:  # the run has had the same Ctrl-C and ends by itself
            with contextlib.suppress(KeyboardInterrupt):
                process.wait(15)
            raise


def _make_repository(place: Path, files: dict[str, str]) -> None:
    place.mkdir()
    for path, text in files.items():
        (place / path).write_text(text, encoding="utf-8")
    (place / ".gitignore").write_text("__pycache__/\n", encoding="utf-8")
    _git(place, "init", "-q", "-b", "main")
    _git(place, "add", "-A")
    _git(place, "commit", "-q", "-m", "A small shop")


def _git(place: Path, *arguments: str) -> None:
    identity = (
        "-c",
        "user.name=dsv4 demo",
        "-c",
        "user.email=demo@example.invalid",
        "-c",
        "commit.gpgsign=false",
    )
    try:
        subprocess.run(["git", *identity, *arguments], cwd=place, env=_environment(), check=False)
    except FileNotFoundError:
        typer.echo("dsv4: error: git is not installed. Install git.", err=True)
        raise _CannotBegin(ExitCode.TOOLS) from None


def _environment() -> dict[str, str]:
    """Ours without git's own variables, with this interpreter's folder first, and without bytecode files."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    folder = str(Path(sys.executable).parent)
    return kept | {
        "PATH": f"{folder}{os.pathsep}{kept.get('PATH', os.defpath)}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _say(text: str) -> None:
    typer.echo(text)
    sys.stdout.flush()
