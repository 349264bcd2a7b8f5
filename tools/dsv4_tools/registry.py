"""The tools that every session has, in the order the model is shown them."""

from __future__ import annotations

from typing import Any

from dsv4_tools.base import Tool
from dsv4_tools.edit import Edit
from dsv4_tools.git_commit import GitCommit
from dsv4_tools.git_diff import GitDiff
from dsv4_tools.git_log import GitLog
from dsv4_tools.git_show import GitShow
from dsv4_tools.git_status import GitStatus
from dsv4_tools.glob import Glob
from dsv4_tools.grep import Grep
from dsv4_tools.outline import Outline
from dsv4_tools.read import Read
from dsv4_tools.shell import Shell
from dsv4_tools.symbols import Symbols
from dsv4_tools.write import Write


def default_tools() -> dict[str, Tool[Any]]:
    """A fresh set of the built-in tools by name."""
    tools: tuple[Tool[Any], ...] = (
        Shell(),
        Read(),
        Write(),
        Edit(),
        Grep(),
        Glob(),
        Outline(),
        Symbols(),
        GitStatus(),
        GitDiff(),
        GitLog(),
        GitShow(),
        GitCommit(),
    )
    return {tool.name: tool for tool in tools}
