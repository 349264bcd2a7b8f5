"""What every tool is: typed arguments in, one text for the model out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from pydantic import BaseModel

if TYPE_CHECKING:
    from dsv4_tools.sandbox.base import Sandbox
    from dsv4_tools.workspace import Workspace

A = TypeVar("A", bound=BaseModel)


class Effect(StrEnum):
    """The strongest thing a tool can do; permissions key on it."""

    READ = "read"
    WRITE = "write"
    EXECUTE = "execute"


class Status(StrEnum):
    """How a call ended. A command that exits non-zero is `failed`, though the tool itself worked."""

    COMPLETED = "completed"
    FAILED = "failed"
    TIMED_OUT = "timed_out"


class ChangeKind(StrEnum):
    """What happened to a file."""

    ADD = "add"
    UPDATE = "update"
    DELETE = "delete"
    RENAME = "rename"


class ToolError(Exception):
    """A call that could not be done; the message is what the model reads after `Error: `."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    @property
    def text(self) -> str:
        """The result text as the model sees it."""
        return f"Error: {self.message}"


@dataclass(frozen=True)
class FileChange:
    """One file that a call changed; `path` is relative to the workspace, counts are lines.

    `diff` is for people (see `unified_diff`).
    """

    path: str
    kind: ChangeKind
    added: int
    removed: int
    diff: str = ""


@dataclass(frozen=True)
class ToolResult:
    """What a call came to.

    `text` goes to the model. `output_path` names the file that holds the whole output when `text` was cut.
    `match` says how an edit found its place: exact, whitespace, unicode or indent.
    """

    text: str
    status: Status = Status.COMPLETED
    exit_code: int | None = None
    truncated: bool = False
    output_path: Path | None = None
    changes: tuple[FileChange, ...] = ()
    match: str | None = None


def nothing_hidden(path: str) -> bool:
    """No rule keeps any file from the tools."""
    return False


@dataclass(frozen=True)
class ToolContext:
    """What a call may touch: the workspace, a private folder for long outputs, a sandbox, an environment.

    `hidden` says of a path relative to the workspace that a rule keeps it from this call: what goes through
    many files leaves it out.
    """

    workspace: Workspace
    spill_dir: Path
    sandbox: Sandbox
    environment: Mapping[str, str]
    hidden: Callable[[str], bool] = nothing_hidden

    def visible(self, paths: Iterable[str]) -> tuple[list[str], str | None]:
        """The paths that are not hidden, and a line for the model about those that are."""
        every = list(paths)
        kept = [path for path in every if not self.hidden(path)]
        count = len(every) - len(kept)
        if not count:
            return kept, None
        return kept, f"[{count} {'file' if count == 1 else 'files'} left out: a rule denies it]"

    def require_writable(self) -> None:
        """Raises ToolError in a read-only session: file tools obey the sandbox's rules, sandboxed or not."""
        if self.sandbox.policy == "read-only":
            raise ToolError("this session is read-only (--sandbox read-only).")


class Tool(ABC, Generic[A]):
    """One capability. Stateless: everything a call needs comes with its arguments and its context."""

    name: ClassVar[str]
    Args: ClassVar[type[BaseModel]]
    effect: ClassVar[Effect]

    @abstractmethod
    async def run(self, args: A, context: ToolContext) -> ToolResult:
        """Do the call. Raises ToolError for anything that the model can react to.

        Cancelling the task cancels the call; processes that it started are gone when that returns.
        """

    async def preview(self, args: A, context: ToolContext) -> tuple[FileChange, ...]:
        """What `run` would change in files, changing nothing; empty where that can't be known beforehand.

        Raises ToolError where `run` would.
        """
        return ()
