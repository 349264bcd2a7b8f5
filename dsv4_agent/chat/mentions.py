"""`@` mentions: an index of the workspace's files to complete from, and what a mention adds to a prompt.

A mention is `@path` or `@"path with spaces"`. Inside the quotes `\"`, `\\` and the escapes that `plain_line`
writes (`\x1b`, `\u202e`) stand for the characters, so that every file name fits on one harmless line.
"""

from __future__ import annotations

import html
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dsv4_agent.chat.fuzzy import Candidates, Match
from dsv4_agent.workbench.plain_text import plain_line

if TYPE_CHECKING:
    from dsv4_tools.base import ToolError
    from dsv4_tools.workspace import Located, Workspace

_INDEX_LIMIT: Final = 50_000
_MAX_AGE: Final = 5.0
_MENTION: Final = re.compile(r"""(?<![^\s(\[{<'",;:])@(?:"((?:[^"\\\n]|\\.)+)"|([^\s"]+))""")
_PLAIN: Final = re.compile(r"[^\s\"'`\\(){}\[\]<>,;:!?]+")
_ESCAPE: Final = re.compile(
    r"""\\(?:(["\\])|x([0-9a-f]{2})|u([0-9a-f]{4})|U(000[0-9a-f]{5}|0010[0-9a-f]{4}))"""
)
_AFTER_LIMIT: Final = 5
_AFTER: Final = ".,;:!?)]}>'\"`"

FILE_LIMIT: Final = 64 * 1024
"""So many bytes of one file are attached."""
TOTAL_LIMIT: Final = 256 * 1024
"""So many bytes are attached to one prompt."""
_READ_LIMIT: Final = 16 * 1024 * 1024
_ENTRIES_LIMIT: Final = 500
_PATH_LIMIT: Final = 4_096


@dataclass(frozen=True, slots=True)
class Mention:
    """One mention in a text: the path as written, and whether it was in quotes."""

    path: str
    quoted: bool


def mentioned(text: str) -> Iterator[Mention]:
    """Everything in `text` that could be a mention; an `@` inside a word is none."""
    for found in _MENTION.finditer(text):
        if found[1] is not None:
            yield Mention(_unquoted(found[1]), True)
        else:
            yield Mention(found[2], False)


def spellings(mention: Mention) -> Iterator[str]:
    """What the path may be: as written, then without the punctuation that ends a sentence."""
    yield mention.path
    for cut in range(1, 1 if mention.quoted else _AFTER_LIMIT):
        if mention.path[-cut] not in _AFTER or cut >= len(mention.path):
            return
        yield mention.path[:-cut]


def written(path: str) -> str:
    """The mention of `path`, quoted where that is needed."""
    if _PLAIN.fullmatch(path) and plain_line(path) == path and not path.endswith("."):
        return f"@{path}"
    escaped = path.replace("\\", "\\\\").replace('"', '\\"')
    return f'@"{plain_line(escaped)}"'


def _unquoted(text: str) -> str:
    def character(found: re.Match[str]) -> str:
        return found[1] or chr(int(found[2] or found[3] or found[4], 16))

    return _ESCAPE.sub(character, text)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the index held at one moment; `complete` is False where the limit or the time cut it."""

    candidates: Candidates
    complete: bool = True


class MentionIndex:
    """The files and folders of a workspace that ignore rules let through, listed in a thread."""

    def __init__(
        self,
        root: Path,
        *,
        limit: int = _INDEX_LIMIT,
        max_age: float = _MAX_AGE,
        on_ready: Callable[[], None] | None = None,
    ) -> None:
        """Starts nothing. `on_ready` is called in the thread whenever a listing is done."""
        self._root = root
        self._limit = limit
        self._max_age = max_age
        self._on_ready = on_ready
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._made = 0.0
        self.snapshot: Snapshot | None = None

    def refresh(self) -> None:
        """List the workspace again in the background, if what is known is old."""
        with self._lock:
            if self._thread is not None:
                return
            if self.snapshot is not None and time.monotonic() - self._made < self._max_age:
                return
            self._thread = threading.Thread(target=self._build, name="mention-index", daemon=True)
            self._thread.start()

    def wait(self, timeout: float | None = None) -> None:
        """Wait for the listing that runs now, if one does."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout)

    def search(self, query: str, limit: int = 50) -> tuple[Match, ...]:
        """The best matches in what is known so far; folders end with `/`."""
        return () if self.snapshot is None else self.snapshot.candidates.search(query, limit)

    def _build(self) -> None:
        try:
            self.snapshot = list_workspace(self._root, self._limit)
        finally:
            with self._lock:
                self._made = time.monotonic()
                self._thread = None
        if self._on_ready is not None:
            self._on_ready()


