"""Git as a plain command, with everything switched off that a repository could name to be run."""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path
from typing import Final

from dsv4_agent.workbench.exit_codes import OwnSubtype
from dsv4_agent.workbench.failures import RunFailure
from dsv4_tools.environment import find_git
from dsv4_tools.git_owner import belong_together

_SAFE: Final = (
    "--no-pager",
    *("-c", "core.fsmonitor=false"),
    *("-c", "core.hooksPath=/dev/null"),
    *("-c", "safe.bareRepository=explicit"),
    *("-c", "core.quotePath=false"),
    *("-c", "diff.noprefix=false"),
    *("-c", "diff.mnemonicPrefix=false"),
    *("-c", "core.untrackedCache=false"),
    *("-c", "core.sshCommand=false"),
    *("-c", "core.alternateRefsCommand="),
    *("-c", "log.showSignature=false"),
    *("-c", "advice.addEmbeddedRepo=false"),
)
_COMPARISON_KEYS: Final = (
    r"^core\.(filemode|autocrlf|eol|ignorecase|symlinks|precomposeunicode|excludesfile)$"
)
FROM_FILES: Final = {"GIT_ALLOW_PROTOCOL": "file"}
"""Variables for a fetch from a repository or bundle of this machine; nothing else may be fetched from."""
_DRIVERS: Final = r"^filter\..*\.(clean|smudge|process|required)$"
_TIMEOUT: Final = 120.0  # seconds; a first snapshot of a huge tree without an index reads every file


def _environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    fixed = {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "GIT_PAGER": "cat", "GIT_EDITOR": "true"}
    # A partial clone fetches what it lacks from whom its own configuration names, with the program it names.
    offline = {"GIT_NO_LAZY_FETCH": "1", "GIT_ALLOW_PROTOCOL": "none"}
    return kept | fixed | offline | {"LC_ALL": "C"} | (extra or {})


@functools.cache
def _program(path: str, cwd: Path) -> str:
    """Git, but not the one of the folder that it is to look at: a PATH may name `.` or `./bin`."""
    return find_git({"PATH": path}, cwd.resolve()) or "/nowhere/git"


def require_folder(path: Path) -> None:
    """Raises `RunFailure` (54) where a folder to work in is there no more."""
    if not path.is_dir():
        remedy = "Put it back, or start dsv4 in another folder."
        raise RunFailure(OwnSubtype.TOOLS, f"the folder {path} is gone", remedy)


def run_git(
    cwd: Path, *arguments: str, environment: dict[str, str] | None = None, given: bytes | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run `git ARGUMENTS` in a folder. Raises `RunFailure` (54) where there is no git or no end of it."""
    program = _program(os.environ.get("PATH", os.defpath), cwd)
    try:
        return subprocess.run(
            [program, *_SAFE, *arguments],
            cwd=cwd,
            env=_environment(environment),
            input=given or b"",
            capture_output=True,
            timeout=_TIMEOUT,
            check=False,
            start_new_session=True,  # a Ctrl-C for the run must not tear a snapshot
        )
    except (FileNotFoundError, NotADirectoryError) as error:
        require_folder(cwd)  # what could not be found may be the folder
        raise RunFailure(OwnSubtype.TOOLS, "git is not installed", "Install git.") from error
    except subprocess.TimeoutExpired as error:
        raise RunFailure(OwnSubtype.TOOLS, f"git {arguments[0]} took over {_TIMEOUT:.0f} s") from error


def line_of(cwd: Path, *arguments: str) -> str | None:
    """What git prints, without the last line end; None where it fails."""
    done = run_git(cwd, *arguments)
    return done.stdout.decode("utf-8", "surrogateescape").rstrip("\n") if done.returncode == 0 else None


def top_level(directory: Path) -> Path | None:
    """The work tree that holds `directory`; None outside a repository, in a bare one, and inside `.git`.

    None as well where the configuration names a work tree that is not the repository's own (`core.worktree`):
    it could be the whole disk, or somebody's home. And where `.git` leads to another work tree's repository.
    """
    found = line_of(directory, "rev-parse", "--show-toplevel")
    if not found:
        return None
    top, real = Path(found), directory.resolve()
    own = next((folder for folder in (real, *real.parents) if os.path.lexists(folder / ".git")), None)
    if own is None or top.resolve() != own:
        return None
    entry = own / ".git"
    if entry.is_dir() and not entry.is_symlink():
        return top
    git = line_of(top, "rev-parse", "--absolute-git-dir")
    return top if git and belong_together(own, Path(git)) else None


def why_no_top_level(directory: Path) -> tuple[str, str]:
    """What is to be said where `top_level` found none: the cause, and what to do about it."""
    if line_of(directory, "rev-parse", "--show-toplevel"):
        cause = f"the git repository of {directory} is another work tree's (by its .git, or core.worktree)"
        return cause, "mend or remove that"
    return f"{directory} is not a git repository", "run git init there"


def without_filters(cwd: Path) -> dict[str, str]:
    """Variables that keep git from running the filters which a repository's configuration names."""
    found = line_of(cwd, "config", "--null", "--name-only", "--get-regexp", _DRIVERS) or ""
    names = sorted({name for name in found.split("\0") if name})
    variables = {"GIT_CONFIG_COUNT": str(len(names))}
    for number, name in enumerate(names):  # not `-c`: that ends a name at its first `=`
        variables[f"GIT_CONFIG_KEY_{number}"] = name
        variables[f"GIT_CONFIG_VALUE_{number}"] = "false" if name.endswith(".required") else ""
    return variables


def comparison_settings(root: Path) -> str:
    """How a repository compares files, as lines of a `[core]` section; none of these keys runs a program."""
    found = line_of(root, "config", "--get-regexp", _COMPARISON_KEYS)
    lines = (line.partition(" ") for line in (found or "").splitlines())
    return "".join(
        f'\t{key.removeprefix("core.")} = "{value}"\n' for key, _, value in lines if '"' not in value
    )
