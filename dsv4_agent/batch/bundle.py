"""A commit with its history as bytes, and a repository made of them elsewhere that compares files alike."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Final

from dsv4_agent.batch.checkouts import Base, Checkouts
from dsv4_agent.workbench.exit_codes import OwnSubtype
from dsv4_agent.workbench.failures import RunFailure
from dsv4_agent.workbench.git_command import FROM_FILES, comparison_settings, line_of, run_git

_BASE: Final = "refs/heads/base"
_SENT: Final = "refs/sent"
_WHOLE: Final = "whole"
_IDENTITY: Final = ("name", "email")


@dataclass(frozen=True, slots=True)
class Bundle:
    """What another machine needs to do items on `commit`. `form` is git's object format.

    `shallow` are the commits at which the history was cut (git's file of that name), `settings` lines of a
    `[core]` section, `identity` a name and an address.
    """

    commit: str
    form: str
    data: bytes
    shallow: bytes
    settings: str
    identity: tuple[str, str]

    @property
    def key(self) -> str:
        """The same for all bundles that make the same repository; fit for a file name."""
        parts = (self.form, self.settings, *self.identity, self.shallow.hex())
        return f"{self.commit[:16]}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:8]}"


def bundle_of(checkouts: Checkouts) -> Bundle:
    """The batch's base commit. Raises `RunFailure` (54)."""
    user, shallow = checkouts.base.repository, checkouts.base.shallow_file()
    name, mail = (line_of(checkouts.git, "--git-dir", ".", "config", f"user.{key}") for key in _IDENTITY)
    return Bundle(
        checkouts.base.commit,
        line_of(user, "rev-parse", "--show-object-format") or "sha1",
        _bundled(checkouts, _BASE),
        b"" if shallow is None else shallow.read_bytes(),
        comparison_settings(user),
        (name or "", mail or ""),
    )


def increment_of(checkouts: Checkouts, commit: str) -> bytes:
    """What a later commit of the batch adds to the base. Raises `RunFailure` (54)."""
    ref = f"{_SENT}/{commit}"
    _checked(checkouts.git, "update-ref", run_git(checkouts.git, "--git-dir", ".", "update-ref", ref, commit))
    return _bundled(checkouts, ref, f"^{_BASE}")


def unbundle(bundle: Bundle, folder: Path) -> Base:
    """Make a repository with the bundle's commit, without files. Raises `RunFailure` (54)."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    made = ("init", "-q", "--template=", f"--object-format={bundle.form}", "-b", "none")
    _checked(folder, "init", run_git(folder, *made))
    if bundle.shallow:
        (folder / ".git" / "shallow").write_bytes(bundle.shallow)
    for key, value in zip(_IDENTITY, bundle.identity, strict=True):
        _checked(folder, "config", run_git(folder, "config", f"user.{key}", value))
    with (folder / ".git" / "config").open("a", encoding="utf-8") as file:
        file.write(f"[core]\n{bundle.settings}[gc]\n\tauto = 0\n")
    _fetch(folder, bundle.data, f"{_BASE}:{_BASE}")
    (folder / ".git" / _WHOLE).write_text(bundle.commit, encoding="ascii")
    return Base(folder, bundle.commit, None)


def unbundled(folder: Path) -> Base | None:
    """The repository that `unbundle` made here, if it came to its end."""
    try:
        return Base(folder, (folder / ".git" / _WHOLE).read_text(encoding="ascii"), None)
    except OSError:
        return None


def add_increment(base: Base, data: bytes, commit: str) -> None:
    """Add a later commit to a repository made by `unbundle`. Raises `RunFailure` (54)."""
    _fetch(base.repository, data, f"{_SENT}/{commit}:{_SENT}/{commit}")


def _bundled(checkouts: Checkouts, *what: str) -> bytes:
    done = run_git(checkouts.git, "--git-dir", ".", "bundle", "create", "-q", "-", *what)
    return _checked(checkouts.git, "bundle", done)


def _fetch(folder: Path, data: bytes, refs: str) -> None:
    file = folder / ".git" / f"{hashlib.sha256(refs.encode()).hexdigest()[:16]}.bundle"
    try:
        file.write_bytes(data)
        pull = ("fetch", "-q", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance", str(file), refs)
        _checked(folder, "fetch", run_git(folder, *pull, environment=FROM_FILES))
    except OSError as error:
        cause = f"{folder} can't be written: {error.strerror}"
        raise RunFailure(OwnSubtype.TOOLS, cause, "Free space.") from error
    finally:
        file.unlink(missing_ok=True)


def _checked(folder: Path, name: str, done: CompletedProcess[bytes]) -> bytes:
    if done.returncode == 0:
        return done.stdout
    words = done.stderr.decode("utf-8", "replace").strip().splitlines()
    cause = f"git {name} failed in {folder}: {words[-1] if words else f'exit {done.returncode}'}"
    raise RunFailure(OwnSubtype.TOOLS, cause, "Check the repository with git fsck, and the free space.")
