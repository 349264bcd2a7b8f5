"""The folder the agent works in, and the only door to its files.

Paths are judged after all symbolic links are resolved, and files are then opened component by component
without following links, so a link that is swapped in between leads to an error and not outside.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dsv4_tools.base import ToolError

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_KERNEL_TREES = (Path("/proc"), Path("/sys"), Path("/dev"))


@dataclass(frozen=True, slots=True)
class Located:
    """A path that passed the check: where it really is, and how the model should see it named."""

    real: Path
    shown: str


@dataclass(frozen=True, slots=True)
class Content:
    """A file's bytes with the identity of the version that was read."""

    data: bytes
    version: tuple[int, int, int, int]


class Workspace:
    """A directory tree that file tools stay inside.

    Every method takes what `locate` returned and raises ToolError with a message made for the model.
    """

    def __init__(self, root: str | Path, *, closed: Sequence[Path] = ()) -> None:
        """`closed` folders are shut to every tool where they lie below the root; they need not exist.

        Raises ToolError when `root` is not a directory.
        """
        self._given = Path(os.path.abspath(root))  # noqa: PTH100 - Path.resolve would follow links
        self.root = Path(os.path.realpath(root))
        if not self.root.is_dir():
            raise ToolError(f"{root} is not a directory.")
        real = (Path(os.path.realpath(folder)) for folder in closed)
        self.closed = tuple(folder for folder in real if self.root in folder.parents)

    def is_closed(self, real: Path) -> bool:
        """Whether a resolved path is a closed folder or in one; case is no way around."""
        folded = Path(str(real).casefold())
        return any(folded.is_relative_to(str(folder).casefold()) for folder in self.closed)

    def locate(self, path: str, *, also: Sequence[Path] = ()) -> Located:
        """Resolve `path` (relative to the root, or absolute) and refuse what lies outside.

        `also` names further folders that may be used, for example the one with spilled outputs.
        The path need not exist.
        """
        if not path:
            raise ToolError("path is empty.")
        if "\0" in path:
            raise ToolError("path contains a NUL byte.")
        outside = ToolError(f"{path} is outside the workspace.")
        if path == "~" or path.startswith(("~/", "file:")):
            raise outside
        try:
            lexical = Path(os.path.normpath(self.root / path))
            real = Path(os.path.realpath(self.root / path))
        except (OSError, ValueError) as error:
            raise ToolError(f"{path} is not a usable path: {error}.") from error
        if any(real.is_relative_to(tree) for tree in _KERNEL_TREES):
            raise outside
        for folder in also:
            ours = not real.is_relative_to(self.root) or self.is_closed(real)
            if ours and real.is_relative_to(os.path.realpath(folder)):
                return Located(real, real.as_posix())
        if self.is_closed(real):
            raise ToolError(f"{path} is the agent's own (settings, keys, sessions) and closed to tools.")
        if real.is_relative_to(self.root):
            return Located(real, self._shown(lexical, real))
        raise outside

    def relative(self, real: Path) -> str:
        """The posix path of `real` relative to the root."""
        return real.relative_to(self.root).as_posix()

    def check_writable(self, located: Located) -> None:
        """Refuse Git's own files, however the name is spelt, and the root itself."""
        if located.real == self.root:
            raise ToolError(f"{located.shown} is a directory.")
        if not located.real.is_relative_to(self.root):
            raise ToolError(f"{located.shown} is outside the workspace.")
        names = (*located.real.relative_to(self.root).parts, *Path(located.shown).parts)
        if any(is_git_name(name) for name in names):
            raise ToolError(f"{located.shown} belongs to Git and cannot be written.")

    def read(self, located: Located, *, max_bytes: int | None = None) -> Content:
        """Read a regular file. Directories, devices, pipes, sockets and larger files are refused."""
        with self._parent(located) as directory:
            try:
                descriptor = os.open(
                    located.real.name or ".",
                    os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC,
                    dir_fd=directory,
                )
            except OSError as error:
                raise _named(error, located.shown) from error
        info = os.fstat(descriptor)
        try:
            _require_regular(info, located.shown)
        except ToolError:
            os.close(descriptor)
            raise
        with os.fdopen(descriptor, "rb") as file:
            if max_bytes is not None and info.st_size > max_bytes:
                raise ToolError(
                    f"{located.shown} is too large ({info.st_size:,} bytes; the limit is {max_bytes:,})."
                )
            try:
                return Content(file.read(), _version(info))
            except OSError as error:
                raise _named(error, located.shown) from error

    def size(self, located: Located) -> int:
        """The size in bytes of a regular file; refuses what `read` refuses."""
        try:
            info = os.stat(located.real, follow_symlinks=False)  # noqa: PTH116
        except OSError as error:
            raise _named(error, located.shown) from error
        _require_regular(info, located.shown)
        return info.st_size

    def write(self, located: Located, data: bytes, *, expected: Content | None = None) -> bool:
        """Replace or create a file in one step and say whether it is new.

        The bytes go to a temporary file beside it, are flushed to disk and then renamed over it, so a crash
        or a full disk leaves the old file as it was. Mode, access list and user attributes are kept; missing
        folders are made. A file that its mode protects from this user is refused, as a rename would not. With
        `expected`, a file that changed since it was read is refused.
        """
        self.check_writable(located)
        with self._parent(located, create=True) as directory:
            name = located.real.name
            old = _lstat(name, directory, located.shown)
            if old is not None:
                _require_regular(old, located.shown)
            if expected is not None and (old is None or _version(old) != expected.version):
                raise ToolError(f"{located.shown} changed on disk meanwhile; read it again.")
            try:
                if old is not None:
                    _require_permission(directory, name)
                _replace(directory, name, data, old)
            except OSError as error:
                raise _named(error, located.shown) from error
        return old is None

    def _shown(self, lexical: Path, real: Path) -> str:
        for base in (self.root, self._given):
            if lexical.is_relative_to(base) and os.path.realpath(lexical) == str(real):
                return lexical.relative_to(base).as_posix()
        return self.relative(real)

    @contextlib.contextmanager
    def _parent(self, located: Located, *, create: bool = False) -> Iterator[int]:
        """The directory that holds the file, opened from its base down without following any link."""
        inside = located.real.is_relative_to(self.root)
        base = self.root if inside else located.real.parent
        parts = located.real.relative_to(self.root).parts[:-1] if inside else ()
        try:
            descriptor = os.open(base, _DIRECTORY)
        except OSError as error:
            raise _named(error, located.shown) from error
        try:
            for part in parts:
                try:
                    inner = _enter(descriptor, part, create=create)
                except OSError as error:
                    raise _named(error, located.shown) from error
                os.close(descriptor)
                descriptor = inner
            yield descriptor
        finally:
            os.close(descriptor)


