"""bubblewrap: own namespaces, a read-only root, no network, an empty home, Git's hooks and config frozen."""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dsv4_tools.environment import find_program
from dsv4_tools.sandbox.base import Network, Policy, SandboxUnavailable, Wrapped
from dsv4_tools.sandbox.git_folders import folders_behind, frozen_mounts, linked_git

_PROBE_SECONDS = 10
_REMEDY = "Install bubblewrap and allow user namespaces, or pass --sandbox off."
_ISOLATION = (
    "--unshare-all",
    "--unshare-user",
    "--disable-userns",
    "--die-with-parent",
    "--new-session",
    "--cap-drop",
    "ALL",
    "--hostname",
    "sandbox",
)
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/opt", "/nix")
_ETC_SECRETS = ("/etc/shadow", "/etc/gshadow", "/etc/sudoers", "/etc/ssh", "/etc/ssl/private")
_HOME_TOOLS = frozenset(
    {".pyenv", ".rbenv", ".nvm", ".volta", ".asdf", ".sdkman", ".cargo", ".rustup", ".bun"}
)


@dataclass(frozen=True, slots=True)
class Bubblewrap:
    """Runs each command in fresh namespaces. Files outside the workspace are read-only or absent.

    `readable` folders are there as well, read-only, wherever they lie. `closed` ones are empty where they lie
    below the workspace.
    """

    program: str
    policy: Policy
    readable: tuple[Path, ...] = ()
    closed: tuple[Path, ...] = ()
    name: str = "bwrap"
    network: Network = Network.OFF
    degraded: bool = False
    reason: str | None = None

    @property
    def effective(self) -> str:
        """The name the `init` event reports."""
        return self.name

    def wrap(self, argv: Sequence[str], *, workspace: Path, environment: Mapping[str, str]) -> Wrapped:
        """bwrap with the policy's mounts; later ones win, so the workspace comes after the empty folders."""
        home = Path(environment.get("HOME", "/root"))
        line = [self.program, *_system_mounts(), "--dev", "/dev", "--proc", "/proc"]
        line += ["--tmpfs", "/tmp", "--tmpfs", "/run", "--tmpfs", str(home)]
        for folder in _tool_folders(environment, home):
            line += ["--ro-bind", str(folder), str(folder)]
        for folder in self.readable:
            line += ["--ro-bind-try", str(folder), str(folder)]
        git = self._git(workspace)
        line += self._workspace_mounts(workspace, git)
        for folder in self.closed:
            # One that isn't there yet must not be made by a command: the agent would take it for its own.
            if workspace in folder.parents and (folder.is_dir() or self.policy is not Policy.READ_ONLY):
                line += ["--tmpfs", str(folder)]
        line += ["--chdir", str(workspace), *_ISOLATION, "--", *argv]
        # Those of worktrees have one; git may be about to write it into one that is being made.
        folders = () if git is None else (f for f in folders_behind(git) if f.parent.name != "worktrees")
        planted = (folder / "commondir" for folder in folders)
        unwanted = tuple(path for path in planted if not os.path.lexists(path))
        return Wrapped(tuple(line), {**environment, "HOME": str(home)}, unwanted)

    def _workspace_mounts(self, workspace: Path, git: Path | None) -> Iterator[str]:
        if self.policy is Policy.READ_ONLY:
            yield from ("--ro-bind", str(workspace), str(workspace))
            return
        yield from ("--bind", str(workspace), str(workspace))
        pointer = (workspace / ".git").resolve()
        if pointer.is_file() and pointer.is_relative_to(workspace):
            yield from ("--ro-bind", str(pointer), str(pointer))
        if git is not None:
            yield from frozen_mounts(git)

    def _git(self, workspace: Path) -> Path | None:
        """The git folder that commands may write to; None where there is none."""
        git = (workspace / ".git").resolve()
        if self.policy is Policy.READ_ONLY or not git.is_relative_to(workspace):
            return None
        return git if git.is_dir() else linked_git(git)


def _system_mounts() -> Iterator[str]:
    for name in _SYSTEM:
        path = Path(name)
        if path.is_symlink():
            yield from ("--symlink", os.readlink(path), name)  # noqa: PTH115 - the text of the link is wanted
        elif path.is_dir():
            yield from ("--ro-bind", name, name)
    for name in _ETC_SECRETS:
        path = Path(name)
        if path.is_dir():
            yield from ("--tmpfs", name)
        elif path.is_file():
            yield from ("--ro-bind", "/dev/null", name)


def _tool_folders(environment: Mapping[str, str], home: Path) -> Iterator[Path]:
    """Folders outside the system trees that hold programs on PATH: toolchains and virtual environments."""
    seen: set[Path] = set()
    listed = [*environment.get("PATH", "").split(":"), f"{environment.get('VIRTUAL_ENV', '')}/bin"]
    for entry in listed:
        if not entry.startswith("/") or entry == "/bin" or any(entry.startswith(f"{s}/") for s in _SYSTEM):
            continue
        folder = Path(entry)
        if folder.is_relative_to(home) and folder != home:
            first = home / folder.relative_to(home).parts[0]
            folder = first if first.name in _HOME_TOOLS or not first.name.startswith(".") else folder
        elif folder.name == "bin" and not _holds_emptied(folder.parent, home):
            folder = folder.parent
        if folder not in seen and folder.is_dir() and not _holds_emptied(folder, home):
            seen.add(folder)
            yield folder


def _holds_emptied(folder: Path, home: Path) -> bool:
    """Whether binding a folder would bring back what is to be empty: a PATH with `~` or `/tmp` in it."""
    real = folder.resolve()
    return any(empty.resolve().is_relative_to(real) for empty in (home, Path("/tmp"), Path("/run")))


def probe(environment: Mapping[str, str], workspace: Path) -> str:
    """The path of a bubblewrap that really works here, found out by running it once in this process.

    Raises SandboxUnavailable with the reason.
    """
    program = find_program("bwrap", environment, workspace)
    if program is None:
        raise SandboxUnavailable("bubblewrap (bwrap) is not installed.", _REMEDY)
    if problem := _trial(program):
        raise SandboxUnavailable(f"bubblewrap does not work here: {problem}.", _REMEDY)
    return program


@functools.cache
def _trial(program: str) -> str | None:
    argv = [
        program,
        "--ro-bind",
        "/",
        "/",
        "--dev",
        "/dev",
        "--proc",
        "/proc",
        "--tmpfs",
        "/tmp",
        *_ISOLATION,
    ]
    try:
        done = subprocess.run(
            [*argv, "--", "/bin/sh", "-c", ":"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PROBE_SECONDS,
            check=False,
            env={"PATH": "/usr/bin:/bin"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return None
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else f"exit {done.returncode}"
