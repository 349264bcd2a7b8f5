"""Git for the tools: GitPython's command runner with all that runs a repository's programs switched off.

Hooks, filters, external diffs, text conversion, file-system monitors, pagers, transports and signing can
all be named by a repository's own configuration; none of them runs here.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsv4_tools.base import ToolContext, ToolError, nothing_hidden
from dsv4_tools.environment import find_git
from dsv4_tools.git_owner import belong_together
from dsv4_tools.output import plain
from dsv4_tools.threads import supervised
from dsv4_tools.workspace import Workspace

SECONDS = 60.0
_ENVIRONMENT = {
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_PAGER": "cat",
    "GIT_EDITOR": "true",
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_LITERAL_PATHSPECS": "1",
    "LC_ALL": "C.UTF-8",
}
_IDENTITY = frozenset(
    f"GIT_{role}_{part}" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL", "DATE")
)
_SETTINGS = (
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "safe.bareRepository=explicit",
    "diff.external=",
    "core.sshCommand=false",
    "core.askPass=",
    "protocol.ext.allow=never",
    "protocol.allow=never",
    "core.quotePath=false",
    "log.showSignature=false",
    "commit.gpgSign=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "advice.addIgnoredFile=false",
)
_DRIVERS = r"^(filter\..*\.(clean|smudge|process|required)|merge\..*\.driver|diff\..*\.(command|textconv))$"
DIFF_FLAGS = (
    "--no-color",
    "--no-ext-diff",
    "--no-textconv",
    "--ignore-submodules=dirty",
    "--src-prefix=a/",
    "--dst-prefix=b/",
    "--relative",
)


@dataclass(frozen=True, slots=True)
class Output:
    """What a Git command answered."""

    code: int
    text: str
    error: str


@dataclass(frozen=True, slots=True)
class Pathspecs:
    """Arguments behind `--`, and the variables that make Git read them as they are meant."""

    paths: tuple[str, ...]
    environment: dict[str, str]


class Repository:
    """The Git repository that the workspace is, or lies in. Commands run in the workspace root."""

    def __init__(self, workspace: Workspace) -> None:
        """Raises ToolError when Git is missing or the workspace is in no repository."""
        program = find_git(os.environ, workspace.root)
        if program is None:
            raise ToolError("git is not installed.")
        os.environ.setdefault("GIT_PYTHON_GIT_EXECUTABLE", program)  # it is run while GitPython is imported
        self._program = program
        try:
            import git
        except ImportError as error:
            raise ToolError("git is not installed.") from error
        self.workspace = workspace
        self._git = git.cmd.Git(str(workspace.root))
        self._error: type[Exception] = git.exc.GitError
        self._blanks: tuple[str, ...] = ()
        top = self._find_top()
        drivers = self.run("config", "--null", "--name-only", "--get-regexp", _DRIVERS, ok=(0, 1)).text
        self._blanks = tuple(_blank(key) for key in sorted(set(drivers.split("\0"))) if key)
        self.prefix = "" if top == workspace.root else workspace.root.relative_to(top).as_posix() + "/"

    def run(
        self,
        *arguments: str,
        ok: tuple[int, ...] = (0,),
        stdin: str | None = None,
        environment: dict[str, str] | None = None,
    ) -> Output:
        """Run `git ARGUMENTS`. Raises ToolError with Git's own words for an exit code not in `ok`."""
        output = self._execute(arguments, stdin, environment or {})
        if output.code not in ok:
            lines = [line for line in output.error.splitlines() if not line.startswith(("hint:", "warning:"))]
            message = "; ".join(lines[:3]) or f"exit {output.code}"
            raise ToolError(f"git {arguments[0]}: {message}")
        return output

    def has_commits(self) -> bool:
        """Whether HEAD points to a commit."""
        return self.run("rev-parse", "--verify", "--quiet", "HEAD^{commit}", ok=(0, 1, 128)).code == 0

    def pathspec(self, path: str | None) -> str:
        """A checked path as Git takes it (relative to the workspace root); no path means all of it."""
        if path is None:
            return "."
        return self.workspace.locate(path).shown

    def visible(
        self, context: ToolContext, command: tuple[str, ...], path: str | None
    ) -> tuple[Pathspecs, str | None]:
        """What limits a diff to the files that no rule hides, and a line about those that one does.

        `command` is the diff's beginning, `path` what it is limited to anyway.
        """
        given = () if path is None else (path,)
        if context.hidden is nothing_hidden:
            return Pathspecs(given, {}), None
        names = self.run(*command, *DIFF_FLAGS, "--no-renames", "--name-only", "-z", "--", *given).text
        every = [name for name in names.split("\0") if name]
        kept, left_out = context.visible(every)
        if any("\ufffd" in name for name in set(every).difference(kept)):
            raise ToolError("a file that a rule denies has a name that is not UTF-8; use read for others.")
        specs = [f":(literal){path}"] if path is not None else []
        specs += [f":(exclude,literal){name}" for name in sorted(set(every).difference(kept))]
        # A rename of a hidden file would show parts of it.
        return Pathspecs(tuple(specs), {"GIT_LITERAL_PATHSPECS": "0"}), left_out

    def _find_top(self) -> Path:
        output = self._execute(("rev-parse", "--show-toplevel"), None, {})
        root = self.workspace.root
        if output.code:
            if "dubious ownership" in output.error:
                raise ToolError("the repository belongs to another user, so git refuses it (safe.directory).")
            raise ToolError("the workspace is not a git repository.")
        top = Path(os.path.realpath(output.text.rstrip("\n")))
        owner = next((folder for folder in (root, *root.parents) if (folder / ".git").exists()), None)
        if top != owner:
            raise ToolError("the repository's work tree is not the workspace (core.worktree is set).")
        git = self._execute(("rev-parse", "--absolute-git-dir"), None, {}).text.rstrip("\n")
        if not belong_together(top, Path(git)):
            raise ToolError(
                ".git leads to another work tree's repository, which is not used "
                "(git worktree repair mends a worktree that was moved)."
            )
        return top

    def _execute(self, arguments: tuple[str, ...], stdin: str | None, environment: dict[str, str]) -> Output:
        """GitPython adds to the process environment and cannot take away, so `env -u` does."""
        keep = {**_ENVIRONMENT, **environment}
        unset = [
            flag
            for name in os.environ
            if name.startswith("GIT_") and name not in keep and name not in _IDENTITY
            for flag in ("-u", name)
        ]
        settings = [flag for setting in (*_SETTINGS, *self._blanks) for flag in ("-c", setting)]
        command = ["env", *unset, self._program, "--no-pager", *settings, *arguments]
        with tempfile.TemporaryFile() as file:
            if stdin is not None:
                file.write(stdin.encode("utf-8", "replace"))
                file.seek(0)
            try:
                process: Any = self._git.execute(command, istream=file, env=keep, as_process=True)
            except (self._error, OSError) as failure:
                raise ToolError(f"git could not be run: {type(failure).__name__}.") from failure
            with supervised(process, SECONDS) as late:
                out, error = process.communicate()
        if late.is_set():
            raise ToolError(f"git {arguments[0]} took longer than {SECONDS:.0f} s.")
        return Output(process.returncode, _text(out), plain(_text(error)).strip())


def _text(data: bytes | str) -> str:
    return data.decode("utf-8", "replace") if isinstance(data, bytes) else data


def _blank(key: str) -> str:
    """The setting that switches one driver off. `-c` splits at the first `=`: such names are refused."""
    if "=" in key or "\n" in key:
        raise ToolError("the repository configures a driver with an unsafe name; use shell for git here.")
    return f"{key}=false" if key.endswith(".required") else f"{key}="