def is_git_name(name: str) -> bool:
    """Whether some file system would take `name` for `.git` (case, look-alikes, ignorable characters)."""
    folded = unicodedata.normalize("NFKC", name)
    folded = "".join(c for c in folded if unicodedata.category(c) not in {"Cf", "Mn", "Cc"})
    folded = folded.casefold().rstrip(". ").split(":", 1)[0]
    return folded in {".git", "git~1"}


def _enter(directory: int, name: str, *, create: bool) -> int:
    try:
        return os.open(name, _DIRECTORY, dir_fd=directory)
    except FileNotFoundError:
        if not create:
            raise
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, dir_fd=directory)
    return os.open(name, _DIRECTORY, dir_fd=directory)


def _require_permission(directory: int, name: str) -> None:
    """Raises OSError where the file itself can't be written: replacing it would only ask its folder."""
    try:
        os.close(os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory))
    except OSError as error:
        if error.errno != errno.ETXTBSY:  # a running program may be replaced
            raise


def _keep_attributes(directory: int, name: str, new: int) -> None:
    """Give the new file the access list and the user's attributes of the old one, where there are any."""
    if not hasattr(os, "listxattr"):
        return
    with contextlib.suppress(OSError):  # not every file system has them; content matters more
        old = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
        try:
            for attribute in os.listxattr(old):
                if attribute.startswith("user.") or attribute == "system.posix_acl_access":
                    os.setxattr(new, attribute, os.getxattr(old, attribute))
        finally:
            os.close(old)


def _replace(directory: int, name: str, data: bytes, old: os.stat_result | None) -> None:
    temporary = f".{name[:100]}.{secrets.token_hex(6)}.tmp"
    mode = stat.S_IMODE(old.st_mode) if old is not None else 0o666
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, mode & 0o777, dir_fd=directory)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if old is not None:
                with contextlib.suppress(OSError):  # only the owner or root may; content matters more
                    os.fchown(descriptor, old.st_uid, old.st_gid)
                os.fchmod(descriptor, mode)
                _keep_attributes(directory, name, descriptor)
            os.fsync(descriptor)
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=directory)
        raise
    with contextlib.suppress(OSError):  # some file systems cannot flush a directory
        os.fsync(directory)


def _lstat(name: str, directory: int, shown: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _named(error, shown) from error


def _version(info: os.stat_result) -> tuple[int, int, int, int]:
    return (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns)


def _require_regular(info: os.stat_result, shown: str) -> None:
    if stat.S_ISDIR(info.st_mode):
        raise ToolError(f"{shown} is a directory.")
    if not stat.S_ISREG(info.st_mode):
        raise ToolError(f"{shown} is not a regular file.")


def _named(error: OSError, shown: str) -> ToolError:
    match error.errno:
        case errno.ENOENT:
            return ToolError(f"{shown} does not exist.")
        case errno.ENOTDIR:
            return ToolError(f"{shown}: a part of the path is not a directory.")
        case errno.EISDIR:
            return ToolError(f"{shown} is a directory.")
        case errno.ELOOP:
            return ToolError(f"{shown} goes through a symbolic link that cannot be followed.")
        case errno.ENXIO:
            return ToolError(f"{shown} is not a regular file.")
        case errno.EACCES | errno.EPERM:
            return ToolError(f"{shown}: permission denied.")
        case errno.EROFS:
            return ToolError(f"{shown}: the file system is read-only.")
        case errno.ENAMETOOLONG:
            return ToolError(f"{shown[:80]}...: the name is too long.")
        case number if number in _NO_SPACE:
            return ToolError(f"{shown} was not written: the disk is full; nothing was changed.")
        case _:
            return ToolError(f"{shown}: {error.strerror or error}.")