def list_workspace(root: Path, limit: int = _INDEX_LIMIT) -> Snapshot:
    """The files below `root` and their folders; links are not followed, ignored files left out."""
    from dsv4_tools.base import (
        ToolError,
    )  # here, because it brings pydantic and the first screen should not wait
    from dsv4_tools.walk import files_under
    from dsv4_tools.workspace import Workspace

    names: dict[str, None] = {}
    complete = True
    try:
        workspace = Workspace(root)
        for path in islice(files_under(workspace, workspace.root), limit + 1):
            folder = path
            while (cut := folder.rfind("/")) > 0:
                folder = folder[:cut]
                if f"{folder}/" in names:
                    break
                names[f"{folder}/"] = None
            names[path] = None
    except (ToolError, OSError, RecursionError):  # what was found until then is still of use
        complete = False
    if len(names) > limit:
        complete = False
    return Snapshot(Candidates(islice(names, limit)), complete)


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file or folder that went into a prompt: how many bytes of it, and whether there were more."""

    path: str
    size: int
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Expanded:
    """A prompt with what it mentions; `problems` are lines for the user."""

    text: str
    attachments: tuple[Attachment, ...] = ()
    problems: tuple[str, ...] = ()


def expand(text: str, workspace: Workspace, *, typed: str | None = None) -> Expanded:
    """Append to `text` every file of the workspace that it mentions, once, within the limits.

    With `typed`, mentions are looked for in it instead: in what the user wrote, not in what was pasted.
    """
    blocks: list[str] = []
    attachments: list[Attachment] = []
    problems: list[str] = []
    seen: set[Path] = set()
    left = TOTAL_LIMIT
    for mention in dict.fromkeys(mentioned(text if typed is None else typed)):
        if len(mention.path) > _PATH_LIMIT:
            continue
        located = _locate(mention, workspace, problems)
        if located is None or located.real in seen:
            continue
        seen.add(located.real)
        name = plain_line(located.shown)
        body = _body(located, workspace, left, name)
        if isinstance(body, str):
            problems.append(body)
            continue
        left -= body.size
        attachments.append(Attachment(located.shown, body.size, bool(body.note)))
        blocks.append(_block(body, name))
        if body.note:
            problems.append(f"@{name}: {body.note}")
    whole = "\n\n".join([text, *blocks]) if blocks else text
    return Expanded(whole, tuple(attachments), tuple(dict.fromkeys(problems)))


@dataclass(frozen=True, slots=True)
class _Body:
    tag: str
    text: str
    size: int
    note: str = ""


def _locate(mention: Mention, workspace: Workspace, problems: list[str]) -> Located | None:
    """The existing file that is meant, if it is inside; what looks like a path out of it is a problem."""
    from dsv4_tools.base import ToolError

    for path in spellings(mention):
        try:
            located = workspace.locate(path)
        except ToolError as error:
            if mention.quoted or "/" in path or os.path.lexists(workspace.root / path):
                problems.append(f"@{plain_line(path, 200)} was not attached: {_reason(error)}")
                return None
            continue
        if os.path.lexists(located.real):
            return located
    if mention.quoted:
        problems.append(f"@{plain_line(mention.path, 200)} was not attached: there is no such file.")
    return None


def _reason(error: ToolError) -> str:
    return plain_line(error.message, 300)


def _body(located: Located, workspace: Workspace, left: int, name: str) -> _Body | str:
    """What to attach, or a line that says why nothing is."""
    from dsv4_tools.base import ToolError
    from dsv4_tools.text import decode, is_binary, visible

    if left <= 0:
        return f"@{name} was not attached: the {TOTAL_LIMIT // 1024} KiB for one prompt are used up."
    try:
        if located.real.is_dir():
            return _listing(located, left)
        data = workspace.read(located, max_bytes=_READ_LIMIT).data
    except ToolError as error:
        return f"@{name} was not attached: {_reason(error)}"
    except OSError as error:
        return f"@{name} was not attached: {error.strerror or error}."
    if is_binary(data):
        return f"@{name} was not attached: it is a binary file."
    kept = _first_lines(data, min(FILE_LIMIT, left))
    note = ""
    if len(kept) < len(data):
        note = f"only the first {len(kept):,} of {len(data):,} bytes are attached"
    # Decoded as a whole: the cut part may hold what tells the encoding.
    source = decode(data)
    shown = kept.removeprefix(source.bom).decode(source.encoding, source.errors if not note else "replace")
    return _Body("file", visible(shown), len(kept), note)


def _first_lines(data: bytes, limit: int) -> bytes:
    if len(data) <= limit:
        return data
    end = data.rfind(b"\n", 0, limit) + 1
    return data[: end or limit]


def _listing(located: Located, left: int) -> _Body:
    descriptor = os.open(located.real, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with os.scandir(descriptor) as entries:
            names = sorted(
                plain_line(entry.name) + ("/" if entry.is_dir(follow_symlinks=False) else "")
                for entry in entries
            )
    finally:
        os.close(descriptor)
    kept: list[str] = []
    size = 0
    for name in names[:_ENTRIES_LIMIT]:
        size += len(name.encode()) + 1
        if size > min(FILE_LIMIT, left):
            break
        kept.append(name)
    note = ""
    if len(kept) < len(names):
        note = f"only the first {len(kept):,} of {len(names):,} entries are attached"
    return _Body("folder", "\n".join(kept), min(size, left), note)


def _block(body: _Body, name: str) -> str:
    """The block as the model reads it. Its tag gets a number where the text holds the closing tag itself."""
    tag, number = body.tag, 1
    while f"</{tag}>" in body.text:
        number += 1
        tag = f"{body.tag}-{number}"
    text = body.text if not body.text or body.text.endswith("\n") else f"{body.text}\n"
    note = f"[{body.note}]\n" if body.note else ""
    return f'<{tag} path="{html.escape(name)}">\n{text}{note}</{tag}>'
